"""Metrics by the rules of the papers' own evaluations, for the columns under the published protocol.

DisMax's detection metrics differ from metrics.detection in three ways: a tie counts against the in-distribution sample;
the precision-recall areas end in fixed points, (recall 0, precision 0) and (recall 1, precision ½); TNR is read at the
curve point whose TPR is nearest to 95 %. On scores without ties the areas agree to about 1e-4; a float32 softmax makes
many ties.
"""
from typing import NamedTuple

import numpy as np
from scipy.integrate import trapezoid
from scipy.optimize import minimize

from .calibration import TEMPERATURES, binned_gap, checked_labels, checked_probabilities, log_losses
from .detection import checked_scores


class PublishedTemperature(NamedTuple):
    """The result of DisMax's release for a run: `temperature`, its `ece` (a fraction), and whether it is `dropped`."""

    temperature: float
    ece: float
    dropped: bool


def published_temperature(logits, labels):
    """The temperature by DisMax's calibrate.py: its local search for the least ECE, and its dropping rule.

    SciPy's L-BFGS-B minimizes the expected calibration error from T = 1 with bounds [0.001, 100] and the default
    gradient (differences over 1e-8). The error has jumps, so the search may stop far from the minimum. A run whose T
    ends at a bound has no row in the release's table: it is `dropped`. `fit_temperature(…, "ece")` is the true minimum.

    Args:
        logits: (n, C); labels: (n) integers.

    Returns:
        PublishedTemperature. ValueError as `fit_temperature`.
    """
    logits, labels = checked_labels(logits, labels)
    shifted, correct = logits - logits.max(1, keepdims=True), logits.argmax(1) == labels

    def ece(t):
        return binned_gap(1 / np.exp(shifted / t).sum(1), correct)  # the largest probability is exp(0) over the sum

    found = minimize(ece, np.ones(1), method="L-BFGS-B", bounds=[TEMPERATURES])
    lowest, highest = TEMPERATURES
    return PublishedTemperature(float(found.x[0]), float(found.fun), not lowest < found.x[0] < highest)


def published_detection_metrics(id_scores, ood_scores):
    """As `detection_metrics`, without `fpr95`, by the published rules. Scores are larger for in-distribution."""
    id_scores, ood_scores = checked_scores(id_scores, "id_scores"), checked_scores(ood_scores, "ood_scores")
    n, m = len(id_scores), len(ood_scores)
    is_out = np.repeat([0, 1], [n, m])
    # ascending; at a tie the in-distribution sample first, since a stable sort leaves it so
    order = np.argsort(np.concatenate([id_scores, ood_scores]), kind="stable")
    # raise the threshold over one sample after the other: how many of each class stay accepted, n + m + 1 points
    in_left = n - np.concatenate([[0], np.cumsum(1 - is_out[order])])
    out_left = m - np.concatenate([[0], np.cumsum(is_out[order])])
    tpr, fpr = in_left / n, out_left / m
    precision_in = in_left[:-1] / (in_left + out_left)[:-1]
    precision_out = (m - out_left[1:]) / (n - in_left + m - out_left)[1:]
    return {
        "auroc": float(trapezoid(tpr[::-1], fpr[::-1])),
        "aupr_in": float(-trapezoid(np.r_[0.5, precision_in, 0], np.r_[1, tpr[:-1], 0])),
        "aupr_out": float(trapezoid(np.r_[0, precision_out, 0.5], np.r_[0, 1 - fpr[1:], 1])),
        "tnr95": float(1 - fpr[np.argmin(np.abs(tpr - 0.95))]),
        "dtacc": float((tpr + 1 - fpr).max() / 2),
    }


def published_calibration_error(probabilities, labels, bins=15):
    """SDDE's expected calibration error: bins are [lo, hi), so samples with a confidence of exactly 1, which are common
    in float32, are not counted. A fraction of the counted samples; 0 if none of them counts. Takes probabilities (n, C)
    and labels (n); ValueError as `metrics.calibration`'s."""
    probabilities, labels = checked_probabilities(probabilities, labels)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    counted = confidence < 1
    index = np.searchsorted(np.linspace(0, 1, bins + 1), confidence[counted], side="right") - 1
    gap = np.bincount(index, confidence[counted] - correct[counted], bins)
    return float(np.abs(gap).sum() / max(counted.sum(), 1))


def published_negative_log_likelihood(logits, labels, batch=64):
    """SDDE's test loss: the mean over batches of their means, so a short last batch has the weight of a full one."""
    starts = np.arange(0, len(labels), batch)
    sums = np.add.reduceat(log_losses(logits, labels), starts)
    return float(np.mean(sums / np.diff(starts, append=len(labels))))
