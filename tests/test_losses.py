"""Golden values of the published code, and the claims that ours makes beyond it."""
import math

import pytest
import torch
import torch.nn.functional as F

from losses import (
    LOSSES,
    DisMaxLossFirstPart,
    DisMaxLossSecondPart,
    IsoMaxLossFirstPart,
    IsoMaxLossSecondPart,
    IsoMaxPlusLossFirstPart,
    IsoMaxPlusLossSecondPart,
    SoftMaxLossFirstPart,
    SoftMaxLossSecondPart,
)
from losses.calibration import SCORES
from losses.dismax import PERCENTILES, fractional_targets, mix_quadrants
from losses.distances import _cosine_distance_logits_by_autograd, cosine_distance_logits, euclidean_distances

FEATURES = torch.tensor([[3.0, 4], [1, 0], [-1, 1], [0, -2]])
ROWS = torch.tensor([[1.0, 0], [0, 2], [-3, -4]])
LABELS = torch.tensor([1, 0, 2, 2])


def head(first_part):
    """The first part of the parity vectors: ROWS as weights or prototypes, distance scale −2."""
    layer = first_part(2, 3)
    with torch.no_grad():
        for name, value in (("weights", ROWS), ("prototypes", ROWS), ("bias", torch.tensor([0.5, 0, -0.5]))):
            if hasattr(layer, name):
                getattr(layer, name).copy_(value)
        if hasattr(layer, "distance_scale"):
            layer.distance_scale.fill_(-2)
    return layer


# ---- values printed by the published code (dismax.md section 10) ----

@pytest.mark.parametrize(
    "first, second, row, train_loss, eval_loss",
    [
        (SoftMaxLossFirstPart, SoftMaxLossSecondPart, [3.5, 8, -25.5], 0.956323, 0.956323),
        (IsoMaxLossFirstPart, IsoMaxLossSecondPart, [-4.472136, -3.605551, -10], 13.351196, 13.351196),
        (IsoMaxPlusLossFirstPart, IsoMaxPlusLossSecondPart, [-1.788854, -1.264911, -4], 3.729028, 3.729028),
        (DisMaxLossFirstPart, DisMaxLossSecondPart, [-2.927500, -2.557016, -4.491015], 2.641973, 0.673236),
    ],
)
def test_golden_logits_and_losses(first, second, row, train_loss, eval_loss):
    layer = head(first)
    criterion = second(layer)
    logits = layer(FEATURES)
    assert logits[0].tolist() == pytest.approx(row, abs=2e-6)
    assert criterion(logits, LABELS).item() == pytest.approx(train_loss, abs=2e-6)
    layer.eval()
    assert criterion(logits, LABELS).item() == pytest.approx(eval_loss, abs=2e-6)


DISMAX_LOGITS = [
    [-2.927500, -2.557016, -4.491015], [-1.509941, -3.509941, -4.039763],
    [-4.557214, -3.026481, -4.080835], [-3.907618, -4.736045, -2.802045],
]


def test_golden_dismax_logits():
    assert torch.allclose(head(DisMaxLossFirstPart)(FEATURES), torch.tensor(DISMAX_LOGITS), atol=2e-6)


@pytest.mark.parametrize(
    "score_type, expected",
    [
        ("MPS", [0.544968, 0.823040, 0.639062, 0.677695]),
        ("ES", [-0.898792, -0.583415, -0.894184, -0.826553]),
        ("MDS", [-2.557016, -1.509941, -3.026481, -2.802045]),
        ("MMLS", [-5.882193, -4.529822, -6.914658, -6.617282]),
        ("MMLES", [-6.780984, -5.113237, -7.808842, -7.443835]),
        ("MMLEPS", [-6.236016, -4.290197, -7.169780, -6.766140]),
    ],
)
def test_golden_scores(score_type, expected):
    layer = head(DisMaxLossFirstPart)
    assert layer.score_type == "MMLES"
    layer.score_type = score_type
    logits = layer(FEATURES)
    scores = layer.scores(logits)
    if score_type == "MPS":  # as log odds, whose sigmoid is the published probability
        assert layer.probabilities(logits).amax(1).tolist() == pytest.approx(expected, abs=3e-6)
        scores = scores.sigmoid()
    assert scores.tolist() == pytest.approx(expected, abs=3e-6)


@pytest.mark.parametrize(
    "extra, labels, alpha, expected",
    [
        ([], [1, 0, 2, 1], 1, 3.394956), ([], [1, 0, 2, 1], 0.5, 1.700516),
        ([[2.0, -1]], [1, 0, 2, 1, 0], 1, 4.440753), ([[2.0, -1]], [1, 0, 2, 1, 0], 0.5, 2.223414),
    ],
)
def test_golden_fpr_losses(extra, labels, alpha, expected):
    """Even and odd batches; the cross-entropy's weight is halved too, so alpha = 0.5 is about half of all here."""
    layer = head(DisMaxLossFirstPart)
    features = torch.cat([FEATURES, torch.tensor(extra).reshape(-1, 2)])
    loss = DisMaxLossSecondPart(layer, "fpr", alpha)(layer(features), torch.tensor(labels))
    assert loss.item() == pytest.approx(expected, abs=3e-6)


# ---- the compatibility surface ----

def test_state_dict_keys_are_the_published_ones():
    """And, of every head, those of DisMax's buffers and of what its thresholds were made for."""
    buffers = {"temperature", "validationset_available", "precomputed_thresholds", "thresholds_temperature",
               "thresholds_score"}
    keys = {name: set(first(8, 3).state_dict()) for name, (first, _) in LOSSES.items()}
    assert all(buffers <= found for found in keys.values())
    assert keys["softmax"] - buffers == {"weights", "bias"}
    assert keys["isomax"] - buffers == {"prototypes"}
    assert keys["isomaxplus"] - buffers == keys["dismax"] - buffers == {"distance_scale", "prototypes"}
    layer = DisMaxLossFirstPart(8, 3)
    assert layer.precomputed_thresholds.shape == (2, 25) and layer.precomputed_thresholds.isnan().all()
    assert layer.validationset_available.tolist() == [False] and layer.temperature.tolist() == [1.0]
    assert {name for name, _ in layer.named_parameters()} == {"distance_scale", "prototypes"}, "the rest are buffers"


def test_a_published_checkpoint_loads():
    """Non-trainable Parameters there, among them uninitialised thresholds; buffers here, under the same keys."""
    published = {
        "distance_scale": torch.tensor([3.0]), "prototypes": torch.randn(3, 8), "temperature": torch.tensor([1.0]),
        "validationset_available": torch.tensor([True]), "precomputed_thresholds": torch.full((2, 25), -1e30),
    }
    layer = DisMaxLossFirstPart(8, 3)
    layer.load_state_dict(published)
    assert layer.distance_scale.item() == 3


def test_attributes_and_printing():
    layer = DisMaxLossFirstPart(8, 3, temperature=2.0)
    assert repr(layer) == "DisMaxLossFirstPart(num_features=8, num_classes=3)"
    assert repr(SoftMaxLossFirstPart(8, 3)) == "SoftMaxLossFirstPart(num_features=8, num_classes=3, bias=True)"
    criterion = DisMaxLossSecondPart(layer, "fpr", 0.5)
    assert (criterion.alpha, criterion.regularization, criterion.batches_to_accumulate) == (0.5, "fpr", 32)
    assert (criterion.entropic_scale, criterion.accumulated_batches) == (10, 0)
    assert criterion.accumulated_scores == {"train": [], "validation": []} and criterion.model_classifier is layer
    assert IsoMaxLossSecondPart(IsoMaxLossFirstPart(8, 3), entropic_scale=5.0).entropic_scale == 5.0
    assert isinstance(SoftMaxLossSecondPart(layer).loss, torch.nn.CrossEntropyLoss)


@pytest.mark.parametrize("name", LOSSES)
def test_published_recipe_in_a_plain_model(name):
    """The four lines, in somebody's own loop: replace the layer, the criterion, preprocess, scores."""
    torch.manual_seed(0)
    first, second = LOSSES[name]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 16), torch.nn.ReLU())
    model.classifier = first(16, 5)
    criterion = second(model.classifier)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    inputs, targets = torch.randn(20, 3, 8, 8), torch.arange(20) % 5
    kept = inputs.clone()
    losses = []
    for _ in range(30):
        x, y = criterion.preprocess(inputs, targets)
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and torch.equal(inputs, kept), "learns, and leaves the caller's tensors alone"
    model.eval()
    outputs = model(inputs)
    assert model.classifier.scores(outputs).shape == (20,)
    loss, scale, inter, intra = criterion(outputs, targets, debug=True)
    assert inter.shape == (20 * 4,) and intra.shape == (20,) and loss.dim() == 0
    assert scale == (model.classifier.distance_scale.item() if hasattr(model.classifier, "distance_scale") else 1.0)
    assert intra == pytest.approx(outputs[torch.arange(20), targets].detach().numpy())


# ---- distances ----

def by_cdist(features, prototypes, scale):
    unit = F.normalize(features), F.normalize(prototypes)
    distances = scale * torch.cdist(*unit, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(2)
    return -(distances + distances.mean(1, keepdim=True))


def test_matmul_distances_equal_cdist_with_gradients():
    torch.manual_seed(0)
    inputs = [torch.randn(16, 64, requires_grad=True), torch.randn(10, 64, requires_grad=True),
              torch.tensor([1.7], requires_grad=True)]
    ours, reference = cosine_distance_logits(*inputs, True), by_cdist(*inputs)
    assert torch.allclose(ours, reference, atol=2e-6)
    weight = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, inputs, weight), torch.autograd.grad(reference, inputs, weight)):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    ours, reference = euclidean_distances(*inputs[:2]), torch.cdist(*inputs[:2])
    assert torch.allclose(ours, reference, atol=1e-5)


@pytest.mark.parametrize("to_all", [False, True])
def test_gradients_first_and_second_order(to_all):
    torch.manual_seed(0)
    inputs = (torch.randn(4, 6, dtype=torch.double, requires_grad=True),
              torch.randn(3, 6, dtype=torch.double, requires_grad=True),
              torch.tensor([1.3], dtype=torch.double, requires_grad=True))
    function = lambda *inputs: cosine_distance_logits(*inputs, to_all)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    assert torch.allclose(function(*inputs), _cosine_distance_logits_by_autograd(*inputs, to_all))


def test_gradients_skip_what_is_frozen():
    layer = DisMaxLossFirstPart(6, 3).requires_grad_(False)
    features = torch.randn(4, 6, requires_grad=True)
    layer(features).sum().backward()
    assert features.grad.isfinite().all() and layer.prototypes.grad is None


@pytest.mark.parametrize("name", ["isomax", "isomaxplus", "dismax"])
def test_distance_zero_has_distance_zero_and_gradient_zero(name):
    first, second = LOSSES[name]
    layer = first(2, 3)
    features = torch.tensor([[2.0, 0.0]], requires_grad=True)
    with torch.no_grad():
        layer.prototypes.copy_(torch.tensor([[2.0, 0.0]] * 3))
    layer(features)[0, 0].backward()
    assert torch.equal(features.grad, torch.zeros(1, 2)) and torch.equal(layer.prototypes.grad, torch.zeros(3, 2))
    assert layer(features).abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_zero_features_give_finite_logits_and_gradients(name):
    first, second = LOSSES[name]
    torch.manual_seed(0)
    layer = first(4, 3)
    features = torch.zeros(2, 4, requires_grad=True)
    second(layer)(layer(features), torch.tensor([0, 1])).backward()
    assert features.grad.isfinite().all() and features.grad.abs().max() < 100


def test_all_prototypes_term_changes_no_training_gradient():
    """DisMax without FPR trains like IsoMax+ with scale s/√2 (dismax.md section 1.1)."""
    torch.manual_seed(0)
    features, targets = torch.randn(8, 16), torch.arange(8) % 4
    dismax, plus = DisMaxLossFirstPart(16, 4), IsoMaxPlusLossFirstPart(16, 4)
    with torch.no_grad():
        plus.prototypes.copy_(dismax.prototypes)
        plus.distance_scale.copy_(dismax.distance_scale / math.sqrt(2))
    losses = []
    for layer, criterion in ((dismax, DisMaxLossSecondPart(dismax)), (plus, IsoMaxPlusLossSecondPart(plus))):
        losses.append(criterion(layer(features), targets))
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    assert torch.allclose(dismax.prototypes.grad, plus.prototypes.grad, atol=1e-7)


# ---- numerics ----

@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_the_head_in_float32(name, dtype):
    torch.manual_seed(0)
    first, second = LOSSES[name]
    layer = first(64, 10)
    features, targets = torch.randn(8, 64, requires_grad=True), torch.arange(8) % 10
    plain = layer(features)
    with torch.autocast("cpu", dtype):
        logits = layer(features)
        loss = second(layer)(logits, targets)
        half = layer(features.to(dtype))
    assert logits.dtype == loss.dtype == half.dtype == torch.float32
    assert torch.equal(logits, plain), "the same bits as without autocast"
    loss.backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_no_overflow_where_the_published_softmax_underflows(name):
    """A logit gap of 2000 after the entropic scale: the published loss is +inf with NaN gradients."""
    first, second = LOSSES[name]
    layer = first(4, 3)
    layer(torch.zeros(1, 4))  # a head that made no logits is refused
    logits = torch.tensor([[0.0, -200, -200]] * 4, requires_grad=True)
    loss = second(layer)(logits, torch.tensor([1, 1, 0, 0]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and loss > 50
    for score_type in SCORES:
        layer.score_type = score_type
        assert layer.scores(logits).isfinite().all()


def test_temperature_divides_the_logits():
    features = torch.randn(5, 8)
    for first, _ in LOSSES.values():
        torch.manual_seed(0)
        one = first(8, 3)
        torch.manual_seed(0)
        two = first(8, 3, temperature=2.0)
        if hasattr(one, "prototypes"):  # IsoMax's start at zero
            one.prototypes.data.normal_()
            two.prototypes.data.copy_(one.prototypes)
        assert torch.allclose(one(features) / 2, two(features), atol=1e-6)


# ---- FPR ----

def test_quadrants_come_from_the_images_before():
    """Batch of 8: image 5, second of the mixed half 4…7, has TL 5, BL 4, TR 7, BR 6, as seen in the published code."""
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 5, 6)  # cut at ⌊5/2⌋ = 2 rows, 3 columns
    mixed = mix_quadrants(images[4:])
    second = mixed[1]
    assert (second[:, :2, :3] == 5).all() and (second[:, 2:, :3] == 4).all()
    assert (second[:, :2, 3:] == 7).all() and (second[:, 2:, 3:] == 6).all()


@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_targets_wrap_as_the_quadrants_do(m):
    """Paint every image in its class: the share of each class in a mixed image is its target."""
    targets = torch.randperm(m) % 3
    images = targets.view(m, 1, 1, 1).expand(m, 1, 4, 4).float()
    share = torch.stack([(mix_quadrants(images) == c).float().mean((1, 2, 3)) for c in range(3)], 1)
    assert torch.equal(share, fractional_targets(targets, 3))


def test_fpr_loss_against_ten_plain_lines():
    torch.manual_seed(0)
    for batch in (2, 5, 8):
        layer = DisMaxLossFirstPart(16, 6)
        logits, targets = layer(torch.randn(batch, 16)), torch.randint(0, 6, (batch,))
        p = torch.softmax(10 * logits.double(), 1)
        h = batch // 2
        ce = -sum(p[i, targets[i]].log() for i in range(h)) / h
        kl = 0
        for i in range(batch - h):
            q = torch.zeros(6, dtype=torch.double)
            for k in range(4):
                q[targets[h + (i - k) % (batch - h)]] += 0.25
            kl = kl + sum(q[c] * (q[c].log() - p[h + i, c].log()) for c in range(6) if q[c] > 0) / (batch - h)
        ours = DisMaxLossSecondPart(layer, "fpr")(logits, targets)
        assert ours.item() == pytest.approx(((ce + kl) / 2).item(), abs=1e-5)


def test_preprocess_shuffles_and_mixes_only_the_second_half():
    torch.manual_seed(0)
    criterion = DisMaxLossSecondPart(DisMaxLossFirstPart(4, 9), "fpr")
    targets = torch.arange(9)
    inputs = targets.view(9, 1, 1, 1).expand(9, 3, 4, 4).float()
    x, y = criterion.preprocess(inputs, targets)
    assert criterion.unmixed(9) == 4 and sorted(y.tolist()) == list(range(9))
    assert torch.equal(x[:, 0, 0, 0], y.float()), "every image keeps its label's top-left quadrant"
    assert torch.equal(x[:4], y[:4].view(4, 1, 1, 1).expand(4, 3, 4, 4).float()), "the first half is whole"
    assert all(len(image.unique()) == 4 for image in x[4:])


def test_batch_of_one():
    layer = DisMaxLossFirstPart(4, 3)
    criterion = DisMaxLossSecondPart(layer, "fpr")
    x, y = criterion.preprocess(torch.randn(1, 3, 4, 4), torch.tensor([2]))
    logits = layer(torch.randn(1, 4))
    loss = criterion(logits, y)
    assert loss.item() == pytest.approx(F.cross_entropy(10 * logits, y).item()), "plain cross-entropy, not NaN"
    loss.backward()
    assert layer.prototypes.grad.isfinite().all()


def test_inputs_that_are_not_images():
    vectors, targets = torch.randn(6, 10), torch.arange(6) % 3
    x, y = DisMaxLossSecondPart(DisMaxLossFirstPart(4, 3)).preprocess(vectors, targets)
    assert x.shape == vectors.shape and sorted(x[:, 0].tolist()) == sorted(vectors[:, 0].tolist())
    with pytest.raises(ValueError, match=r"images \(B, C, H, W\)"):
        DisMaxLossSecondPart(DisMaxLossFirstPart(4, 3), "fpr").preprocess(vectors, targets)


def test_library_code_prints_nothing(capsys):
    layer = DisMaxLossFirstPart(4, 3)
    criterion = DisMaxLossSecondPart(layer, "fpr", batches_to_accumulate=1)
    x, y = criterion.preprocess(torch.randn(4, 3, 4, 4), torch.arange(4) % 3)
    layer.eval()
    criterion(layer(x.mean((2, 3)) @ torch.randn(3, 4)), y, precompute_thresholds=True)
    assert capsys.readouterr() == ("", "")


# ---- thresholds ----

def test_thresholds_describe_exactly_one_pass():
    """157 batches of a test pass: all of its scores and none of the pass before (the published window is 32 batches,
    across epochs)."""
    torch.manual_seed(0)
    layer = DisMaxLossFirstPart(4, 3)
    criterion = DisMaxLossSecondPart(layer)
    for _ in range(2):
        layer.train()
        criterion(layer(torch.randn(8, 4)), torch.zeros(8, dtype=torch.long))
        assert not layer.precomputed_thresholds[0].isfinite().any(), "nothing was asked of the training pass"
        layer.eval()
        scores = []
        for size in [64] * 156 + [16]:
            logits = layer(torch.randn(size, 4))
            scores.append(layer.scores(logits))
            criterion(logits, torch.zeros(size, dtype=torch.long), precompute_thresholds=True)
        expected = torch.quantile(torch.cat(scores).double(), torch.tensor(PERCENTILES, dtype=torch.double) / 100)
        assert torch.allclose(layer.precomputed_thresholds[1].double(), expected, atol=1e-6)
    assert layer.validationset_available.item() is True


def test_thresholds_wait_for_enough_batches():
    layer = DisMaxLossFirstPart(4, 3).eval()
    criterion = DisMaxLossSecondPart(layer)
    for batch in range(32):
        assert layer.precomputed_thresholds.isnan().all() and criterion.accumulated_batches == batch
        criterion(layer(torch.randn(8, 4)), torch.zeros(8, dtype=torch.long), precompute_thresholds=True)
    assert layer.precomputed_thresholds[1].isfinite().all()


# ---- bad input ----

@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DisMaxLossFirstPart(0, 3), "at least 1"),
        (lambda: SoftMaxLossFirstPart(4, 3, temperature=0), "temperature must be positive"),
        (lambda: DisMaxLossFirstPart(4, 3)(torch.randn(2, 5)), r"features must be \(B, 4\), got \(2, 5\)"),
        (lambda: DisMaxLossFirstPart(4, 3)(torch.randn(4)), r"features must be \(B, 4\)"),
        (lambda: DisMaxLossSecondPart(DisMaxLossFirstPart(4, 3), "FPR"), 'None or "fpr"'),
        (lambda: DisMaxLossFirstPart(4, 3).store_thresholds(torch.randn(5), "test"), "unknown partition 'test'"),
        (lambda: DisMaxLossFirstPart(4, 3).store_thresholds(torch.randn(0)), "no scores"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_score_type_lists_the_valid_ones():
    layer = DisMaxLossFirstPart(4, 3)
    layer.score_type = "MLES"
    with pytest.raises(ValueError, match="MPS, ES, MDS, MMLS, MMLES, MMLEPS"):
        layer.scores(torch.zeros(2, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", LOSSES)
def test_everything_follows_the_tensors_device(name):
    first, second = LOSSES[name]
    torch.manual_seed(0)
    layer = first(64, 10)
    features, targets = torch.randn(16, 64), torch.arange(16) % 10
    expected = second(layer)(layer(features), targets)
    layer.cuda()
    criterion = second(layer)
    x, y = criterion.preprocess(torch.randn(16, 3, 8, 8).cuda(), targets.cuda())
    assert x.is_cuda and y.is_cuda
    assert criterion(layer(features.cuda()), targets.cuda()).item() == pytest.approx(expected.item(), rel=1e-4)
