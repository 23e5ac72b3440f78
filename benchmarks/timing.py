"""Times that can be believed on a noisy machine: the ways take turns, and what is quoted is the median ratio."""
import statistics
import time

from benchmarks.machine import wait_for
from engine.devices import keep_freed_memory


def take_turns(ways, rounds, device):
    """Run every way twice a round, `rounds` times; the second of the two counts, as it finds memory and caches as it
    left them.

    Args:
        ways: name → function that returns how much it did (images, steps). Only "ours" keeps freed memory, as our
            scripts do.

    Returns:
        name → list of rates, amount a second, one a round.
    """
    rates = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            keep_freed_memory(name == "ours")
            way()
            wait_for(device)
            started = time.perf_counter()
            amount = way()
            wait_for(device)
            rates[name].append(amount / (time.perf_counter() - started))
    return rates


def summary(rates, ours, theirs):
    """Median rate of each way and the median over rounds of ours/theirs, with its range."""
    ratios = [a / b for a, b in zip(rates[ours], rates[theirs])]
    return {
        "rates": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios), "rounds": len(ratios),
    }
