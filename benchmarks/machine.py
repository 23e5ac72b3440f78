"""What the machine can do at best, and what a step asks of it."""
import time

import torch
from torch.utils.flop_counter import FlopCounterMode


def matrix_rate(device, dtype):
    """FLOP/s of the largest of twenty products of two large square matrices."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        wait_for(device)
        started = time.perf_counter()
        a @ b
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def flops_of(function):
    """Multiplications and additions of the matrix products and convolutions that a call does, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def wait_for(device):
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
