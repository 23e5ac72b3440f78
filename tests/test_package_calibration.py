"""Temperature, thresholds and detection of every head: the share turned away is the share asked for."""
import copy
import io
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from heads import HEADS, made

from losses import SoftMaxLossFirstPart
from losses.calibration import PERCENTILES, SCORES, fit_temperature, score, threshold_at

# ---- the share turned away ----

@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("name", HEADS)
def test_the_share_turned_away_is_the_share_asked_for(name, temperature):
    """Of the samples of set_thresholds, and of new ones of their kind; also after save and load, and in a half head."""
    head, features = made(name)
    head.temperature = temperature
    logits, fresh = head(features(2000, 1)[0]), head(features(20_000, 2)[0])
    head.set_thresholds(logits)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    loaded = made(name)[0]
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for detector in (head, loaded, copy.deepcopy(loaded).double(), copy.deepcopy(loaded).bfloat16()):
        assert detector.temperature.item() == pytest.approx(temperature)
        for rate in (0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 1):
            known = detector.detect(logits, rate)
            assert known.dtype == torch.bool and known.shape == (2000,)
            assert (~known).float().mean().item() == pytest.approx(rate, abs=1.01 / 2000), rate
            turned_away = (~detector.detect(fresh, reject_rate=rate)).float().mean().item()
            deviation = (rate * (1 - rate) * (1 / 2000 + 1 / 20_000)) ** 0.5
            assert turned_away == pytest.approx(rate, abs=4 * deviation + 1e-3)
        for rate, below, above in ((0.07, 0.05, 0.1), (0.33, 0.3, 0.35), (0.95, 0.9, 1)):  # between the percentiles
            assert below <= (~detector.detect(logits, rate)).float().mean() <= above
    assert head.detect(logits).sum() == 1900, "5 % by default"


@pytest.mark.parametrize("name", HEADS)
def test_confident_samples_do_not_tie(name):
    """Logits whose float32 probability is 1 for almost all: a threshold on it would turn away none, or nearly all."""
    head, features = made(name, sharp=4.0)
    head.temperature = 0.1
    logits = head(features(3000, 1)[0])
    for score_type in SCORES:
        head.score_type = score_type
        head.set_thresholds(logits)
        for rate in (0.01, 0.05, 0.1):
            share = (~head.detect(logits, rate)).float().mean().item()
            assert share == pytest.approx(rate, abs=1.01 / 3000), score_type
    if name == "softmax":
        assert (head.probabilities(logits).amax(1) == 1).float().mean() > 0.95


def test_the_default_score_of_softmax_orders_as_the_published_probability():
    logits = torch.randn(500, 7)
    head = SoftMaxLossFirstPart(4, 7)
    assert torch.equal(head.scores(logits).argsort(), logits.softmax(1).amax(1).argsort())
    assert torch.allclose(head.scores(logits).sigmoid(), head.probabilities(logits).amax(1), atol=1e-6)
    assert torch.equal(score(torch.randn(3, 1), "MPS"), torch.zeros(3)), "one class: all samples are alike"
    tokens = torch.randn(2, 3, 7)
    assert head.scores(tokens).shape == (2, 3) and head.probabilities(tokens).shape == (2, 3, 7)


def test_thresholds_are_the_percentiles_of_the_scores():
    head, features = made("dismax")
    logits = head(features(333, 1)[0])
    head.set_thresholds(logits)
    scores = head.scores(logits).detach()
    assert np.allclose(head.precomputed_thresholds[1], np.percentile(scores.double().numpy(), PERCENTILES), atol=1e-6)
    assert head.precomputed_thresholds[0].isnan().all() and head.validationset_available.tolist() == [True]
    for rate in (0.05, 0.3):
        assert torch.equal(head.detect(logits, rate), scores >= head.threshold(rate)), "one definition"


def test_a_score_is_never_below_its_own_threshold():
    """Thresholds are float32; of float64 scores they are rounded down, so that a rate of 0 keeps every sample."""
    head, features = made("isomaxplus")
    head, logits = head.double(), None
    for seed in range(20):
        logits = head(features(50, seed)[0].double())
        for detector in (head, copy.deepcopy(head).float()):
            detector.set_thresholds(logits)
            assert detector.detect(logits, 0).all()


@pytest.mark.parametrize("name", HEADS)
def test_one_sample_and_constant_samples(name):
    head, _ = made(name)
    for logits in (torch.randn(1, 5), torch.zeros(7, 5), torch.ones(3, 5).half()):
        head.set_thresholds(logits)
        assert head.precomputed_thresholds[1].isfinite().all()
        assert head.detect(logits, 0.05).all(), "what ties with the threshold is kept"
        assert not head.detect(logits, 1).any()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert head.calibrate(logits, logits.argmax(1)) == 1
    assert not head.detect(torch.full((1, 5), torch.nan)).any(), "NaN is not in-distribution"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_precision(dtype):
    head, features = made("dismax")
    inputs, labels = features(1000, 1)
    logits = head(inputs).detach().to(dtype)
    temperature = head.calibrate(logits, labels.int())
    assert temperature == pytest.approx(fit_temperature(head(inputs).detach(), labels, temperature), rel=0.02)
    logits = head(inputs).detach().to(dtype)
    head.set_thresholds(logits)
    ties = 0 if dtype == torch.float64 else 0.02
    assert (~head.detect(logits, 0.05)).float().mean().item() == pytest.approx(0.05, abs=0.002 + ties)


def test_percentiles_and_what_lies_between():
    grid = torch.tensor(PERCENTILES, dtype=torch.float64)
    for rate in (0, 0.001, 0.05, 0.07, 0.29, 0.95, 0.9999):
        assert threshold_at(grid, rate).item() == pytest.approx(100 * rate)
    assert threshold_at(grid, 1).item() == float("inf")
    for rate in (-0.01, 1.01, 5, float("nan")):
        with pytest.raises(ValueError, match="share between 0 and 1"):
            threshold_at(grid, rate)


# ---- the temperature ----

def brute_force(logits, labels):
    """The best of 4,001 temperatures, in float64."""
    temperatures = torch.logspace(-3, 3, 4001, dtype=torch.float64)
    losses = torch.stack([F.cross_entropy(logits.double() / t, labels) for t in temperatures])
    return temperatures[losses.argmin()].item()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("start", [1.0, 25.0, 0.02])
def test_calibrate_finds_the_most_likely_temperature(name, start):
    head, features = made(name)
    inputs, _ = features(3000, 1)
    raw = head(inputs).detach()
    labels = torch.distributions.Categorical(logits=raw / 0.7).sample()
    head.temperature = start
    found = head.calibrate(head(inputs), labels)
    assert found == pytest.approx(brute_force(raw, labels), rel=2e-3) and found == head.temperature.item()
    assert found == pytest.approx(0.7, rel=0.1)
    assert torch.allclose(head(inputs), raw / found, atol=1e-4), "and it is in force"
    assert head.calibrate(head(inputs), labels) == pytest.approx(found, rel=1e-4), "a second call agrees"


def test_it_is_the_global_minimum_by_the_slope():
    """Logits over ten orders of magnitude: at the minimum the slope of the likelihood is zero."""
    torch.manual_seed(0)
    for scale in (1e-6, 1e-3, 1, 1e3, 1e4):
        for seed in range(5):
            z = scale * torch.randn(200, 10, dtype=torch.float64) * torch.rand(200, 1).double() ** 4
            labels = torch.distributions.Categorical(logits=3 * z / scale).sample()
            t = torch.tensor(fit_temperature(z, labels), dtype=torch.float64, requires_grad=True)
            loss = F.cross_entropy(z / t, labels)
            slope, = torch.autograd.grad(loss, t)
            assert abs(slope.item() * t.item()) < 1e-8, (scale, seed)


def test_a_closed_form():
    """One-hot logits of size 1, right with frequency a: T = 1/ln(a(L−1)/(1−a))."""
    classes, right = 10, 870
    labels = torch.arange(1000) % classes
    predicted = torch.where(torch.arange(1000) < right, labels, (labels + 3) % classes)
    expected = 1 / np.log(0.87 * 9 / 0.13)
    assert fit_temperature(F.one_hot(predicted, classes).float(), labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("logits, reason", [
    (torch.eye(5), "all 5 samples are classified correctly"), (-torch.eye(5), "no better than chance"),
    (torch.eye(5).roll(1, 0), "no better than chance"), (torch.eye(5)[:1], "all 1 samples"),
])
def test_without_a_minimum_the_temperature_stays(logits, reason):
    head, _ = made("isomax", temperature=1.5)
    with pytest.warns(UserWarning, match=reason):
        assert head.calibrate(logits, torch.arange(5)[: len(logits)]) == 1.5


def test_no_warning_about_constant_logits():
    head, _ = made("softmax", temperature=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert head.calibrate(torch.full((4, 5), 3.0), torch.arange(4)) == 2


def test_logits_from_before_calibrate_are_recognised():
    head, features = made("softmax", sharp=0.3)
    inputs, labels = features(500, 1)
    early = head(inputs).detach()
    found = head.calibrate(early, labels)
    assert abs(found - 1) > 0.01
    assert head.calibrate(early, labels) == pytest.approx(found), "the same logits give the same temperature"
    for use in (head.set_thresholds, head.detect):
        with pytest.raises(ValueError, match=r"made at temperature 1, but the temperature is .* Run the network again"):
            use(early)
    head.set_thresholds(early * (1 / found))
    assert torch.equal(head.detect(early / found), head.detect(head(inputs))), "as the message says"


# ---- bad input ----

@pytest.mark.parametrize("call, message", [
    (lambda head, z, y: head.calibrate(z, y[:3]), r"labels must be \(8,\)"),
    (lambda head, z, y: head.calibrate(z, y + 2), r"labels must lie in \[0, 5\), got 2 to 5"),
    (lambda head, z, y: head.calibrate(z, y - 100), "got -100 to -97"),
    (lambda head, z, y: head.calibrate(z, y.float()), "labels must be class numbers, got torch.float32"),
    (lambda head, z, y: head.calibrate(z[:, :3], y), r"logits must be \(n, 5\).*got \(8, 3\)"),
    (lambda head, z, y: head.calibrate(z[:0], y[:0]), "no logits"),
    (lambda head, z, y: head.calibrate(z.log(), y), "logits must be finite: . of 8 rows hold NaN or infinity"),
    (lambda head, z, y: head.set_thresholds(z / 0), "logits must be finite: 8 of 8 rows"),
    (lambda head, z, y: head.set_thresholds(z[0]), r"logits must be \(n, 5\)"),
    (lambda head, z, y: head.set_thresholds(y[:, None].expand(-1, 5)), "floating-point numbers, got torch.int64"),
    (lambda head, z, y: head.store_thresholds(z[:, 0] / 0), "scores must be finite"),
    (lambda head, z, y: head.detect(z, 5), "share between 0 and 1"),
])
def test_bad_input_is_refused_in_words(call, message):
    torch.manual_seed(0)
    head, _ = made("softmax")
    with pytest.raises(ValueError, match=message):
        call(head, torch.randn(8, 5), torch.arange(8) % 4)
    assert head.temperature.item() == 1 and not head.validationset_available
