"""Diversity losses: the published values and gradients, what they reward, and what they refuse."""
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn

from losses.diversity import (
    ADPDiversityLoss,
    DiceDiscriminator,
    DiceDiversityLoss,
    GradCAMDiversityLoss,
    InputGradientDiversityLoss,
    NCLDiversityLoss,
    OEDiversityLoss,
)
from losses.diversity.similarity import SIMILARITIES, cosine, expcosine, iou, neglogdet

F64 = torch.float64
LABELS = torch.tensor([0, 3, 1, 4])


def grid(*sizes):
    return torch.meshgrid(*(torch.arange(s, dtype=F64) for s in sizes), indexing="ij")


def golden_logits():
    n, b, k = grid(3, 4, 5)
    return 2 * torch.sin(1.3 * n + 0.7 * b + 0.5 * k**2 + 0.2 * n * k)


def golden_maps(side=6):
    """Maps A, and logits that come from them."""
    n, b, c, h, w = grid(3, 4, 2, side, side)
    maps = [m.requires_grad_() for m in 1 + torch.sin(0.9 * n + 0.4 * b + 1.1 * c + 0.8 * h - 0.5 * w + 0.3 * h * w)]
    k, c = grid(5, 2)
    logits = torch.stack([torch.einsum("bc,kc->bk", (m**2 / 2).mean((2, 3)), torch.cos(0.6 * i + 1.7 * k + 0.5 * c))
                          for i, m in enumerate(maps)])
    return maps, logits


# ---- golden values (sdde.md, section 1.7) ----

@pytest.mark.parametrize("loss, value", [
    (NCLDiversityLoss(), -0.09511691374282343), (ADPDiversityLoss(2, 0.5), -2.904090702442433),
    (ADPDiversityLoss(1, 0), -1.5654743170732792), (ADPDiversityLoss(0, 1), 0.45371586340825093),
    (OEDiversityLoss(), 2.3630719644341394),
])
def test_golden_values_of_logits(loss, value):
    assert loss(logits=golden_logits(), labels=LABELS).item() == pytest.approx(value, rel=1e-12)


def test_golden_value_of_dice():
    features = list(golden_logits())
    loss = DiceDiversityLoss(lambda a, b, y: 2 * (a * b).sum(1) - 0.5 * y)
    assert loss(features=features, labels=LABELS).item() == pytest.approx(-5.08833816804268, abs=1e-4)


@pytest.mark.parametrize("options, value", [
    ({}, 0.40440815494040677), ({"padding": 0}, 0.39661400366026783), ({"mode": "gt_prob"}, 0.22186656206861388),
    ({"mode": "alt_logits"}, 0.22598589422699247), ({"mode": "alt_probs"}, 0.326506613251945),
    ({"activation": "abs"}, 0.43447948272979003), ({"activation": "none"}, 0.6296600154640232),
    ({"similarity": "iou"}, 0.723404476407254), ({"similarity": "expcosine"}, 2.969855402980542),
    ({"similarity": "logdet"}, 16.13287165511158),
])
def test_golden_values_of_gradcam(options, value):
    maps, logits = golden_maps()
    loss = GradCAMDiversityLoss(**options)
    assert loss(labels=LABELS, logits=logits, feature_maps=maps).item() == pytest.approx(value, rel=1e-6)
    assert 12 * loss.dead_fraction.item() == pytest.approx(round(12 * loss.dead_fraction.item()))


@pytest.mark.parametrize("mode, value", [
    ("max", 0.030707120753122208), ("min", 0.15076955596751176), ("gt", 0.2211737790623217),
    ("sum", 0.26198595048210216)])
def test_golden_values_of_input_gradients(mode, value):
    n, b, c, h, w = grid(3, 4, 2, 6, 6)
    x = torch.sin(n + 0.3 * b + c + 0.2 * h * w + 0.1).requires_grad_()
    n, k, c, h, w = grid(3, 5, 2, 6, 6)
    logits = torch.einsum("nkchw,nbchw->nbk", torch.cos(0.7 * k + 0.9 * n + 0.4 * c + 0.25 * h + 0.35 * w), x**2 / 2)
    found = InputGradientDiversityLoss(mode)(images=x, labels=LABELS, logits=logits)
    assert found.item() == pytest.approx(value, rel=1e-6)


def test_hand_cases():
    logits = torch.tensor([[[0.2, 0.8]], [[0.6, 0.4]]], dtype=F64).log()
    assert NCLDiversityLoss()(logits=logits).item() == pytest.approx(-0.08)
    logits = torch.tensor([[[0.2, 0.4, 0.4]], [[0.6, 0.1, 0.3]]], dtype=F64).log()
    found = ADPDiversityLoss(0.2, 0.5)(logits=logits, labels=torch.tensor([2]))
    assert found.item() == pytest.approx(-0.0038343, abs=1e-5)


# ---- references ----

def naive_gradcam(maps, logits, labels, padding=1):
    """Member by member, sample by sample, pair by pair."""
    cams = []
    for a, z in zip(maps, logits):
        output = sum(z[b, y] for b, y in enumerate(labels))
        g, = torch.autograd.grad(output, a, create_graph=True)
        cam = torch.relu((g.mean((2, 3), keepdim=True) * a).sum(1))[:, padding:-padding, padding:-padding].flatten(1)
        cam = (cam - cam.mean(1, keepdim=True)) / (cam.std(1, keepdim=True, correction=0) + 1e-6)
        cams.append(cam / (cam.norm(dim=1, keepdim=True) + 1e-6))
    pairs = [(i, j) for i in range(len(cams)) for j in range(len(cams)) if i != j]
    return sum((cams[i] * cams[j]).sum(1).mean() for i, j in pairs) / len(pairs)


def member(seed):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh())
    return body, nn.Sequential(nn.Conv2d(4, 5, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 5))


def test_gradcam_gradients_reach_the_weights_on_both_sides():
    """Of two-stage members, against the naive form in float64."""
    members = [tuple(part.double() for part in member(k)) for k in range(3)]
    parameters = [p for pair in members for part in pair for p in part.parameters()]
    x = torch.randn(4, 2, 9, 9, dtype=F64)
    results = []
    for loss in (naive_gradcam, lambda a, z, y: GradCAMDiversityLoss()(labels=y, logits=z, feature_maps=a)):
        maps = [body(x) for body, _ in members]
        logits = torch.stack([tail(m) for (_, tail), m in zip(members, maps)])
        value = loss(maps, logits, LABELS)
        results.append((value, torch.autograd.grad(value, parameters, allow_unused=True)))
    (a, a_grads), (b, b_grads) = results
    assert a.item() == pytest.approx(b.item(), rel=1e-9)
    for left, right in zip(a_grads, b_grads):
        assert (left is None) == (right is None)
        assert left is None or torch.allclose(left, right, rtol=1e-6, atol=1e-12)
    assert sum(g is not None and bool(g.any()) for g in b_grads) > len(parameters) * 0.7


def test_similarities_against_loops():
    s = torch.rand(3, 4, 7, dtype=F64)
    unit = s / (s.norm(dim=2, keepdim=True) + 1e-6)
    scaled = (s - s.amin(2, keepdim=True)) / (s.amax(2, keepdim=True) - s.amin(2, keepdim=True) + 1e-6)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    cosines = torch.stack([(unit[i] * unit[j]).sum(1) for i, j in pairs])
    assert cosine(s).item() == pytest.approx(cosines.mean().item())
    assert expcosine(s).item() == pytest.approx((cosines.exp().sum() / 2).log().item())
    grams = [unit[:, b] @ unit[:, b].T + 1e-5 * torch.eye(3, dtype=F64) for b in range(4)]
    assert neglogdet(s).item() == pytest.approx(-sum(g.logdet() for g in grams).item() / 4)
    products = [((scaled[i] * scaled[j]).sum(1), (scaled[i] ** 2 + scaled[j] ** 2).sum(1)) for i, j in pairs]
    assert iou(s).item() == pytest.approx(torch.stack([(p + 1e-6) / (q - p + 1e-6) for p, q in products]).mean().item())


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_do_not_depend_on_the_order_of_members_or_samples(name):
    s = torch.randn(4, 6, 9, dtype=F64)
    value = SIMILARITIES[name](s)
    assert torch.allclose(value, SIMILARITIES[name](s[torch.randperm(4)]))
    assert torch.allclose(value, SIMILARITIES[name](s[:, torch.randperm(6)]))
    assert torch.autograd.gradcheck(SIMILARITIES[name], s.requires_grad_())


def test_extremes():
    s = torch.randn(1, 5, 9, dtype=F64)
    assert cosine(s.expand(4, -1, -1)).item() == pytest.approx(1, abs=1e-5), "the same everywhere"
    simplex = torch.eye(5, dtype=F64) - 0.2
    assert cosine(simplex[:, None]).item() == pytest.approx(-0.25, abs=1e-5), "as different as five can be"
    assert neglogdet(s.expand(5, -1, -1)).item() == pytest.approx(44.45, abs=0.05)


def test_ncl_is_minus_the_spread():
    z = torch.randn(5, 7, 10, dtype=F64, requires_grad=True)
    p = z.softmax(2)
    spread = -((p - p.mean(0)) ** 2).sum() / (5 * 4 * 7)
    value = NCLDiversityLoss()(logits=z)
    assert value.item() == pytest.approx(spread.item())
    assert torch.allclose(*(torch.autograd.grad(v, z, retain_graph=True)[0] for v in (value, spread)))
    assert -1 / 5 <= value.item() <= 0


def test_oe_is_least_for_the_uniform_answer():
    assert OEDiversityLoss()(logits=torch.zeros(3, 4, 10)).item() == pytest.approx(2.3025851)
    assert OEDiversityLoss()(logits=torch.zeros(3, 4, 200)).item() == pytest.approx(5.2983174)


def published_adp(z, labels, alpha, beta):
    """As printed, sample by sample."""
    p = z.softmax(2)
    mean = p.mean(0)
    total = alpha * (mean * (mean + 1e-20).log()).sum(1).mean()
    for b, y in enumerate(labels):
        q = torch.cat([p[:, b, :y], p[:, b, y + 1 :]], 1)
        q = q / (q.norm(dim=1, keepdim=True) + 1e-6)
        total = total - beta * torch.logdet(q @ q.T + 1e-5 * torch.eye(len(q), dtype=F64)) / len(labels)
    return total


def test_adp_is_the_published_one_while_no_member_is_too_sure():
    torch.manual_seed(0)
    z = (2 * torch.randn(3, 4, 6, dtype=F64)).requires_grad_()
    ours, published = ADPDiversityLoss(2, 0.5)(logits=z, labels=LABELS), published_adp(z, LABELS, 2, 0.5)
    assert ours.item() == pytest.approx(published.item(), rel=1e-10)
    assert torch.allclose(*(torch.autograd.grad(value, z)[0] for value in (ours, published)), rtol=1e-8)


def test_adp_as_published_fades_where_members_are_certain():
    """−log det of q/(‖q‖ + 1e-6): the published formula, naively, in float64."""
    torch.manual_seed(0)
    for scale in (1, 30, 60):
        logits, labels = scale * torch.randn(3, 4, 5, dtype=torch.float64), torch.tensor([0, 3, 1, 4])
        p = logits.softmax(2)
        q = torch.stack([p[:, b, [c for c in range(5) if c != y]] for b, y in enumerate(labels.tolist())], 1)
        unit = (q / (q.norm(dim=2, keepdim=True) + 1e-6)).movedim(0, 1)
        expected = -torch.logdet(unit @ unit.mT + 1e-5 * torch.eye(3, dtype=torch.float64)).mean()
        assert torch.allclose(ADPDiversityLoss(0, 1, as_published=True)(labels=labels, logits=logits), expected)
    assert not torch.allclose(ADPDiversityLoss(0, 1)(labels=labels, logits=logits), expected)


def test_dice_as_published_saturates():
    """tau·tanh(r/tau) of r = −log(exp(−logsigmoid(s)) − 1 + 1e-6), where that does not overflow, in float64."""
    s = torch.tensor([-40.0, -3, 0, 5, 13, 20, 80], dtype=torch.float64, requires_grad=True)
    features = [torch.zeros(7, 1, dtype=torch.float64)] * 2
    loss = DiceDiversityLoss(lambda a, b, y: s, as_published=True)(labels=torch.arange(7), features=features)
    r = -torch.log(torch.exp(-torch.nn.functional.logsigmoid(s)) - 1 + 1e-6)
    assert torch.allclose(loss, (10 * torch.tanh(r / 10)).mean(), atol=1e-9)
    loss.backward()
    assert torch.isfinite(s.grad).all() and s.grad[-1].abs() < 1e-12, "no gradient where it is saturated"
    far = torch.tensor([-200.0], requires_grad=True)
    DiceDiversityLoss(lambda a, b, y: far, as_published=True)(labels=torch.zeros(1), features=[
        torch.zeros(1, 1)] * 2).backward()
    assert torch.isfinite(far.grad).all()


def test_adp_keeps_its_direction_when_members_are_sure():
    """Published, q fades to zero; a sure member's other classes still point somewhere."""
    z = torch.randn(3, 4, 6, dtype=F64)
    sure = z.clone()
    sure.scatter_(2, torch.tensor([0, 1, 2, 3]).expand(3, -1)[..., None], 80.0)
    labels = torch.tensor([0, 1, 2, 3])
    assert ADPDiversityLoss(0, 1)(logits=z, labels=labels).item() == pytest.approx(
        ADPDiversityLoss(0, 1)(logits=sure, labels=labels).item(), rel=0.01)
    assert published_adp(sure, labels, 0, 1).item() > 30, "published: three vectors of zeros"


# ---- DICE ----

def test_dice_is_bounded_with_finite_gradients():
    for size in (0, 1, 20, 100, 1e4, -100, -1e4):
        scale = torch.tensor(float(size), requires_grad=True)
        loss = DiceDiversityLoss(lambda a, b, y, scale=scale: scale * (a * b).sum(1))
        value = loss(features=[torch.ones(4, 1)] * 3, labels=LABELS)
        gradient, = torch.autograd.grad(value, scale)
        assert abs(value.item()) <= 10 and gradient.isfinite()
        assert value.item() == pytest.approx(10 * torch.tanh(torch.tensor(size / 10)).item())


def test_dice_pairs_members_and_leaves_the_discriminator_alone():
    torch.manual_seed(0)
    discriminator = DiceDiscriminator(5, 3).double()
    features = [torch.randn(4, 3, dtype=F64, requires_grad=True) for _ in range(3)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    value = DiceDiversityLoss(discriminator, tau=2)(features=features, labels=LABELS)
    ratios = [discriminator(features[i], features[j], LABELS) for i, j in pairs]
    expected = sum((2 * torch.tanh(r / 2)).mean() for r in ratios) / 3
    assert value.item() == pytest.approx(expected.item())
    ours, plain = torch.autograd.grad(value, features, retain_graph=True), torch.autograd.grad(expected, features)
    assert all(torch.allclose(a, b) for a, b in zip(ours, plain))
    value.backward()
    assert all(p.grad is None for p in discriminator.parameters())

    labels = torch.tensor([4, 1, 1, 4])
    loss, accuracy = discriminator.loss(features, labels)
    same = torch.stack([discriminator(features[i], features[j], labels) for i, j in pairs])
    other = torch.stack([discriminator(features[i], features[j][[3, 2, 1, 0]], labels) for i, j in pairs])
    assert loss.item() == pytest.approx(-(F.logsigmoid(same).mean() + F.logsigmoid(-other).mean()).item() / 2)
    assert accuracy.item() == pytest.approx(torch.cat([same > 0, other <= 0]).double().mean().item())
    loss.backward()
    assert all(p.grad is not None for p in discriminator.parameters()), "and its own loss teaches it"


def test_the_discriminator_learns_what_two_members_share():
    """Features with a common noise are told from others of their class, and independent ones are not."""
    accuracies = []
    for shared in (1.0, 0.0):
        torch.manual_seed(0)
        discriminator = DiceDiscriminator(4, 2)
        optimizer = torch.optim.RMSprop(discriminator.parameters(), 1e-3, momentum=0.9)
        labels = torch.arange(4).repeat_interleave(16)
        for _ in range(250):
            common = torch.randn(64, 2)
            features = [shared * common + 0.1 * torch.randn(64, 2) + labels[:, None] for _ in range(2)]
            loss, accuracy = discriminator.loss(features, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracies.append(accuracy.item())
    assert accuracies[0] > 0.8 > 0.65 > accuracies[1]


def test_the_discriminator_refuses_unequal_classes():
    discriminator = DiceDiscriminator(5, 3)
    features = [torch.randn(4, 3)] * 2
    loss, _ = discriminator.loss(features, torch.tensor([0, 3, 0, 3]))
    assert loss.isfinite()
    for labels in (LABELS, torch.tensor([0, 0, 0, 1])):
        with pytest.raises(ValueError, match="every class of a batch equally often, twice or more"):
            discriminator.loss(features, labels)


# ---- edges ----

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
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits(), labels=LABELS[:2]), r"one label a sample, \(4,\)"),
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits(), labels=LABELS + 1), r"labels in \[0, 5\), got 1 to 5"),
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits(), labels=LABELS.double()), "class numbers, got"),
    (lambda: ADPDiversityLoss(2, 1)(logits=golden_logits()[..., :1], labels=0 * LABELS), "at least two classes"),
    (lambda: OEDiversityLoss()(logits=torch.zeros(3, 0, 5)), "not empty"),
    (lambda: OEDiversityLoss()(logits=torch.zeros(3, 5)), r"\(N, B, L\)"),
    (lambda: DiceDiversityLoss(None)(labels=LABELS), "needs features="),
    (lambda: InputGradientDiversityLoss("gt")(images=torch.ones(3, 4, 1), logits=golden_logits(), labels=LABELS),
     "requiring gradients"),
])
def test_bad_input_is_refused_in_words(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_maps_that_lead_nowhere_are_refused_with_the_reason():
    maps, logits = golden_maps()
    loss = GradCAMDiversityLoss()
    for wrong, message in ((torch.stack(maps), "slices of a stacked tensor"), ([m.detach() for m in maps], "detached"),
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


# ---- the packages ----

def test_the_wheel_is_dismax_and_sdde_and_needs_only_torch(tmp_path):
    pytest.importorskip("setuptools")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
                    "--wheel-dir", tmp_path / "wheels", "."], cwd=copy_of_the_tree(tmp_path), check=True)
    wheel, = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist() if ".dist-info" not in name} == {"dismax", "sdde"}
        archive.extractall(tmp_path / "installed")
    code = ("import sys, torch; before = set(sys.modules); import sdde; "
            "print(sorted({m.split('.')[0] for m in set(sys.modules) - before})); "
            "print(sdde.NCLDiversityLoss()(logits=torch.zeros(2, 1, 3)).item() == 0); "
            "import dismax; print(dismax.LOSSES.keys())")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True)
    assert done.stdout.splitlines()[:2] == ["['sdde']", "True"] and "dismax_fpr" in done.stdout, done.stderr


def copy_of_the_tree(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "losses", tree / "losses", ignore=shutil.ignore_patterns("__pycache__"))
    return tree
