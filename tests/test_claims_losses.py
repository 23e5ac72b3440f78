"""Limits of the heads and criteria: what is allowed at the edge, what is refused beside it, and the words of it."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losses import LOSSES, attach, calibration, criterion
from losses.attach import _tell
from losses.base import _fingerprint, _positive
from losses.calibration import PERCENTILES
from losses.dismax import DisMaxLossFirstPart, DisMaxLossSecondPart, four_classes, fractional_targets
from losses.softmax import SoftMaxLossFirstPart, SoftMaxLossSecondPart


def dismax(classes=3, features=4, **options):
    head = DisMaxLossFirstPart(features, classes)
    return head, DisMaxLossSecondPart(head, **options)


# ---- held-out logits, temperature, thresholds ----

@pytest.mark.parametrize("logits, said", [
    (torch.zeros(2), r"must be \(n, 3\), one row per held-out sample, got \(2,\)"), (torch.zeros(2, 2), "got .2, 2."),
    (torch.zeros(1, 1, 3), "got .1, 1, 3."), (torch.zeros(0, 3), "at least one held-out sample"),
    (torch.zeros(1, 3, dtype=torch.int64), "floating-point numbers, got torch.int64"),
    (torch.tensor([[0, 0, math.inf], [0, 0, 0.0], [math.nan] * 3]), "2 of 3 rows hold NaN or infinity")])
def test_held_out_logits_are_checked(logits, said):
    with pytest.raises(ValueError, match=said):
        calibration.check_logits(logits, 3)
    calibration.check_logits(torch.zeros(1, 3), 3)


@pytest.mark.parametrize("labels, said", [
    ([-1, 0], r"must lie in \[0, 3\), got -1 to 0"), ([3, 0], "got 0 to 3"),
    ([0], r"must be \(2,\), one class per row"),
    ([0.0, 1], "class numbers, got torch.float32"), ([True, False], "got torch.bool"),
    ([1j, 0], "got torch.complex64")])
def test_held_out_labels_are_checked(labels, said):
    with pytest.raises(ValueError, match=said):
        calibration.check_labels(torch.tensor(labels), torch.zeros(2, 3))
    calibration.check_labels(torch.tensor([0, 2]), torch.zeros(2, 3))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 8.0])
def test_the_fitted_temperature_has_the_slope_zero(temperature):
    """Of two classes with logits (z, 0): a share a is right, so σ(z/T) = a."""
    z, right = 3.0, 3
    logits = torch.tensor([[z / temperature, 0.0]] * 4)
    labels = torch.tensor([0] * right + [1])
    fitted = calibration.fit_temperature(logits, labels, temperature)
    assert fitted == pytest.approx(z / math.log(right), rel=1e-9)


@pytest.mark.parametrize("logits, labels, said", [
    ([[1.0, 0], [0, 1]], [0, 1],
     "all 2 samples are classified correctly, so every lower temperature is more likely: the "
                                 "temperature remains 2."),
    ([[1.0, 0], [1, 0]], [0, 1],
     "predict the labels of the 2 samples no better than chance: the temperature remains 2."),
    ([[1.0, 1], [0, 0]], [0, 1], "")])
def test_without_a_best_temperature_it_remains(logits, labels, said, recwarn):
    assert calibration.fit_temperature(torch.tensor(logits), torch.tensor(labels), 2.0) == 2.0
    assert [str(one.message) for one in recwarn][:1] == [] if not said else said in str(recwarn[0].message)


def test_percentiles_interpolate_and_are_stored_rounded_down():
    one = calibration.percentiles(torch.tensor([[2.5]]))
    assert one.tolist() == [2.5] * 25 and one.dtype == torch.float64
    many = calibration.percentiles(torch.tensor([30.0, 10, 20]))
    assert many.tolist() == pytest.approx([10 + 20 * p / 100 for p in PERCENTILES])
    values = torch.tensor([0.1, -0.1, 0.5, 1 / 3], dtype=torch.float64)
    down = calibration.rounded_down(values, torch.float32)
    assert down.dtype == torch.float32 and (down.double() <= values).all() and down[2] == 0.5
    assert (down.nextafter(torch.tensor(math.inf)).double() > values).all()
    with pytest.raises(ValueError, match="no scores to take thresholds from"):
        calibration.percentiles(torch.zeros(0))


def test_thresholds_are_exact_on_the_grid_and_linear_between():
    grid = torch.tensor([float(p) ** 2 for p in PERCENTILES])
    assert [calibration.threshold_at(grid, p / 100).item() for p in PERCENTILES[:-1]] == pytest.approx(
        [p**2 for p in PERCENTILES[:-1]], rel=1e-5, abs=1e-4)
    for rate, value in ((0.075, 62.5), (0.95, 9050), (0.0005, 0.005), (0, 0)):
        assert calibration.threshold_at(grid, rate).item() == pytest.approx(value, rel=1e-5)
    assert calibration.threshold_at(grid, 1).item() == math.inf
    for rate in (-0.01, 1.01, 5):
        with pytest.raises(ValueError, match="a share between 0 and 1 .0.05 rejects 5 %., got"):
            calibration.threshold_at(grid, rate)


def test_scores_of_one_class_and_of_more_dimensions():
    assert calibration.score(torch.randn(2, 3, 1), "MPS").tolist() == [[0] * 3] * 2
    z = torch.randn(2, 3, 4, dtype=torch.float64)
    q = z.softmax(-1)
    entropy, mean_max = (q * q.log()).sum(-1), z.amax(-1) + z.mean(-1)
    for name, expected in (("MPS", (q.amax(-1) / (1 - q.amax(-1))).log()), ("ES", entropy), ("MDS", z.amax(-1)),
                           ("MMLS", mean_max), ("MMLES", mean_max + entropy), ("energy", z.exp().sum(-1).log()),
                           ("MMLEPS", mean_max + entropy + q.amax(-1))):
        assert torch.allclose(calibration.score(z, name), expected), name
        assert calibration.score(z.half(), name).dtype == torch.float32
    with pytest.raises(ValueError, match="unknown score_type 'x': choose from MPS, ES, MDS"):
        calibration.score(z, "x")


def test_a_temperature_is_positive_and_one_number():
    for value in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            _positive(value)
    head = SoftMaxLossFirstPart(1, 1)
    head.temperature = torch.tensor([[2.5]])
    assert head.temperature.tolist() == [2.5] and _positive(1e-9) == 1e-9
    with pytest.raises(ValueError, match=r"one number, got a tensor \(2,\)"):
        head.temperature = torch.ones(2)
    for sizes in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"must be at least 1, got {sizes[0]} and {sizes[1]}"):
            SoftMaxLossFirstPart(*sizes)


def test_logits_are_recognized_by_their_count_and_sums():
    assert _fingerprint(torch.tensor([[1.0, 2], [3, 5]])) == (2, 39, 11, 3)
    head = SoftMaxLossFirstPart(2, 2)
    logits, labels = torch.tensor([[3.0, 0], [3, 0], [3, 0], [3, 0]]), torch.tensor([0, 0, 0, 1])
    fitted = head.calibrate(logits, labels)
    assert fitted == pytest.approx(3 / math.log(3), rel=1e-5) and head.calibrate(logits,
                                                                                 labels) == pytest.approx(fitted)
    with pytest.raises(ValueError,
                       match=f"made at temperature 1, but the temperature is {fitted:g} now. Run the network "
                                         f"again, or multiply them by {1 / fitted:g}"):
        head.set_thresholds(logits)
    head.set_thresholds(logits / fitted)
    assert head.detect(logits[:3] / fitted, 0).all() and head.calibrate(logits / fitted,
                                                                        labels) == pytest.approx(fitted)
    zeros = SoftMaxLossFirstPart(2, 2)
    zeros.calibrate(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    zeros.set_thresholds(torch.zeros(3, 2))


def test_why_thresholds_cannot_be_used():
    head = SoftMaxLossFirstPart(2, 2)
    def said():
        with pytest.raises(RuntimeError) as error:
            head.threshold()
        return str(error.value)
    assert said().startswith("there are no thresholds yet: call set_thresholds(logits)")
    head.set_thresholds(torch.randn(9, 2))
    head.score_type = "ES"
    assert "belong to the score MPS, but score_type is ES now" in said()
    head.temperature = 2
    assert "were made at temperature 1, but the temperature is 2 now" in said()
    head.thresholds_score[1] = -1
    assert "does not record the temperature" in said()
    head.store_thresholds(torch.ones(3), "train")
    assert head.thresholds_temperature[0] == 2 and head.precomputed_thresholds[0,
                                                                               0] == 1 and "does not record" in said()
    with pytest.raises(ValueError, match="unknown partition 'x': choose from train, validation"):
        head.store_thresholds(torch.ones(3), "x")
    with pytest.raises(ValueError, match="scores must be finite"):
        head.store_thresholds(torch.tensor([1.0, math.inf]))


def test_in_a_compiled_graph_an_unusable_threshold_is_nan(monkeypatch):
    head = SoftMaxLossFirstPart(2, 2)
    logits = torch.tensor([[1.0, 0], [3, 0], [2, 0]])
    head.set_thresholds(logits)
    expected = head.threshold(0.5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert head.threshold(0.5) == expected and head.detect(logits, 0.5).tolist() == [False, True, True]
    head.temperature = 3
    assert head.threshold(0.5).isnan() and not head.detect(logits, 0.5).any()


def test_a_head_with_modules_of_its_own_is_converted_with_them():
    class Deep(SoftMaxLossFirstPart):
        def __init__(self):
            super().__init__(2, 2)
            self.inner = nn.Linear(2, 2)
    head = Deep().bfloat16()
    assert head.inner.weight.dtype == head.weights.dtype == torch.bfloat16 and head.temperature.dtype == torch.float32
    assert head.double().precomputed_thresholds.dtype == head.inner.bias.dtype == torch.float64
    passes = head._passes
    assert head.train() is head and head.eval() is head and head._passes == passes + 2 and not head.training


# ---- criteria ----

@pytest.mark.parametrize("smoothing", [0.0, 0.25, 1.0])
def test_the_mean_over_known_targets(smoothing):
    logits, targets = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, -100, 2, 1])
    mean = criterion.mean_cross_entropy(logits, targets, smoothing)
    assert torch.allclose(mean, F.cross_entropy(logits[[0, 2, 3]], targets[[0, 2, 3]], label_smoothing=smoothing))
    assert torch.allclose(criterion.mean_cross_entropy(logits, targets.to(torch.int16), smoothing), mean)
    soft = torch.rand(4, 3)
    assert torch.allclose(criterion.mean_cross_entropy(logits, soft, smoothing),
                          F.cross_entropy(logits, soft.double(), label_smoothing=smoothing))
    for none in (torch.full((4,), -100), torch.full((4,), -100, dtype=torch.int32)):
        assert criterion.mean_cross_entropy(logits.requires_grad_(), none, smoothing).item() == 0
    assert criterion.mean_cross_entropy(torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0
    with pytest.raises(ValueError, match=r"got \(4, 2\) torch.float32 for logits \(4, 3\)"):
        criterion.mean_cross_entropy(logits, torch.rand(4, 2))
    SoftMaxLossSecondPart(SoftMaxLossFirstPart(2, 2), label_smoothing=smoothing)
    for wrong in (-0.01, 1.01):
        with pytest.raises(ValueError, match=f"must lie in .0, 1., got {wrong}"):
            SoftMaxLossSecondPart(SoftMaxLossFirstPart(2, 2), label_smoothing=wrong)


def test_debug_separates_the_logits_of_known_targets():
    head = SoftMaxLossFirstPart(2, 3).eval()
    logits = torch.arange(9.0).view(3, 3)
    loss, scale, inter, intra = SoftMaxLossSecondPart(head)(logits, torch.tensor([1, -100, 2]), debug=True)
    assert scale == 1.0 and intra.tolist() == [1, 8] and inter.tolist() == [0, 2, 6, 7] and loss.dim() == 0
    other, second = dismax()
    other.eval().distance_scale.data.fill_(2.5)
    assert second(logits, torch.tensor([1, 0, 2]), debug=True)[1] == 2.5
    for targets in (torch.zeros(3, 1, dtype=torch.long), torch.zeros(3), torch.zeros(3, dtype=torch.complex64)):
        with pytest.raises(ValueError, match=r"why: targets must be class numbers \(B\), got \(3"):
            criterion.class_targets(targets, "why")


def test_the_scale_is_that_of_training_and_the_mode_decides():
    head, second = dismax()
    assert second.logit_scale == 10 and not second.mixes and second.unmixed(5) == 5
    head.eval()
    assert second.logit_scale == 1 and second.alpha == 1.0 and second.batches_to_accumulate == 32
    mixed = dismax(regularization="fpr")[1]
    assert [mixed.unmixed(size) for size in (1, 2, 3, 4, 5)] == [1, 1, 1, 2, 2] and mixed.mixes
    for options, said in (({"regularization": "x"}, 'None or "fpr", got'),
                          ({"regularization": "fpr", "label_smoothing": 0.1}, "does not go with")):
        with pytest.raises(ValueError, match=said):
            dismax(**options)
    assert dismax(label_smoothing=0.1)[1].label_smoothing == 0.1


def test_a_mixed_image_has_a_quarter_of_each_of_its_classes():
    targets = torch.tensor([0, 1, 2, 2, -100, 1, 1, 1, 1])
    four, known = four_classes(targets)
    assert known.tolist() == [True, True, True, True, False, False, False, False, True]
    assert four[3].tolist() == [2, 2, 1, 0] and four[4].tolist() == [0] * 4 and four.dtype == torch.int64
    q = fractional_targets(targets, 4)
    assert q[3].tolist() == [0.25, 0.25, 0.5, 0] and q[8].tolist() == [0, 1, 0, 0] and q[5].tolist() == [0] * 4
    assert q.dtype == torch.float32 and fractional_targets(targets, 4, torch.float64).dtype == torch.float64


def test_a_batch_is_split_into_rows_with_classes_and_weights():
    targets = torch.tensor([2, -100, 1, 0], dtype=torch.int32)
    head, second = dismax(alpha=3.0)
    classes, weights = second.split_targets(targets)
    assert classes.tolist() == [[2] * 4, [0] * 4, [1] * 4, [0] * 4] and classes.dtype == torch.int64
    assert weights.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    assert second.split_targets(targets[1:2])[1].tolist() == [0]
    mixed = DisMaxLossSecondPart(head, "fpr", alpha=3.0)
    classes, weights = mixed.split_targets(torch.tensor([2, -100, 1, 0]))
    assert classes.tolist() == [[2] * 4, [0] * 4, [1, 0, 1, 0], [0, 1, 0, 1]]
    assert weights.tolist() == pytest.approx([1 / 2, 0, 3 / 4, 3 / 4])
    assert torch.equal(mixed.split_targets(targets[:1])[0], torch.tensor([[2] * 4]))
    head.eval()
    assert mixed.split_targets(targets)[1].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    head.train()
    head(torch.randn(4, 4))
    logits = torch.randn(4, 3)
    found = mixed.partial_loss(logits, classes, weights)
    log_p = (10 * logits).log_softmax(1)
    kl = [-log_p[0, 2], *((math.log(0.5) - log_p[k, :2].mean()) for k in (2, 3))]
    assert found.item() == pytest.approx((kl[0] / 2 + 3 / 4 * (kl[1] + kl[2])).item(), rel=1e-5)
    with pytest.raises(ValueError, match="a batch with soft targets cannot be split: targets must be class numbers"):
        second.split_targets(torch.rand(2, 3))


def test_preprocessing_shuffles_inputs_and_targets_alike():
    images = torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 2)
    for options, plain in (({}, 6), ({"regularization": "fpr"}, 3)):
        torch.manual_seed(0)
        mixed, targets = dismax(7, **options)[1].preprocess(images, torch.arange(6))
        assert mixed[:plain, 0, 0,
                     0].tolist() == targets[:plain].tolist() and sorted(targets.tolist()) == list(range(6))
        assert targets.tolist() != list(range(6)) and mixed[:, 0, 0, 0].tolist() == targets.tolist()
        assert bool((mixed[plain:, 0, 1, 1] == targets[plain:]).all()) == (plain == 6 or torch.equal(
            targets[plain:].roll(3), targets[plain:]))
    one, target = dismax(7, regularization="fpr")[1].preprocess(images[:1], torch.tensor([4]))
    assert one.shape == (1, 1, 2, 2) and target.tolist() == [4]


# ---- attach ----

def test_the_right_layer_is_replaced_and_the_number_of_classes_told():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    second = attach(model, "dismax", num_classes=7, alpha=0.5)
    assert model[2] is second.model_classifier and (model[2].num_features, model[2].num_classes) == (4, 7)
    assert second.alpha == 0.5 and not second.mixes and attach(model, "dismax", regularization="fpr").mixes
    model.config = type("Config", (), {"num_labels": 5})()
    model.num_classes, model.num_labels = 5, 6
    _tell(model, 5, 7)
    assert (model.num_classes, model.num_labels, model.config.num_labels) == (7, 6, 7)
    _tell(nn.Linear(1, 1), 5, 7)
    with pytest.raises(ValueError, match='regularization=\'fpr\' belongs to "dismax", not to \'softmax\''):
        attach(model, "softmax", regularization="fpr")
    assert list(LOSSES) == ["softmax", "isomax", "isomaxplus", "dismax", "dismax_fpr"]
