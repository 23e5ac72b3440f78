"""Detection metrics against ten plain lines, against the published code's printed values, and at their edges."""
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from metrics.detection import detection_metrics
from metrics.published import published_detection_metrics


def random_scores(seed, ties):
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(1, 1, 57), rng.normal(0, 1.3, 83)
    return (inside.round(), outside.round()) if ties else (inside, outside)


def naive_auroc(inside, outside):
    return np.mean([[(i > o) + 0.5 * (i == o) for o in outside] for i in inside])


def naive_curve(inside, outside):
    """(share of in accepted, share of out accepted) at every distinct threshold, strictest first."""
    thresholds = [np.inf, *sorted(set(inside) | set(outside), reverse=True)]
    return [(np.mean(inside >= t), np.mean(outside >= t)) for t in thresholds]


def naive_aupr(positive, negative):
    points = [(0.0, 1.0)]  # recall, precision
    for t in sorted(set(positive) | set(negative), reverse=True):
        hits, alarms = np.sum(positive >= t), np.sum(negative >= t)
        points.append((hits / len(positive), hits / (hits + alarms)))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:]))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_detection_against_naive_references(seed, ties):
    inside, outside = random_scores(seed, ties)
    found = detection_metrics(inside, outside)
    curve = naive_curve(inside, outside)
    assert found["auroc"] == pytest.approx(naive_auroc(inside, outside))
    assert found["aupr_in"] == pytest.approx(naive_aupr(inside, outside))
    assert found["aupr_out"] == pytest.approx(naive_aupr(-outside, -inside))
    assert found["tnr95"] == pytest.approx(1 - next(o for i, o in curve if i >= 0.95))
    flagged = naive_curve(-outside, -inside)  # (share of out flagged, share of in flagged)
    assert found["fpr95"] == pytest.approx(next(i for o, i in flagged if o >= 0.95))
    assert found["dtacc"] == pytest.approx(max((i + 1 - o) / 2 for i, o in curve))


@pytest.mark.parametrize("digits", [1, 8])
def test_one_sort_gives_what_curves_give(digits):
    """10,000 and 7,000 scores, with thousands of ties and without: scikit-learn's curves, two for each direction."""
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 10_000).round(digits), rng.normal(0, 1.3, 7_000).round(digits)
    scores, is_in = np.concatenate([inside, outside]), np.repeat([1, 0], [10_000, 7_000])
    found = detection_metrics(inside, outside)
    areas = {}
    for name, positive, score in (("in", is_in, scores), ("out", 1 - is_in, -scores)):
        false, true, _ = roc_curve(positive, score, drop_intermediate=False)
        precision, recall, _ = precision_recall_curve(positive, score)
        areas[name] = auc(recall, precision), false[np.argmax(true >= 0.95)]
        assert found["auroc"] == pytest.approx(auc(false, true), abs=1e-12)
    assert (found["aupr_in"], 1 - found["tnr95"]) == pytest.approx(areas["in"], abs=1e-12)
    assert (found["aupr_out"], found["fpr95"]) == pytest.approx(areas["out"], abs=1e-12)


@pytest.mark.parametrize(
    "outside, auroc, dtacc, aupr_in, aupr_out",
    [([0.6, 0.5, 0.3, 0.2, 0.1], 0.9, 0.875, 0.783333, 0.818333),
     ([0.7, 0.5, 0.3, 0.2, 0.4], 0.8, 0.775, 0.686012, 0.734762)],
)
def test_published_rules_give_the_published_values(outside, auroc, dtacc, aupr_in, aupr_out):
    found = published_detection_metrics([0.9, 0.8, 0.7, 0.4], outside)
    assert found["tnr95"] == 0
    assert found["auroc"] == pytest.approx(auroc) and found["dtacc"] == pytest.approx(dtacc)
    assert found["aupr_in"] == pytest.approx(aupr_in, abs=1e-6)
    assert found["aupr_out"] == pytest.approx(aupr_out, abs=1e-6)


def test_published_rules_differ_only_in_ties_and_end_points():
    inside, outside = random_scores(0, ties=False)
    ours, published = detection_metrics(inside, outside), published_detection_metrics(inside, outside)
    assert ours["auroc"] == pytest.approx(published["auroc"]) and ours["dtacc"] == pytest.approx(published["dtacc"])
    equal = np.ones(50), np.ones(50)
    assert detection_metrics(*equal)["auroc"] == 0.5 and published_detection_metrics(*equal)["auroc"] == 0
    tied = random_scores(1, ties=True)
    assert published_detection_metrics(*tied)["auroc"] == pytest.approx(np.mean(tied[0][:, None] > tied[1]))


def test_published_tnr_counts_strictly_below_the_five_per_cent_score():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 200), rng.normal(0, 1, 100)
    found = published_detection_metrics(inside, outside)["tnr95"]
    assert found == pytest.approx(np.mean(outside < np.sort(inside)[10 - 1]))  # a_(k), k = 0.05·200


def test_detection_invariances():
    inside, outside = random_scores(2, ties=False)
    found = detection_metrics(inside, outside)
    assert detection_metrics(np.exp(inside), np.exp(outside)) == pytest.approx(found), "only the order matters"
    assert detection_metrics(torch.tensor(inside), torch.tensor(outside)) == pytest.approx(found)
    swapped = detection_metrics(-outside, -inside)  # call the other class "in"
    assert swapped["auroc"] == pytest.approx(found["auroc"])
    assert swapped["aupr_in"] == pytest.approx(found["aupr_out"])
    assert swapped["tnr95"] == pytest.approx(1 - found["fpr95"])
    perfect = detection_metrics([2, 3], [0, 1])
    assert perfect == {"auroc": 1, "aupr_in": 1, "aupr_out": 1, "fpr95": 0, "tnr95": 1, "dtacc": 1}


@pytest.mark.parametrize("function", [detection_metrics, published_detection_metrics])
@pytest.mark.parametrize("inside, outside, message", [
    ([], [1.0], "id_scores is empty"), ([1.0], [], "ood_scores is empty"),
    ([1.0, math.nan], [1.0], "id_scores holds 1 NaN or infinite values of 2"),
    ([1.0], [math.inf], "ood_scores holds 1"),
])
def test_detection_refuses_bad_scores(function, inside, outside, message):
    with pytest.raises(ValueError, match=message):
        function(inside, outside)
