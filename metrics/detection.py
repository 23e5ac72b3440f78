"""Metrics of how well a score separates in-distribution from out-of-distribution samples."""
import numpy as np
from scipy.integrate import trapezoid


def detection_metrics(id_scores, ood_scores):
    """Threshold-free and 95 % metrics of a score that is larger for in-distribution samples.

    Args:
        id_scores, ood_scores: one number per sample, any shape, at least one each; arrays or CPU tensors.

    Returns:
        dict of fractions in [0, 1]. Equal scores are one step of the curve, so a tie counts half.
        auroc     P(in > out) + ½·P(in = out); it does not depend on which class is positive.
        aupr_in   area under the precision-recall curve, in-distribution positive; by trapezoids, as in both papers.
        aupr_out  the same, out-of-distribution positive (with the negated score).
        fpr95     out-of-distribution positive: share of *in* samples rejected at the first threshold that rejects at
                  least 95 % of the out samples (OpenOOD 1.5, SDDE). Lower is better.
        tnr95     in-distribution positive: share of *out* samples rejected at the first threshold that accepts at
                  least 95 % of the in samples (DisMax). Higher is better; not 1 − fpr95.
        dtacc     detection accuracy: mean of the accepted share of in samples and the rejected share of out samples,
                  at the best threshold.

    Raises:
        ValueError: one of the two is empty or holds NaN or infinity.
    """
    id_scores, ood_scores = checked_scores(id_scores, "id_scores"), checked_scores(ood_scores, "ood_scores")
    n, m = len(id_scores), len(ood_scores)
    scores = np.concatenate([id_scores, ood_scores])
    order = np.argsort(scores)[::-1]  # the one sort: everything below is sums along it
    ordered = scores[order]
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), n + m - 1)  # of each group of equal scores
    in_accepted = np.concatenate([[0], np.cumsum(order < n)[last]])  # from nobody to everybody
    out_accepted = np.concatenate([[0], last + 1]) - in_accepted
    # flagged are those not accepted: the same points, read from the other end
    in_flagged, out_flagged = n - in_accepted[::-1], m - out_accepted[::-1]
    return {
        "auroc": float(trapezoid(in_accepted / n, out_accepted / m)),
        "aupr_in": _area_under_precision_recall(in_accepted, out_accepted),
        "aupr_out": _area_under_precision_recall(out_flagged, in_flagged),
        "fpr95": float(in_flagged[np.argmax(out_flagged / m >= 0.95)] / n),
        "tnr95": float(1 - out_accepted[np.argmax(in_accepted / n >= 0.95)] / m),
        "dtacc": float((in_accepted / n + 1 - out_accepted / m).max() / 2),
    }


def _area_under_precision_recall(hits, alarms):
    """From the counts at every threshold, the first of which is (0, 0); precision starts at 1."""
    precision = np.concatenate([[1], hits[1:] / (hits + alarms)[1:]])
    return float(trapezoid(precision, hits / hits[-1]))


def checked_scores(scores, name):
    """(n) float64 of scores of any shape. ValueError when there are none, or NaN or infinite ones."""
    scores = np.asarray(scores, dtype=np.float64).ravel()
    if scores.size == 0:
        raise ValueError(f"{name} is empty: there is no sample to separate")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} holds {np.sum(~np.isfinite(scores))} NaN or infinite values of {scores.size}")
    return scores
