"""The temperature with the least expected calibration error, of all temperatures and not of those on a grid.

ECE(T) has many valleys. It is piecewise smooth, with a jump wherever the confidence of a sample crosses the edge of a
bin, so neither a coarse grid nor a descent finds its minimum. But every confidence falls with T. Between two
temperatures each sample therefore lies between its two confidences, which bounds the ECE from below. Intervals whose
bound is not below the best value found so far are dropped, the others are halved (branch and bound).

Confidences in between come from cubic Hermite interpolation of ln Σ exp(z/T) over ln T. The values of the best
candidates are computed again without it.
"""
import numpy as np
from scipy.interpolate import CubicHermiteSpline

from .calibration import binned_gap

STEP = 1 / 8  # of ln T between exact values; the interpolation errs by less than 1e-5 in a probability
CLOSE = 0.005  # an ECE that is at most so much lower, relatively, is not searched for …
NEGLIGIBLE = 1e-7  # … nor one that is at most so much lower
DEEPEST = 18  # halvings: steps of ln T below 1e-6
CANDIDATES = 16  # whose ECE is computed exactly
MOST_INTERVALS = 4096  # at one depth; keeps the most promising (never reached by logits of a network)


def least_ece_temperature(shifted, correct, bounds, bins=15):
    """The temperature in `bounds` whose ECE is within 1 % of the least, or 1.0 where none is better than 1.

    Args:
        shifted: (n, C) float64 logits minus the largest of each sample.
        correct: (n) booleans, whether the largest is the label's.
        bounds: (lowest, highest) temperature.
        bins: of equal width, (lo, hi].
    """
    low, high = np.log(bounds)
    nodes = np.linspace(low, high, int(np.ceil((high - low) / STEP)) + 1)
    log_normaliser = CubicHermiteSpline(nodes, *_exact(shifted, nodes))

    def confidences(log_t):
        """(m) → (m, n)"""
        return np.exp(-np.maximum(log_normaliser(log_t), 0))

    left, right = nodes[:-1], nodes[1:]
    found = {}  # ln T → ECE
    for _ in range(DEEPEST):
        survivors = []
        for part in np.array_split(np.arange(len(left)), np.ceil(len(left) * len(correct) / 1e6)):
            upper, lower = confidences(left[part]), confidences(right[part])
            found |= zip(left[part], binned_gap(upper, correct, bins))
            found |= zip(right[part], binned_gap(lower, correct, bins))
            survivors.append(_lower_bounds(upper, lower, correct, bins))
        bound, best = np.concatenate(survivors), min(found.values())
        kept = np.flatnonzero(bound < best * (1 - CLOSE) - NEGLIGIBLE)
        kept = np.sort(kept[np.argsort(bound[kept], kind="stable")[:MOST_INTERVALS]])
        if not len(kept):
            break
        middle = (left[kept] + right[kept]) / 2
        left, right = np.stack([[left[kept], middle], [middle, right[kept]]]).transpose(0, 2, 1).reshape(2, -1)
    promising = sorted(found, key=lambda t: (found[t], abs(t)))[:CANDIDATES]
    exact = {t: float(binned_gap(np.exp(-_log_normaliser(shifted, t)), correct, bins)) for t in {0.0, *promising}}
    return float(np.exp(min(exact, key=lambda t: (exact[t], abs(t)))))  # of equal ones the nearest to T = 1


def _lower_bounds(upper, lower, correct, bins):
    """Below which no ECE lies while every confidence stays between `lower` and `upper`, (m, n) each → (m).

    A bin's gap is |Σ confidence − Σ correct| over its samples. Those that stay in it contribute between lower − correct
    and upper − correct; those that may be in it or in another contribute anything between that and 0.
    """
    m, n = upper.shape
    first, last = _bin_of(lower, bins), _bin_of(upper, bins)  # (m, n), first ≤ last
    rows, stays = np.arange(m)[:, None] * bins, first == last
    smallest, largest = lower - correct, upper - correct
    least = np.bincount((rows + first)[stays], smallest[stays], m * bins).reshape(m, bins).astype(float)  # of none: int
    most = np.bincount((rows + first)[stays], largest[stays], m * bins).reshape(m, bins).astype(float)
    row, column = np.nonzero(~stays)
    for total, part in ((least, np.minimum(smallest[row, column], 0)), (most, np.maximum(largest[row, column], 0))):
        ends = np.zeros((m, bins + 1))  # a crossing sample counts in bins first … last: differences, then sums
        np.add.at(ends, (row, first[row, column]), part)
        np.add.at(ends, (row, last[row, column] + 1), -part)
        total += ends.cumsum(1)[:, :bins]
    return np.maximum(np.maximum(least, -most), 0).sum(1) / n


def _bin_of(confidence, bins):
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # bin k is (k/bins, (k+1)/bins]


def _exact(shifted, nodes):
    """ln Σ exp(z/T) and its derivative by ln T, at each node: (K, n) each."""
    values, slopes = np.empty((2, len(nodes), len(shifted)))
    scaled, weights = np.empty((2, *shifted.shape))  # written to again and again: fresh memory costs as much as exp
    for k, log_t in enumerate(nodes):
        np.multiply(shifted, np.exp(-log_t), out=scaled)  # ≤ 0
        total = np.exp(scaled, out=weights).sum(1)
        values[k], slopes[k] = np.log(total), -np.einsum("nc,nc->n", weights, scaled) / total
    return values, slopes


def _log_normaliser(shifted, log_t):
    return np.log(np.exp(shifted * np.exp(-log_t)).sum(1))
