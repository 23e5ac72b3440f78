"""Golden values of the published code, its surface, and what is refused."""
import pytest
import torch

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


@pytest.mark.parametrize("zero_bias", [True, False])
def test_a_softmax_head_begins_as_published(zero_bias):
    """DisMax's with a bias of 0; SDDE's as nn.Linear, whose weights and bias are uniform in ±1/√F."""
    torch.manual_seed(1)
    layer, linear = SoftMaxLossFirstPart(64, 2000, zero_bias=zero_bias), torch.nn.Linear(64, 2000)
    drawn = [(layer.weights, linear.weight)] + ([] if zero_bias else [(layer.bias, linear.bias)])
    assert layer.bias.any() == (not zero_bias)
    for ours, theirs in drawn:
        assert ours.shape == theirs.shape and not torch.equal(ours, theirs) and ours.abs().max() <= 1 / 8
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)
