"""What train.py, evaluate.py and detect.py are made of: devices, processes, the step, an epoch, logits on disk."""
