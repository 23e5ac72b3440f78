"""Diversity losses where networks are stacked, compiled, normalised over the batch, or attend with fused kernels."""
import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from diversity_inputs import LABELS
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from losses import diversity
from losses.diversity import (
    ADPDiversityLoss,
    DiceDiversityLoss,
    DiversityLoss,
    GradCAMDiversityLoss,
    InputGradientDiversityLoss,
    NCLDiversityLoss,
    OEDiversityLoss,
)


def members(normalised=False, n=3):
    """Bodies that make maps (B, 4, 7, 7), and tails that make logits (B, 5) from them."""
    torch.manual_seed(0)
    bodies = nn.ModuleList(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh()) for _ in range(n))
    norm = lambda: nn.BatchNorm2d(4) if normalised else nn.Identity()
    tails = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3), norm(), nn.Tanh(), nn.Flatten(), nn.Linear(100, 5))
                          for _ in range(n))
    return bodies, tails, torch.randn(4, 2, 9, 9)


def run(bodies, tails, x):
    maps = [body(x) for body in bodies]
    return maps, torch.stack([tail(m) for tail, m in zip(tails, maps)])


# ---- stacked maps ----

@pytest.mark.parametrize("mode", ["gt_logit", "alt_probs"])
def test_a_stacked_tensor_that_the_logits_come_from(mode):
    """Value and gradients of the list form, whether tails are given slices or unbound maps."""
    bodies, tails, x = members()
    parameters = [*bodies.parameters(), *tails.parameters()]
    maps, logits = run(bodies, tails, x)
    loss = GradCAMDiversityLoss(mode)
    expected = loss(labels=LABELS, logits=logits, feature_maps=maps)
    gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
    for parts in (lambda stacked: list(stacked), lambda stacked: stacked.unbind(0)):
        stacked = torch.stack([body(x) for body in bodies])  # (N, B, C, H, W)
        logits = torch.stack([tail(m) for tail, m in zip(tails, parts(stacked))])
        value = loss(labels=LABELS, logits=logits, feature_maps=stacked)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        for a, b in zip(torch.autograd.grad(value, parameters, allow_unused=True), gradients):
            assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, atol=1e-6))


def test_a_tensor_stacked_afterwards_is_refused():
    bodies, tails, x = members()
    maps, logits = run(bodies, tails, x)
    loss = GradCAMDiversityLoss()
    for wrong, message in (
            (torch.stack(maps), "stacked after the forward pass does not work"),
            (torch.stack(maps).detach(), "detached"), (torch.stack(maps)[:2], "a list of 3 maps.*got 2"),
            (torch.stack(maps)[:, :, 0], r"stacked feature_maps must be \(N, B, C, H, W\), got"),
            (torch.stack(maps)[:, :2], "with B = 4")):
        with pytest.raises(ValueError, match=message):
            loss(labels=LABELS, logits=logits, feature_maps=wrong)


# ---- networks without second derivatives ----

class Attends(nn.Module):
    """Maps to logits through attention over the pixels."""

    def __init__(self):
        super().__init__()
        self.project, self.out = nn.Linear(4, 3 * 16), nn.Linear(16, 5)

    def forward(self, maps):
        tokens = self.project(maps.flatten(2).mT)  # (B, 49, 48)
        q, k, v = tokens.unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)  # (B, 2, 49, 8) each
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


def test_fused_attention_is_named():
    bodies, _, x = members()
    tails = nn.ModuleList(Attends() for _ in range(3))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        maps, logits = run(bodies, tails, x)
        with pytest.raises(RuntimeError, match="second derivatives.*not implemented.*fused attention kernels"):
            GradCAMDiversityLoss()(labels=LABELS, logits=logits, feature_maps=maps)
        images = torch.stack([x] * 3).requires_grad_()
        logits = torch.stack([tail(body(i)) for body, tail, i in zip(bodies, tails, images)])
        with pytest.raises(RuntimeError, match="InputGradientDiversityLoss needs second derivatives"):
            InputGradientDiversityLoss("sum")(images=images, logits=logits)
    with sdpa_kernel(SDPBackend.MATH):
        maps, logits = run(bodies, tails, x)
        GradCAMDiversityLoss()(labels=LABELS, logits=logits, feature_maps=maps).backward()


def test_a_compiled_network_is_named():
    """Its tail has no second derivatives; compiled with its body, maps and logits are two outputs that do not depend on
    each other. (The whole loss compiled as one function works: test_fast.py.)"""
    bodies, tails, x = members()
    compiled = nn.ModuleList(torch.compile(tail, backend="aot_eager") for tail in tails)
    maps, logits = run(bodies, compiled, x)
    with pytest.raises(RuntimeError, match=r"second derivatives.*(double backward|donated).*compiled by torch.compile"):
        GradCAMDiversityLoss()(labels=LABELS, logits=logits, feature_maps=maps)
    maps, logits = torch.compile(run, backend="aot_eager")(bodies, tails, x)
    with pytest.raises(ValueError, match="do not depend on these feature_maps.*compiled by torch.compile"):
        GradCAMDiversityLoss()(labels=LABELS, logits=logits, feature_maps=maps)
    torch._dynamo.reset()


def test_other_errors_are_left_as_they_are():
    bodies, tails, x = members()
    maps, logits = run(bodies, tails, x)
    logits.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time") as caught:
        GradCAMDiversityLoss()(labels=LABELS, logits=logits, feature_maps=maps)
    assert "torch.compile" not in str(caught.value)


def test_the_trial_of_the_first_call_leaves_no_trace():
    """Gradients and random state are those of a later call, and parameters have no .grad after it."""
    bodies, tails, x = members()
    loss, results = GradCAMDiversityLoss(), []
    for _ in range(2):
        maps, logits = run(bodies, tails, x)
        torch.manual_seed(5)
        value = loss(labels=LABELS, logits=logits, feature_maps=maps)
        assert all(p.grad is None for p in bodies.parameters())
        results.append((value, torch.rand(1), torch.autograd.grad(value, list(bodies.parameters()))))
    (a, x1, ga), (b, x2, gb) = results
    assert torch.equal(a, b) and torch.equal(x1, x2) and all(torch.equal(p, q) for p, q in zip(ga, gb))


# ---- BatchNorm ----

def test_batch_norm_in_training_mode_is_warned_of():
    """Between maps and logits it mixes samples: a sample's weights depend on the others of the batch."""
    bodies, tails, x = members(normalised=True)

    def call(loss):
        maps, logits = run(bodies, tails, x)
        return loss(labels=LABELS, logits=logits, feature_maps=maps)

    with pytest.warns(UserWarning, match="GradCAMDiversityLoss: a BatchNorm in training mode mixes the samples"):
        call(GradCAMDiversityLoss())
    images = torch.stack([x] * 3).requires_grad_()
    logits = torch.stack([tail(body(i)) for body, tail, i in zip(bodies, tails, images)])
    with pytest.warns(UserWarning, match="InputGradientDiversityLoss: a BatchNorm"):
        InputGradientDiversityLoss("gt")(images=images, logits=logits, labels=LABELS)
    tails.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(GradCAMDiversityLoss())
        bodies.train()
        bodies[0].append(nn.BatchNorm2d(4))  # before the maps it is allowed
        call(GradCAMDiversityLoss())


# ---- one signature ----

def test_all_losses_share_one_signature():
    losses = [getattr(diversity, name) for name in diversity.__all__ if name.endswith("DiversityLoss")]
    assert len(losses) == 7
    for loss in losses:
        assert issubclass(loss, DiversityLoss) and "__call__" not in vars(loss) or loss is DiversityLoss
    assert list(inspect.signature(DiversityLoss.__call__).parameters) == [
        "self", "images", "labels", "logits", "features", "feature_maps"]


def test_arguments_that_a_loss_does_not_need_are_ignored():
    z = torch.randn(3, 4, 5)
    nonsense = {"images": "no images", "features": 7, "feature_maps": object()}
    assert NCLDiversityLoss()(logits=list(z), labels=None, **nonsense) == NCLDiversityLoss()(logits=z)
    assert OEDiversityLoss()(logits=z, labels=torch.ones(9), **nonsense).isfinite()
    assert ADPDiversityLoss(2, 0.5)(logits=z, labels=LABELS.int(), **nonsense).isfinite()


def test_features_of_different_shapes_are_refused():
    loss = DiceDiversityLoss(lambda a, b, y: (a * b).sum(1))
    with pytest.raises(ValueError, match=r"features of one shape \(B, D\) for every member, got \(4, 3\), \(4, 2\)"):
        loss(features=[torch.randn(4, 3), torch.randn(4, 2)], labels=LABELS)
    with pytest.raises(ValueError, match=r"one label per sample, \(4,\)"):
        loss(features=[torch.randn(4, 3)] * 2, labels=LABELS[:2])
    with pytest.raises(ValueError, match="needs features="):
        loss(features=[], labels=LABELS)


def test_a_loss_of_ones_own():
    """Checked, in float32 and without autocast, from one method."""
    class Variance(DiversityLoss):
        needs = ("logits",)

        def value(self, logits):
            assert logits.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
            return -logits.var(0).mean()

    z = torch.randn(3, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert Variance()(logits=z.bfloat16(), labels=LABELS) == -z.bfloat16().float().var(0).mean()
    with pytest.raises(ValueError, match="Variance needs logits="):
        Variance()()


@pytest.mark.parametrize("missing", [{"needs": ("logits",)}, {"value": lambda self: 0},
                                     {"needs": ("labels",), "value": lambda self, labels: 0}])
def test_an_incomplete_loss_of_ones_own_is_told_what_it_lacks(missing):
    with pytest.raises(TypeError, match="Mine must define `needs`.*logits or features.* and `value`"):
        type("Mine", (DiversityLoss,), missing)()(logits=torch.randn(3, 4, 5), labels=LABELS)
