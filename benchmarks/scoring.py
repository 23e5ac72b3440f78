"""AUROC, AUPR and FPR95 of every score of two test sets: one sort per score, compared with other libraries; and the
published rules, compared with a loop over samples."""
import importlib.util

import numpy as np
import torch
from scipy.integrate import trapezoid
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from benchmarks.timing import alternate, summary
from losses.calibration import SCORES
from metrics.detection import detection_metrics
from metrics.published import published_detection_metrics

CPU = torch.device("cpu")
OPENOOD_RULE, POOD, TORCHMETRICS = "OpenOOD's rule by scikit-learn", "pytorch-ood", "torchmetrics"
LOOP = "a loop over sorted samples"


def run(machine, device, quick):
    for baseline, (_, _, package) in COMPARISONS.items():
        what = "metrics by the published rules" if baseline == LOOP else "metrics"
        row = {"what": f"{what}, 10,000 + 10,000 samples", "unit": "scores/s"}
        if importlib.util.find_spec(package) is None:
            yield {**row, "baseline": baseline, "not_measured": f"needs the package {package}"}
            continue
        rates = alternate(fns(10_000, baseline), 5 if quick else 21, CPU)
        yield {**row, **summary(rates, baseline)}


def fns(count, baseline):
    """name → function that finds the metrics of all scores and says how many scores.

    AssertionError when ours and the baseline find different metrics.
    """
    rng = np.random.default_rng(0)
    logits = [torch.from_numpy(rng.normal(0, spread, (count, 10))) for spread in (3, 2)]
    scores = [[score(z).numpy() for z in logits] for score in SCORES.values()]
    ours, theirs, _ = COMPARISONS[baseline]
    for id_scores, ood_scores in scores[:2]:
        found, expected = ours(id_scores, ood_scores), theirs(id_scores, ood_scores)
        for name, value in expected.items():
            # areas under precision-recall are sums of steps in the packages and trapezoids in ours, as in the papers
            tolerance = 1e-3 if name.startswith("aupr") and baseline in (POOD, TORCHMETRICS) else 1e-6
            assert abs(found[name] - value) < tolerance, f"two different {name}: {found[name]} and {value}"

    def whole(function):
        def fn():
            for id_scores, ood_scores in scores:
                function(id_scores, ood_scores)
            return len(scores)
        return fn

    return {"ours": whole(ours), baseline: whole(theirs)}


def openood_rule(id_scores, ood_scores):
    """OpenOOD 1.5's metrics: out-of-distribution samples are positive; three curves of scikit-learn, trapezoids."""
    scores, is_ood = np.concatenate([id_scores, ood_scores]), np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    fpr, tpr, _ = roc_curve(is_ood, -scores)
    precision_in, recall_in, _ = precision_recall_curve(1 - is_ood, scores)
    precision_out, recall_out, _ = precision_recall_curve(is_ood, -scores)
    return {"auroc": auc(fpr, tpr), "aupr_in": auc(recall_in, precision_in),
            "aupr_out": auc(recall_out, precision_out), "fpr95": fpr[np.argmax(tpr >= 0.95)]}


def by_pytorch_ood(id_scores, ood_scores):
    """The four metrics that both have, of pytorch_ood.metrics.OODMetrics."""
    from pytorch_ood.metrics.functional import aupr, auroc, fpr_at_tpr

    outlier_scores = -torch.from_numpy(np.concatenate([id_scores, ood_scores]))
    labels = torch.ones(len(outlier_scores), dtype=torch.long)
    labels[len(id_scores) :] = -1
    return {"auroc": auroc(outlier_scores, labels).item(), "aupr_in": aupr(outlier_scores, labels, "id").item(),
            "aupr_out": aupr(outlier_scores, labels, "ood").item(),
            "fpr95": fpr_at_tpr(outlier_scores, labels, 0.95).item()}


def by_torchmetrics(id_scores, ood_scores):
    """AUROC, two average precisions and a ROC curve of scores in [0, 1], which torchmetrics would else put through a
    sigmoid."""
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc

    outlier = torch.from_numpy(np.concatenate([id_scores, ood_scores]))
    outlier = (outlier.max() - outlier) / (outlier.max() - outlier.min())
    is_ood = torch.zeros(len(outlier), dtype=torch.long)
    is_ood[len(id_scores) :] = 1
    fpr, tpr, _ = binary_roc(outlier, is_ood)
    return {"auroc": binary_auroc(outlier, is_ood).item(),
            "aupr_in": binary_average_precision(1 - outlier, 1 - is_ood).item(),
            "aupr_out": binary_average_precision(outlier, is_ood).item(),
            "fpr95": fpr[(tpr >= 0.95).nonzero()[0, 0]].item()}


def published_loop(id_scores, ood_scores):
    """The curve of DisMax's evaluation, sample by sample: at each the lowest is no longer accepted, and at a tie the
    in-distribution one goes first."""
    inside, outside = sorted(id_scores.tolist()), sorted(ood_scores.tolist())
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


# baseline → ours, the baseline's function, the package that it needs
COMPARISONS = {
    OPENOOD_RULE: (detection_metrics, openood_rule, "sklearn"),
    POOD: (detection_metrics, by_pytorch_ood, "pytorch_ood"),
    TORCHMETRICS: (detection_metrics, by_torchmetrics, "torchmetrics"),
    LOOP: (published_detection_metrics, published_loop, "scipy"),
}
