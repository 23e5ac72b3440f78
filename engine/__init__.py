"""What train.py, evaluate.py and detect.py are made of: devices, ranks, the step, checkpoints, logits."""
