"""Diversity losses at the edges: one member, dead maps, autocast, bad input; and that SDDE's does what it claims."""
import pytest
import torch
from diversity_inputs import F64, LABELS, golden_logits, golden_maps, member

from losses.diversity import (
    ADPDiversityLoss,
    DiceDiscriminator,
    DiceDiversityLoss,
    GradCAMDiversityLoss,
    InputGradientDiversityLoss,
    NCLDiversityLoss,
    OEDiversityLoss,
)


def every_loss(n, b=4):
    maps, logits = golden_maps()
    images = torch.randn(n, b, 2, 3, 3, dtype=F64, requires_grad=True)
    z = torch.einsum("nbchw,ck->nbk", images, torch.randn(2, 5, dtype=F64)) ** 2
    discriminator = DiceDiscriminator(5, 5).double()
    yield NCLDiversityLoss(), {"logits": z}
    yield ADPDiversityLoss(2, 0.5), {"logits": z, "labels": LABELS[:b]}
    yield OEDiversityLoss(), {"logits": z}
    yield DiceDiversityLoss(discriminator), {"features": list(z), "labels": LABELS[:b]}
    yield InputGradientDiversityLoss("gt"), {"logits": z, "images": images, "labels": LABELS[:b]}
    yield GradCAMDiversityLoss(), {"logits": logits[:n, :b], "labels": LABELS[:b], "feature_maps": maps[:n]}


def test_one_member_or_one_sample_is_no_nan():
    for loss, given in every_loss(1):
        value = loss(**given)
        assert value.isfinite() and value.requires_grad, type(loss)
        if not isinstance(loss, (ADPDiversityLoss, OEDiversityLoss)):
            assert value.item() == 0, "one member is like no other"
    maps, logits = golden_maps()
    one = [m[:1].detach().requires_grad_() for m in maps]
    z = torch.stack([(m**2).mean((2, 3)) @ torch.ones(2, 5, dtype=F64) for m in one])
    assert GradCAMDiversityLoss()(logits=z, labels=LABELS[:1], feature_maps=one).isfinite()


def test_dead_maps_are_counted_and_cost_nothing():
    maps = [torch.rand(4, 2, 5, 5, requires_grad=True) for _ in range(2)]
    signs = (1.0, -1.0)  # the second member's map is zero everywhere after the ReLU
    logits = torch.stack([s * m.mean((2, 3)).sum(1, keepdim=True).expand(-1, 5) for s, m in zip(signs, maps)])
    loss = GradCAMDiversityLoss()
    value = loss(labels=LABELS, logits=logits, feature_maps=maps)
    assert value.item() == 0 and loss.dead_fraction.item() == 0.5
    assert all(g is None or g.isfinite().all() for g in torch.autograd.grad(value, maps, allow_unused=True))


def test_float32_inside_autocast():
    """bfloat16 maps and logits of a network under autocast; the loss is what float32 gives for the same maps."""
    members = [member(k) for k in range(3)]
    x = torch.randn(4, 2, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        maps = [body(x) for body, _ in members]
        logits = torch.stack([tail(m) for (_, tail), m in zip(members, maps)])
        value = GradCAMDiversityLoss()(labels=LABELS, logits=logits, feature_maps=maps)
        assert value.dtype == torch.float32 and value.isfinite()
        value.backward()
    for loss, given in every_loss(3):
        if not isinstance(loss, (GradCAMDiversityLoss, InputGradientDiversityLoss, DiceDiversityLoss)):
            half = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in given.items()}
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(**half)
            assert value.dtype == torch.float32
            exact = loss(**{k: v.float() if v.is_floating_point() else v for k, v in half.items()})
            assert torch.equal(value, exact)


def test_small_logits_are_the_smaller_half():
    for classes in (5, 6):
        z = torch.randn(2, 4, classes, dtype=F64)
        expected = z.sort(2).values[..., : classes // 2].mean(2).sum()
        assert GradCAMDiversityLoss("small_logits").output(z, LABELS).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("make, message", [
    (lambda: GradCAMDiversityLoss(mode="gt"), "unknown mode 'gt': choose from gt_logit, gt_prob"),
    (lambda: GradCAMDiversityLoss(similarity="dot"), "unknown similarity 'dot': choose from cosine, iou"),
    (lambda: GradCAMDiversityLoss(activation="gelu"), "unknown activation 'gelu': choose from relu"),
    (lambda: GradCAMDiversityLoss(padding=-1), "padding must be 0 or more"),
    (lambda: InputGradientDiversityLoss("mean"), "unknown mode 'mean': choose from max, min, gt, sum"),
    (lambda: NCLDiversityLoss()(labels=LABELS), "needs logits="),
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits()), "needs labels="),
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits(), labels=LABELS[:2]), r"one label per sample, \(4,\)"),
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits(), labels=LABELS + 1), r"labels in \[0, 5\), got 1 to 5"),
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits(), labels=LABELS.double()), "class numbers, got"),
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits()[..., :1], labels=0 * LABELS), "at least two classes"),
    (lambda: OEDiversityLoss()(logits=torch.zeros(3, 0, 5)), "not empty"),
    (lambda: OEDiversityLoss()(logits=torch.zeros(3, 5)), r"\(N, B, L\)"),
    (lambda: DiceDiversityLoss(None)(labels=LABELS), "needs features="),
    (lambda: DiceDiversityLoss(None)(labels=LABELS[:0], features=[torch.zeros(0, 3)] * 2), "at least one sample"),
    (lambda: InputGradientDiversityLoss("gt")(images=torch.ones(3, 4, 1), logits=golden_logits(), labels=LABELS),
     "requiring gradients"),
])
def test_bad_input_is_refused_in_words(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_maps_that_lead_nowhere_are_refused_with_the_reason():
    maps, logits = golden_maps()
    loss = GradCAMDiversityLoss()
    for wrong, message in ((torch.stack(maps), "stacked after the forward"), ([m.detach() for m in maps], "detached"),
                           ([m * 1 for m in maps], "do not depend on these feature_maps"), (maps[:2], "list of 3 maps"),
                           (None, "needs feature_maps=")):
        with pytest.raises(ValueError, match=message):
            loss(labels=LABELS, logits=logits, feature_maps=wrong)
    with pytest.raises(ValueError, match="a padding of 3 leaves nothing of maps of 6×6 pixels"):
        GradCAMDiversityLoss(padding=3)(labels=LABELS, logits=logits, feature_maps=maps)
    maps, logits = golden_maps(5)
    with pytest.raises(ValueError, match="a padding of 2 leaves a single pixel of maps of 5×5 pixels"):
        GradCAMDiversityLoss(padding=2)(labels=LABELS, logits=logits, feature_maps=maps)
    with pytest.raises(ValueError, match="needs at least two classes"):
        GradCAMDiversityLoss("alt_logits")(labels=0 * LABELS, logits=logits[..., :1], feature_maps=maps)


def test_it_does_what_it_claims():
    """A few steps on the loss alone: the members' maps become less alike."""
    members = [member(k) for k in range(3)]
    parameters = [p for pair in members for part in pair for p in part.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.5)
    x = torch.randn(4, 2, 9, 9)
    values = []
    for _ in range(30):
        maps = [body(x) for body, _ in members]
        logits = torch.stack([tail(m) for (_, tail), m in zip(members, maps)])
        value = GradCAMDiversityLoss()(labels=LABELS, logits=logits, feature_maps=maps)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.2 and min(values) >= -0.5 - 1e-4
