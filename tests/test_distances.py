"""Distances by one matrix product: values, gradients and second derivatives, precision and overflow."""
import math

import pytest
import torch
from heads import by_cdist

from losses import LOSSES, DisMaxLossFirstPart, DisMaxLossSecondPart, IsoMaxPlusLossFirstPart, IsoMaxPlusLossSecondPart
from losses.calibration import SCORES
from losses.distances import _cosine_distance_logits_by_autograd, cosine_distance_logits, euclidean_distances

# ---- distances ----

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
