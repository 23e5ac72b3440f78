"""Diversity losses: the published values and gradients, and what they reward."""
import pytest
import torch
from diversity_inputs import F64, LABELS, golden_logits, golden_maps, grid, member

from losses.diversity import (
    ADPDiversityLoss,
    DiceDiversityLoss,
    GradCAMDiversityLoss,
    InputGradientDiversityLoss,
    NCLDiversityLoss,
    OEDiversityLoss,
)
from losses.diversity.similarity import SIMILARITIES, cosine, expcosine, iou, neglogdet

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


def test_adp_keeps_its_direction_when_members_are_sure():
    """Published, q fades to zero; a sure member's other classes still point somewhere."""
    torch.manual_seed(0)
    z = torch.randn(3, 4, 6, dtype=F64)
    sure = z.clone()
    sure.scatter_(2, torch.tensor([0, 1, 2, 3]).expand(3, -1)[..., None], 80.0)
    labels = torch.tensor([0, 1, 2, 3])
    assert ADPDiversityLoss(0, 1)(logits=z, labels=labels).item() == pytest.approx(
        ADPDiversityLoss(0, 1)(logits=sure, labels=labels).item(), rel=0.01)
    assert published_adp(sure, labels, 0, 1).item() > 30, "published: three vectors of zeros"
