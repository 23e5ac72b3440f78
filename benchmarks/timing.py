"""Times that can be believed on a noisy machine: the ways take turns, and what is quoted is the median ratio."""
import statistics
import time

import torch


def take_turns(ways, rounds, device):
    """Run every way once a round, `rounds` times after one warm-up round.

    Args:
        ways: name → function that returns how much it did (images, steps).

    Returns:
        name → list of rates, amount a second, one a round.
    """
    rates = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            amount = way()
            if device.type != "cpu":
                torch.get_device_module(device).synchronize(device)
            if turn:
                rates[name].append(amount / (time.perf_counter() - started))
    return rates


def summary(rates, ours, theirs):
    """Median rate of each way and the median over rounds of ours/theirs, with its range."""
    ratios = [a / b for a, b in zip(rates[ours], rates[theirs])]
    return {
        "rates": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios), "rounds": len(ratios),
    }
