"""AUROC, AUPR and FPR95 of every score of two test sets: one sort a score, against a curve for each metric; and the
published rules, in one sort against the published kind of loop."""
import numpy as np
import torch
from scipy.integrate import trapezoid
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from benchmarks.timing import summary, take_turns
from metrics.detection import detection_metrics
from metrics.published import published_detection_metrics
from metrics.scores import SCORES

CURVES = "scikit-learn's curves"
LOOP = "a loop over sorted samples"


def run(device, quick):
    rounds = 5 if quick else 21
    for what, theirs in (("metrics", CURVES), ("metrics by the published rules", LOOP)):
        rates = take_turns(ways(10_000, theirs), rounds, torch.device("cpu"))
        yield {"what": f"{what}, 10,000 + 10,000 samples", "unit": "scores/s", "against": theirs, "target": None,
               **summary(rates, "ours", theirs)}


def ways(count, theirs):
    """name → function that finds the metrics of all scores and says how many scores."""
    rng = np.random.default_rng(0)
    logits = [torch.from_numpy(rng.normal(0, spread, (count, 10))) for spread in (3, 2)]
    scores = [[score(z).numpy() for z in logits] for score in SCORES.values()]
    pair = {CURVES: (detection_metrics, curves), LOOP: (published_detection_metrics, published_loop)}[theirs]
    for in_scores, out_scores in scores[:2]:
        found, expected = pair[0](in_scores, out_scores), pair[1](in_scores, out_scores)
        assert all(abs(found[name] - value) < 1e-9 for name, value in expected.items()), "two different metrics"

    def way(function):
        def whole():
            for in_scores, out_scores in scores:
                function(in_scores, out_scores)
            return len(scores)
        return whole

    return {"ours": way(pair[0]), theirs: way(pair[1])}


def curves(in_scores, out_scores):
    """As most evaluation scripts do it."""
    scores, is_in = np.concatenate([in_scores, out_scores]), np.repeat([1, 0], [len(in_scores), len(out_scores)])
    false, true, _ = roc_curve(1 - is_in, -scores, drop_intermediate=False)
    precision_in, recall_in, _ = precision_recall_curve(is_in, scores)
    precision_out, recall_out, _ = precision_recall_curve(1 - is_in, -scores)
    return {"auroc": roc_auc_score(is_in, scores), "aupr_in": auc(recall_in, precision_in),
            "aupr_out": auc(recall_out, precision_out), "fpr95": false[np.argmax(true >= 0.95)]}


def published_loop(in_scores, out_scores):
    """The curve of DisMax's evaluation, sample by sample: at each the lowest is no longer accepted, and at a tie the
    in-distribution one goes first."""
    inside, outside = sorted(in_scores.tolist()), sorted(out_scores.tolist())
    n, m = len(inside), len(outside)
    tpr, fpr, i, o = [1.0], [1.0], 0, 0
    while i < n or o < m:
        if o == m or (i < n and inside[i] <= outside[o]):
            i += 1
        else:
            o += 1
        tpr.append((n - i) / n)
        fpr.append((m - o) / m)
    tpr, fpr = np.array(tpr), np.array(fpr)
    return {"auroc": -trapezoid(tpr, fpr), "tnr95": 1 - fpr[np.argmin(np.abs(tpr - 0.95))],
            "dtacc": ((tpr + 1 - fpr) / 2).max()}
