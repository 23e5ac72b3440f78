"""Calibration metrics and temperatures against plain formulas, closed forms, brute force and the published searches."""
import math

import numpy as np
import pytest

from metrics import calibration
from metrics.published import (
    published_calibration_error,
    published_negative_log_likelihood,
    published_temperature,
)

LOGITS = np.array([(2, 0, 0), (0, 1, 0), (0, 0, 3), (1, 0.5, 0), (0, 0, 0)])
LABELS = np.array([0, 2, 2, 1, 0])


@pytest.mark.parametrize("temperature, expected", [(1, 0.410567), (2, 0.454041), (0.5, 0.431833)])
def test_ece_gives_the_published_values(temperature, expected):
    probabilities = calibration.probabilities_of(LOGITS, temperature)
    assert calibration.expected_calibration_error(probabilities, LABELS) == pytest.approx(expected, abs=1e-6)


def random_problem(n=300, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    labels = np.array([rng.choice(classes, p=p) for p in calibration.probabilities_of(logits, 1.7)])
    return logits, labels


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_against_naive_references(bins):
    logits, labels = random_problem()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == labels
    ece = 0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            ece += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration.expected_calibration_error(p, labels, bins) == pytest.approx(ece)
    nll = -np.log(p[range(300), labels]).mean()
    assert calibration.negative_log_likelihood(logits, labels) == pytest.approx(nll)
    assert calibration.negative_log_likelihood(np.log(p), labels) == pytest.approx(nll)
    assert calibration.brier_score(p, labels) == pytest.approx(((p - np.eye(5)[labels]) ** 2).sum(1).mean())
    assert calibration.accuracy(logits, labels) == right.mean()


def test_bins_are_open_below_and_closed_above():
    """Confidence 1 is counted (SDDE's bins drop it), and an edge belongs to the bin below."""
    certain = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    assert calibration.expected_calibration_error(certain, np.array([0, 0, 0, 1])) == pytest.approx(0.25)
    edge = np.array([[0.6, 0.4], [0.62, 0.38]])  # 0.6 = 9/15 ends bin 8, 0.62 lies in bin 9
    assert calibration.expected_calibration_error(edge, np.array([0, 1])) == pytest.approx((0.4 + 0.62) / 2)


@pytest.mark.parametrize("classes, right", [(10, 0.9), (4, 0.5)])
def test_temperature_closed_form(classes, right):
    """One-hot unit logits with accuracy a over L classes: T = 1/ln(a(L−1)/(1−a))."""
    n = 1000
    labels = np.arange(n) % classes
    predicted = np.where(np.arange(n) < right * n, labels, (labels + 1) % classes)
    fitted = calibration.fit_temperature(np.eye(classes)[predicted], labels)
    assert fitted == pytest.approx(1 / math.log(right * (classes - 1) / (1 - right)), rel=1e-3)


def test_temperature_is_found_again():
    logits, labels = random_problem(20_000)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(1.7, rel=0.05)
    assert calibration.fit_temperature(3 * logits, labels) == pytest.approx(3 * 1.7, rel=0.05)


@pytest.mark.parametrize("scale", [0.05, 1, 30])
def test_the_least_ece_is_found_however_logits_are_scaled(scale):
    """From 20 times too cold to 30 times too hot."""
    logits, labels = random_problem(2000)
    logits = scale * logits

    def ece(t):
        return calibration.expected_calibration_error(calibration.probabilities_of(logits, t), labels)

    fitted = calibration.fit_temperature(logits, labels, "ece")
    assert ece(fitted) <= 1.01 * min(ece(t) for t in np.geomspace(0.001, 100, 400))
    assert fitted == pytest.approx(scale * calibration.fit_temperature(logits / scale, labels, "ece"), rel=0.02)


def labels_drawn_from(logits, temperature, seed=0):
    """Labels whose true probabilities are softmax(logits / temperature)."""
    cumulated = calibration.probabilities_of(logits, temperature).cumsum(1)
    drawn = np.random.default_rng(seed).random((len(logits), 1))
    return (cumulated < drawn).sum(1).clip(max=logits.shape[1] - 1)


def least_on_a_fine_grid(logits, labels, around):
    """Brute force: the ECE at 4,000 temperatures over all of [0.001, 100], and at 4,000 close to `around`."""
    grid = np.concatenate([np.geomspace(0.001, 100, 4_000), around * np.exp(np.linspace(-0.2, 0.2, 4_000))])
    return min(calibration.expected_calibration_error(calibration.probabilities_of(logits, t), labels)
               for t in grid.clip(0.001, 100))


@pytest.mark.parametrize("n, classes, scale, temperature, seed", [
    (400, 7, 4, 1.7, 0), (400, 7, 10, 0.1, 1), (1000, 3, 0.5, 0.2, 2), (200, 2, 30, 5, 3), (30, 10, 3, 1, 4),
    (2, 3, 1, 1, 5)])
def test_the_least_ece_is_the_least_of_a_fine_grid(n, classes, scale, temperature, seed):
    """A valley between two points of a 12 % grid, as the search was before, can be 45 % deeper."""
    logits = np.random.default_rng(seed).normal(0, scale, (n, classes))
    labels = labels_drawn_from(logits, temperature, seed)
    fitted = calibration.fit_temperature(logits, labels, "ece")
    found = calibration.expected_calibration_error(calibration.probabilities_of(logits, fitted), labels)
    assert found <= 1.01 * least_on_a_fine_grid(logits, labels, fitted) + 1e-7


def test_the_least_ece_of_a_narrow_valley():
    """Two kinds of samples, T known in closed form: 16 samples of two classes with logits (1, 0), 12 of them right, are
    calibrated where sigmoid(1/T) is exactly 3/4, T = 1/ln 3, and the ECE is 0 there and nowhere else."""
    logits, labels = np.tile([1.0, 0.0], (16, 1)), np.repeat([0, 1], [12, 4])
    fitted = calibration.fit_temperature(logits, labels, "ece")
    assert fitted == pytest.approx(1 / math.log(3), rel=1e-4)
    assert calibration.expected_calibration_error(calibration.probabilities_of(logits, fitted), labels) < 1e-5
    assert calibration.fit_temperature(50 * logits, labels, "ece") == pytest.approx(50 / math.log(3), rel=1e-4)


def test_bounds_of_an_interval_hold_everywhere_in_it():
    """The lower bound of the search against the ECE at 200 temperatures inside, for wide and narrow intervals."""
    from metrics.least_ece import _lower_bounds

    logits = np.random.default_rng(0).normal(0, 3, (60, 4))
    correct = logits.argmax(1) == labels_drawn_from(logits, 1.5)

    def confidences(t):
        return calibration.probabilities_of(logits, t).max(1)

    for low, high in ((1, 1.001), (0.5, 0.6), (1, 3), (0.01, 90)):
        bound = _lower_bounds(confidences(low)[None], confidences(high)[None], correct, 15).item()
        inside = [calibration.binned_gap(confidences(t), correct) for t in np.geomspace(low, high, 200)]
        assert bound <= min(inside) + 1e-12
        assert high > 1.001 * low or bound > 0.9 * min(inside), "of a narrow interval the bound is tight"


def release_search(logits, labels):
    """DisMax's calibrate.py by the words of dismax.md section 4, ten lines."""
    from scipy.optimize import minimize

    def ece(t):
        q = np.exp(logits / t - np.log(np.exp(logits / t).sum(1, keepdims=True)))
        confidence, right, total = q.max(1), q.argmax(1) == labels, 0.0
        for b in range(15):
            inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean()) if inside.any() else 0
        return total

    found = minimize(ece, [1.0], method="L-BFGS-B", bounds=[(0.001, 100)])
    return found.x[0], found.fun


@pytest.mark.parametrize("temperature, seed", [(1.7, 2), (5, 4), (0.7, 6)])
def test_the_published_temperature_is_the_releases_search(temperature, seed):
    logits = np.random.default_rng(seed).normal(0, 2, (400, 7))
    labels = labels_drawn_from(logits, temperature, seed)
    found = published_temperature(logits, labels)
    t, ece = release_search(logits, labels)
    assert found.temperature == pytest.approx(t, rel=1e-2) and found.ece == pytest.approx(ece, abs=2 / 400)
    assert not found.dropped
    best = calibration.fit_temperature(logits, labels, "ece")
    least = calibration.expected_calibration_error(calibration.probabilities_of(logits, best), labels)
    assert least <= 1.01 * found.ece, "a local search finds nothing below the minimum, which is known within 1 %"


def test_the_release_drops_a_run_whose_search_ends_at_a_bound():
    """Far from T = 1 the descent overshoots to 0.001, where every confidence is 1 and the ECE is 1 − accuracy."""
    logits = np.random.default_rng(3).normal(0, 10, (400, 7))
    labels = labels_drawn_from(logits, 0.1, 3)
    found = published_temperature(logits, labels)
    assert found.dropped and found.temperature == 0.001
    assert found.ece == pytest.approx(1 - calibration.accuracy(logits, labels))
    assert calibration.fit_temperature(logits, labels, "ece") == pytest.approx(0.033, rel=0.05), "the minimum is inside"
    with pytest.raises(ValueError, match="no samples"):
        published_temperature(np.zeros((0, 3)), np.zeros(0, int))


@pytest.mark.parametrize("objective", ["nll", "ece"])
def test_temperature_never_drops_a_run(objective):
    perfect = 5 * np.eye(3)[[0, 1, 2, 0]]
    assert 0.001 <= calibration.fit_temperature(perfect, np.array([0, 1, 2, 0]), objective) <= 100
    assert calibration.fit_temperature(np.zeros((4, 3)), np.array([0, 1, 2, 0]), objective) == 1, "all T are the same"
    assert np.isfinite(calibration.fit_temperature(perfect, np.array([1, 2, 0, 1]), objective)), "all wrong"
    assert np.isfinite(calibration.fit_temperature(perfect[:1], np.array([0]), objective)), "a single sample"


def test_cross_fitting_never_uses_a_samples_own_half():
    logits, labels = random_problem()
    second = calibration.stratified_halves(labels)
    assert abs(second.sum() - 150) <= 1
    for c in range(5):
        assert abs(second[labels == c].sum() - (~second[labels == c]).sum()) <= 1
    scaled, (first_t, second_t) = calibration.cross_fitted_logits(logits, labels)
    assert first_t == calibration.fit_temperature(logits[second], labels[second])
    assert second_t == calibration.fit_temperature(logits[~second], labels[~second])
    assert np.allclose(scaled[~second], logits[~second] / first_t)
    assert np.allclose(scaled[second], logits[second] / second_t)


@pytest.mark.parametrize("call, message", [
    (lambda: calibration.expected_calibration_error(LOGITS, LABELS), r"must lie in \[0, 1\]"),
    (lambda: calibration.negative_log_likelihood(LOGITS, LABELS[:3]), r"expected \(n, C\)"),
    (lambda: calibration.negative_log_likelihood(LOGITS, LABELS.astype(float)), "integer labels"),
    (lambda: calibration.brier_score(np.full((5, 3), np.nan), LABELS), "NaN or infinity"),
    (lambda: calibration.brier_score(LOGITS, LABELS), r"must lie in \[0, 1\]"),
    (lambda: published_calibration_error(np.zeros((0, 3)), np.zeros(0, int)), "no samples"),
    (lambda: published_calibration_error(np.full((5, 3), np.nan), LABELS), "NaN or infinity"),
    (lambda: published_calibration_error(LOGITS, LABELS), r"must lie in \[0, 1\]"),
    (lambda: published_calibration_error(np.full((5, 3), 1 / 3), LABELS + 1), r"labels must lie in \[0, 3\)"),
    (lambda: calibration.negative_log_likelihood(LOGITS, LABELS + 1), r"labels must lie in \[0, 3\), got 1 to 3"),
    (lambda: calibration.fit_temperature(np.zeros((0, 3)), np.zeros(0, int)), "no samples"),
    (lambda: calibration.fit_temperature(LOGITS, LABELS, "brier"), 'must be "nll" or "ece"'),
    (lambda: calibration.cross_fitted_logits(LOGITS[:1], LABELS[:1]), "at least two samples"),
])
def test_calibration_refuses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_sddes_calibration_error_drops_confidences_of_one():
    p = np.array([[1.0, 0.0], [1.0, 0.0], [0.8, 0.2]])
    labels = np.array([0, 1, 0])
    assert published_calibration_error(p, labels) == pytest.approx(0.2)
    assert calibration.expected_calibration_error(p, labels) == pytest.approx((2 * 0.5 + 0.2) / 3)
    assert published_calibration_error(p[:2], labels[:2]) == 0
    p = np.random.default_rng(0).dirichlet([0.3] * 5, 500)
    labels = np.arange(500) % 5
    assert published_calibration_error(p, labels) == pytest.approx(calibration.expected_calibration_error(p, labels))
    z = np.log(p + 1e-9)
    batches = [calibration.negative_log_likelihood(z[k : k + 64], labels[k : k + 64]) for k in range(0, 500, 64)]
    assert published_negative_log_likelihood(z, labels) == pytest.approx(np.mean(batches))
