"""How well one score tells in-distribution from out-of-distribution samples."""
import numpy as np
from sklearn.metrics import auc, precision_recall_curve, roc_curve


def detection_metrics(in_scores, out_scores):
    """Threshold-free and 95 % metrics of a score that is larger for in-distribution samples.

    Args:
        in_scores, out_scores: one number a sample, any shape, at least one each; arrays or CPU tensors.

    Returns:
        dict of fractions in [0, 1]. Equal scores count as a curve through their joint step, so ties cost and gain half.
        auroc     P(in > out) + ½·P(in = out); the same whichever class is called positive.
        aupr_in   area under precision-recall, in-distribution positive; trapezoids, as both papers integrate.
        aupr_out  the same, out-of-distribution positive (score = minus the score).
        fpr95     out-of-distribution positive: share of *in* samples flagged at the first threshold that catches at
                  least 95 % of the out samples (OpenOOD 1.5, SDDE). Lower is better.
        tnr95     in-distribution positive: share of *out* samples rejected at the first threshold that accepts at
                  least 95 % of the in samples (DisMax). Higher is better; not 1 − fpr95.
        dtacc     detection accuracy: the largest mean of the two classes' hit rates over all thresholds.

    Raises:
        ValueError: a side is empty or holds NaN or infinity.
    """
    in_scores, out_scores = _checked(in_scores, "in_scores"), _checked(out_scores, "out_scores")
    scores = np.concatenate([in_scores, out_scores])
    is_in = np.repeat([1, 0], [len(in_scores), len(out_scores)])
    # rates of the class named, from the strictest threshold to the loosest
    out_accepted, in_accepted, _ = roc_curve(is_in, scores, drop_intermediate=False)
    in_flagged, out_flagged, _ = roc_curve(1 - is_in, -scores, drop_intermediate=False)
    return {
        "auroc": float(auc(out_accepted, in_accepted)),
        "aupr_in": _area_under_precision_recall(is_in, scores),
        "aupr_out": _area_under_precision_recall(1 - is_in, -scores),
        "fpr95": float(in_flagged[np.argmax(out_flagged >= 0.95)]),
        "tnr95": float(1 - out_accepted[np.argmax(in_accepted >= 0.95)]),
        "dtacc": float((in_accepted + 1 - out_accepted).max() / 2),
    }


def _area_under_precision_recall(positive, scores):
    precision, recall, _ = precision_recall_curve(positive, scores)
    return float(auc(recall, precision))


def _checked(scores, name):
    scores = np.asarray(scores, dtype=np.float64).ravel()
    if scores.size == 0:
        raise ValueError(f"{name} is empty: no sample to tell apart")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} holds {np.sum(~np.isfinite(scores))} NaN or infinite values of {scores.size}")
    return scores
