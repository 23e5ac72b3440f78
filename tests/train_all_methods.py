"""Trains every method for two epochs of uneven batches, in float64; a script for test_parallel_methods.py.

  PYTHONPATH=. [torchrun …] tests/train_all_methods.py FOLDER [MICRO_BATCH]
"""
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from conftest import run_like

from data.loaders import ResidentImages
from engine import distributed
from engine.console import StopSignals
from engine.train_step import ExecutionOptions
from recipes import METHODS, method_of
from train import train

COMBINED = ("dismax_fpr-2-gradcam-digits", "dismax_fpr-2-adp", "dismax_fpr-2-dice", "dismax-2-dice")
CPU = torch.device("cpu")


def images(count, seed):
    """Noise of 28×28 pixels, each class of another brightness."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 5
    pixels = rng.integers(0, 128, (count, 28, 28, 1)) + 25 * labels[:, None, None, None]
    return ResidentImages(pixels.astype(np.uint8), labels, CPU, 28, ((0.5,) * 3, (0.5,) * 3))


def settings(name, folder, micro_batch):
    """Two members; 29 images in batches of 16 and 13, which no two ranks share evenly; 23 outliers in 9, 9 and 5."""
    members = min(method_of(name)[1].members, 2)
    run = run_like(name, choices={"members": members}, batch_size=16, epochs=2, lr=0.2, micro_batch=micro_batch,
                   milestones=(), clip=0.5)
    changes = {"outlier_batch": 9} if run.method.outliers != "none" else {}
    if run.recipe.per_class:
        changes |= {"per_class": 4, "ramp_epochs": 1, "discriminator_lr": 1e-3}
    return replace(run, name=name, folder=Path(folder) / name, recipe=run.recipe.changed(**changes))


def main(folder, micro_batch=0):
    torch.set_default_dtype(torch.float64)
    distributed.start()
    for name in (*METHODS, *COMBINED):
        run = settings(name, folder, int(micro_batch))
        outliers = images(23, 3) if run.method.outliers != "none" else None
        config = {**run.record(), "num_classes": 5, "data": {}}
        train(run, config, (images(29, 1), images(9, 2), outliers), CPU, ExecutionOptions(), StopSignals())


if __name__ == "__main__":
    main(*sys.argv[1:])
