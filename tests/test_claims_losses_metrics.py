"""Metrics at their edges: exact thresholds, ties, one sample, bins' ends, and the words of what is refused."""
import math

import numpy as np
import pytest
import torch

from metrics import calibration, detection, ensemble, least_ece, published

# ---- detection ----

def test_the_threshold_is_the_first_that_reaches_95_per_cent():
    """20 OOD scores: 19 are 95 %. Those at or below the 19th are flagged, and with it what ties."""
    out, inside = np.arange(20.0), np.array([17.5, 18.0, 18.5, 30.0])
    assert detection.detection_metrics(inside, out)["fpr95"] == 0.5
    assert detection.detection_metrics(inside, np.append(out, 50.0))["fpr95"] == 0.75, "20 of 21 are 95 %, 19 are not"
    accepted = np.arange(20.0)
    assert detection.detection_metrics(accepted, np.array([0.5, 1.0, 1.5, -1.0]))["tnr95"] == 0.5
    found = detection.detection_metrics([2.0, 3], [1.0, 2])
    assert found["auroc"] == 0.875 and found["dtacc"] == 0.75
    assert detection.detection_metrics([[1.0]], torch.tensor([0.0])) == {
        "auroc": 1, "aupr_in": 1, "aupr_out": 1, "fpr95": 0, "tnr95": 1, "dtacc": 1}


def test_scores_without_samples_or_with_nan_are_refused_by_name():
    for values, said in (([], "out is empty: there is no sample to separate"),
                         ([1, math.nan, math.inf], "out holds 2 NaN or infinite values of 3")):
        with pytest.raises(ValueError, match=said):
            detection.checked_scores(values, "out")
    assert detection.checked_scores([[1], [2]], "x").tolist() == [1, 2]
    for function in (detection.detection_metrics, published.published_detection_metrics):
        for pair, name in ((([], [1]), "id_scores"), (([1], []), "ood_scores")):
            with pytest.raises(ValueError, match=f"{name} is empty"):
                function(*pair)


def test_the_published_metrics_of_four_samples():
    """Scores in 1, 3; out 0, 2. Raising the threshold: out, in, out, in are lost."""
    found = published.published_detection_metrics([1.0, 3], [0.0, 2])
    assert found["auroc"] == 0.75 and found["dtacc"] == 0.75 and found["tnr95"] == 0
    assert found["aupr_in"] == pytest.approx((2 / 3 + 1 / 2) / 4 + 1 / 4)
    assert found["aupr_out"] == pytest.approx(1 / 4 + (1 / 2 + 2 / 3) / 4)
    nearest = published.published_detection_metrics(np.arange(20.0), [-1, 0.5, 1.5, 2.5])
    assert nearest["tnr95"] == 0.25, "19 of 20 are accepted once 0 is lost, and with it −1 of the others"
    tied = published.published_detection_metrics([1.0], [1.0])
    assert tied["auroc"] == 0 and set(tied) == {"auroc", "aupr_in", "aupr_out", "tnr95", "dtacc"}
    assert detection.detection_metrics([1.0], [1.0])["auroc"] == 0.5
    many = np.random.default_rng(0).normal(size=4000)
    exact = detection.detection_metrics(many[:2000] + 1, many[2000:])
    for name, value in published.published_detection_metrics(many[:2000] + 1, many[2000:]).items():
        assert name == "tnr95" or value == pytest.approx(exact[name], abs=2e-3), name


# ---- calibration ----

def test_a_confidence_on_an_edge_is_in_the_bin_below():
    edges = np.linspace(0, 1, 5)
    correct = np.array([True, False])
    assert calibration.binned_gap(np.array([0.5, 0.45]), correct, 4) == pytest.approx(abs(-0.5 + 0.45) / 2)
    assert calibration.binned_gap(np.array([0.5001, 0.45]), correct, 4) == pytest.approx((0.4999 + 0.45) / 2)
    assert calibration.binned_gap(np.array([0.0, 1.0]), correct, 4) == 1
    several = calibration.binned_gap(np.stack([edges[1:3], edges[2:4], edges[1:3]]).reshape(3, 1, 2), correct, 4)
    assert several.shape == (3, 1) and several[0] == several[2] and several[0] == pytest.approx((0.75 + 0.5) / 2)
    assert least_ece._bin_of(np.array([0, 0.25, 0.2501, 1.0, 1.5]), 4).tolist() == [0, 0, 1, 3, 3]


@pytest.mark.parametrize("values, labels, said", [
    ([[1.0, 0]], [2], r"must lie in \[0, 2\), got 2 to 2"), ([[1.0, 0]], [-1], "got -1 to -1"),
    ([[1.0, math.nan]], [0], "NaN or"),
    ([1.0], [0], r"got \(1,\) and \(1,\) int64"), ([[1.0]], [0, 0], "integer labels"), ([[1.0]], [0.0], "float64"),
    (np.zeros((0, 2)), np.zeros(0, int), "no samples")])
def test_values_and_labels_fit(values, labels, said):
    with pytest.raises(ValueError, match=said):
        calibration.checked_labels(values, labels)
    calibration.checked_labels([[1.0, 0]], np.array([1], np.uint8))


def test_probabilities_are_no_logits():
    for wrong in ([[1.1, -0.1]], [[1 + 1e-5, 0]]):
        with pytest.raises(ValueError, match=r"pass softmax\(logits\), not logits"):
            calibration.expected_calibration_error(wrong, [0])
    assert calibration.expected_calibration_error([[1 + 1e-7, 0]], [0]) == pytest.approx(0, abs=1e-6)
    assert calibration.expected_calibration_error([[0.8, 0.2]], [1]) == pytest.approx(0.8)
    assert calibration.brier_score([[0.8, 0.2]], [1]) == pytest.approx(0.8**2 + 0.8**2)
    assert calibration.brier_score([[0.8, 0.2], [1, 0]], [0, 0]) == pytest.approx((0.04 + 0.04) / 2)
    assert calibration.negative_log_likelihood([[0.0, 0], [3, 0]], [0, 1]) == pytest.approx(
        (math.log(2) + 3 + math.log1p(math.exp(-3))) / 2)
    assert calibration.accuracy([[1.0, 1], [0, 1], [1, 0]], [0, 1, 1]) == pytest.approx(2 / 3)
    assert calibration.probabilities_of(np.float32([[2, 0]]), 2)[0, 0] == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("objective", ["nll", "ece"])
def test_the_temperature_of_two_classes(objective):
    """Three of four are right with logits (2, 0): the likelihood and the error are best at σ(2/T) = ¾."""
    logits, labels = np.array([[2.0, 0]] * 4), np.array([0, 0, 0, 1])
    assert calibration.fit_temperature(logits, labels, objective) == pytest.approx(2 / math.log(3), rel=1e-3)
    assert calibration.fit_temperature(logits / 1000, np.zeros(4, int), "nll") == pytest.approx(0.001)
    assert calibration.fit_temperature(logits, np.ones(4, int), "nll") == pytest.approx(100)
    assert calibration.fit_temperature(np.zeros((4, 2)), labels, objective) == 1.0
    with pytest.raises(ValueError, match='objective must be "nll" or "ece", got \'x\''):
        calibration.fit_temperature(logits, labels, "x")


def test_halves_are_stratified_and_fitted_on_each_other():
    half = calibration.stratified_halves([1, 0, 1, 0, 1])
    assert half.tolist() == [False, False, True, True, False]
    logits = np.array([[2.0, 0]] * 8 + [[4.0, 0]] * 8)
    labels = np.array([0] * 16)
    labels[[0, 1, 9, 10]] = 1
    scaled, temperatures = calibration.cross_fitted_logits(logits, labels)
    second = calibration.stratified_halves(labels)
    assert temperatures == tuple(calibration.fit_temperature(logits[part], labels[part]) for part in (second, ~second))
    assert np.allclose(scaled[second], logits[second] / temperatures[1])
    assert np.allclose(scaled[~second], logits[~second] / temperatures[0])
    with pytest.raises(ValueError, match="two halves need at least two samples"):
        calibration.cross_fitted_logits(logits[:1], labels[:1])


def test_the_published_calibration_drops_certain_samples_and_weighs_batches():
    ece = published.published_calibration_error
    assert ece([[1.0, 0], [0.5, 0.5]], [1, 0], 2) == pytest.approx(0.5) and ece([[1.0, 0]], [0]) == 0
    assert ece([[0.5, 0.5], [0.7, 0.3]], [0, 1],
               2) == pytest.approx(abs(0.5 - 1 + 0.7) / 2), "an edge is in the bin above"
    logits, labels = np.array([[0.0, 0], [0, 0], [5, 0]]), np.array([0, 1, 1])
    each = calibration.log_losses(logits, labels)
    nll = published.published_negative_log_likelihood
    assert nll(logits, labels, 2) == pytest.approx((each[:2].mean() + each[2]) / 2)
    assert nll(logits, labels, 3) == nll(logits, labels) == pytest.approx(each.mean())
    many = np.concatenate([np.zeros((64, 2)), [[5.0, 0]]])
    assert nll(many, np.ones(65, int)) == pytest.approx((math.log(2) + each[2]) / 2), "64 a batch"


def test_a_search_that_ends_at_a_bound_is_dropped():
    logits = np.array([[2.0, 0]] * 4)
    found = published.published_temperature(logits, np.array([0, 0, 0, 1]))
    assert not found.dropped and found.ece == pytest.approx(0, abs=1e-3) and found.temperature == pytest.approx(
        2 / math.log(3), rel=1e-2)


def test_bounds_of_the_error_are_below_it_everywhere_between():
    rng = np.random.default_rng(0)
    lower = rng.random((3, 40))
    upper = np.minimum(lower + 0.2 * rng.random((3, 40)), 1)
    correct = rng.random(40) < 0.5
    bound = least_ece._lower_bounds(upper, lower, correct, 15)
    for share in np.linspace(0, 1, 21):
        assert (bound <= calibration.binned_gap(lower + share * (upper - lower), correct, 15) + 1e-12).all()
    exact = least_ece._lower_bounds(lower, lower, correct, 15)
    assert exact == pytest.approx(calibration.binned_gap(lower, correct, 15))


def test_the_normaliser_and_its_slope():
    shifted, step = np.array([[0.0, -1, -3], [0, 0, -2]]), 1e-6
    values, slopes = least_ece._exact(shifted, np.array([-0.5, 0.7]))
    for k, log_t in enumerate((-0.5, 0.7)):
        def at(log_t):
            return np.log(np.exp(shifted / np.exp(log_t)).sum(1))
        assert values[k] == pytest.approx(at(log_t)) == least_ece._log_normaliser(shifted, log_t)
        assert slopes[k] == pytest.approx((at(log_t + step) - at(log_t - step)) / (2 * step), rel=1e-5)


# ---- ensembles ----

def test_scores_of_two_members_by_hand():
    z = torch.tensor([[[4.0, 0, 1]], [[2.0, 3, 0]]], dtype=torch.float64)  # mean 3, 1.5, 0.5
    found = {name: score.item() for name, score in ensemble.ensemble_scores(z).items()}
    def odds(*logits):
        return logits[0] - math.log(sum(map(math.exp, logits[1:])))
    q = [z[n, 0].softmax(0) for n in (0, 1)]
    p = ((q[0] + q[1]) / 2).max().item()
    spread = abs(q[0].max() - q[1].max()).item() / math.sqrt(2)
    assert found == pytest.approx({
        "average": odds(3, 1.5, 0.5), "prob-average": math.log(p / (1 - p)), "prob-minmax": odds(3, 2, 0),
        "prob-maxstd": -spread, "logit-average": 3, "minmax": 3, "maxstd": -1 / math.sqrt(2),
        "stdmax": -3 / math.sqrt(2),
        "average-minmax": 2, "energy": math.log(sum(map(math.exp, (3, 1.5, 0.5)))),
        "average-energy": (z[0].logsumexp(1) + z[1].logsumexp(1)).item() / 2})
    half = ensemble.ensemble_scores(z.float().numpy(), 2)
    assert half["minmax"].item() == 1.5 and half["energy"].dtype == torch.float64
    assert ensemble.ensemble_scores(z)["minmax"].item() == 3
    alone = ensemble.ensemble_scores(z[:1])
    assert [alone[name].tolist() for name in ("maxstd", "stdmax", "prob-maxstd")] == [[0], [0], [0]]
    with pytest.raises(ValueError, match=r"members' logits \(N, n, L\), got \(1, 3\)"):
        ensemble.ensemble_scores(z[0])
