"""The parts of train.py, evaluate.py and detect.py: devices, ranks, the training step, checkpoints, logits."""
