"""Robust times on a noisy machine: functions are timed alternately, and the median ratio is reported."""
import statistics
import time

from engine.devices import keep_freed_memory, synchronize


def alternate(fns, rounds, device):
    """Call every function twice a round, `rounds` times; the second of the two counts, as it finds memory and caches as
    it left them.

    Args:
        fns: name → function that returns how much it did (images, steps). Only "ours" keeps freed memory, as our
            scripts do.

    Returns:
        name → list of rates, amount a second, one a round.
    """
    rates = {name: [] for name in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            keep_freed_memory(name == "ours")
            fn()
            synchronize(device)
            started = time.perf_counter()
            amount = fn()
            synchronize(device)
            rates[name].append(amount / (time.perf_counter() - started))
    return rates


def summary(rates, baseline):
    """Part of a row of results: the median rate of each function, and the median over rounds of ours/baseline with its
    range."""
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[baseline])]
    return {
        "baseline": baseline, "values": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios), "rounds": len(ratios),
    }
