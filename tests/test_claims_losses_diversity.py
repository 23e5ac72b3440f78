"""Limits of the diversity losses, and closed forms of their parts."""
import math

import pytest
import torch
from torch import nn

from losses.diversity import (
    ADPDiversityLoss,
    DiceDiscriminator,
    DiceDiversityLoss,
    GradCAMDiversityLoss,
    InputGradientDiversityLoss,
    NCLDiversityLoss,
    OEDiversityLoss,
    base,
    dice,
    gradcam,
    second_order,
    similarity,
)


def test_labels_pick_and_leave_out_their_class():
    values = torch.arange(12.0).view(2, 2, 3)
    labels = torch.tensor([0, 2])
    assert base.of_label(values, labels).tolist() == [[0, 5], [6, 11]]
    assert base.without_label(values, labels).tolist() == [[[1, 2], [3, 4]], [[7, 8], [9, 10]]]


@pytest.mark.parametrize("labels, said", [
    ([0, 3], r"labels in \[0, 3\), got 0 to 3"), ([-1, 0], "got -1 to 0"),
    ([0.0, 1], "class numbers, got torch.float32"),
    ([True, False], "class numbers, got torch.bool"),
    ([0], r"one label per sample, \(2,\), for all members alike, got \(1,\)"),
    (None, r"needs labels=, \(B\) classes")])
def test_labels_are_checked(labels, said):
    loss = ADPDiversityLoss(1, 1)
    with pytest.raises(ValueError, match=f"ADPDiversityLoss needs .*{said}" if labels else said):
        loss(labels=None if labels is None else torch.tensor(labels), logits=torch.zeros(2, 2, 3))
    loss(labels=torch.tensor([0, 2], dtype=torch.int8), logits=[torch.zeros(2, 3), torch.zeros(2, 3)])


def test_logits_and_features_are_checked():
    for logits in (torch.zeros(2, 3), torch.zeros(2, 0, 3), torch.zeros(1, 1, 2, 3)):
        with pytest.raises(ValueError, match=r"logits of every member, \(N, B, L\) and not empty, got"):
            OEDiversityLoss()(logits=logits)
    loss = DiceDiversityLoss(lambda first, second, labels: first.sum(1))
    for features in (None, []):
        with pytest.raises(ValueError, match=r"features=, a list of N \(B, D\)"):
            loss(features=features, labels=torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"every member, got \(2, 3\), \(2, 4\)"):
        loss(features=[torch.zeros(2, 3), torch.zeros(2, 4)], labels=torch.zeros(2, dtype=torch.long))
    assert base.in_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert base.in_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(ValueError, match="unknown kind 3: choose from 1, 2"):
        base.choice("kind", 3, (1, 2))
    assert base.choice("kind", 2, (1, 2)) == 2


def test_similarities_of_three_members_by_hand():
    s = torch.randn(3, 2, 4, dtype=torch.float64)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    unit = s / s.norm(dim=2, keepdim=True)
    cos = torch.stack([(unit[i] * unit[j]).sum(1) for i, j in pairs])  # (pairs, B)
    assert similarity.cosine(s).item() == pytest.approx(cos.mean().item(), abs=1e-5)
    assert similarity.cosine(s, normalize=False).item() == pytest.approx(
        torch.stack([(s[i] * s[j]).sum(1) for i, j in pairs]).mean().item())
    assert similarity.expcosine(s).item() == pytest.approx(math.log(cos.exp().sum().item() / 2), abs=1e-5)
    gram = torch.stack([unit[:, b] @ unit[:, b].T + 1e-5 * torch.eye(3) for b in range(2)])
    assert similarity.neglogdet(s).item() == pytest.approx(-gram.logdet().mean().item(), abs=1e-4)
    scaled = (s - s.amin(2, keepdim=True)) / (s.amax(2, keepdim=True) - s.amin(2, keepdim=True))
    def iou(a, b):
        return (a * b).sum(1) / ((a * a).sum(1) + (b * b).sum(1) - (a * b).sum(1))
    assert similarity.iou(s).item() == pytest.approx(
        torch.stack([iou(scaled[i], scaled[j]) for i, j in pairs]).mean().item(), abs=1e-5)
    assert similarity.off_diagonal(torch.arange(9.0).view(1, 3, 3)).tolist() == [[1, 2, 3, 5, 6, 7]]
    assert similarity.flat(torch.zeros(1, 1, 2)).tolist() == [[[0, 0]]]


@pytest.mark.parametrize("name", ["cosine", "iou", "expcosine"])
def test_two_members_are_enough_and_one_is_nothing(name):
    s = torch.randn(2, 3, 4).requires_grad_()
    assert similarity.SIMILARITIES[name](s).item() != 0
    alone = similarity.SIMILARITIES[name](s[:1])
    assert alone.item() == 0 and alone.requires_grad
    assert similarity.nothing(s).item() == 0


def test_losses_of_logits_by_hand():
    logits, labels = torch.randn(3, 4, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 1])
    p = logits.softmax(2)
    assert OEDiversityLoss()(logits=logits).item() == pytest.approx(-(p.log().mean(2)).mean().item())
    d = p - p.mean(0)
    assert NCLDiversityLoss()(logits=logits).item() == pytest.approx(-(d**2).sum((0, 2)).mean().item() / 6)
    mean = p.mean(0)
    others = torch.stack([torch.stack([torch.cat([p[n, b, :k], p[n, b, k + 1:]]) for b, k in enumerate(labels)])
                          for n in range(3)])
    expected = 2 * (mean * mean.log()).sum(1).mean() + 0.5 * similarity.neglogdet(others)
    for published in (False, True):
        assert ADPDiversityLoss(2, 0.5, published)(labels=labels,
                                                   logits=logits).item() == pytest.approx(expected.item())
    sure = torch.tensor([[[60.0, 0, 1]], [[60.0, 1, 0]]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.long)
    assert ADPDiversityLoss(0, 1)(labels=zero, logits=sure) != pytest.approx(
        ADPDiversityLoss(0, 1, as_published=True)(labels=zero, logits=sure).item(), abs=0.1)
    with pytest.raises(ValueError, match="at least two classes"):
        ADPDiversityLoss(1, 1)(labels=zero, logits=torch.zeros(2, 1, 1))
    assert ADPDiversityLoss(1, 1)(labels=zero, logits=torch.zeros(2, 1, 2)).isfinite()


def test_pairs_are_each_member_with_each_later_one():
    features, others = [torch.full((2, 1), float(n)) for n in range(3)], [torch.full((2, 1), 10.0 + n)
                                                                          for n in range(3)]
    first, second, labels = dice.pairs(features, others, torch.tensor([5, 6]))
    assert first.flatten().tolist() == [0, 0, 0, 0, 1, 1] and second.flatten().tolist() == [11, 11, 12, 12, 12, 12]
    assert labels.tolist() == [5, 6] * 3
    assert dice.next_of_class(torch.tensor([1, 0, 1, 0, 1, 0])).tolist() == [2, 3, 4, 5, 0, 1]
    for labels in ([0], [0, 0, 1], [0, 1], [0, 0, 0, 1, 1]):
        with pytest.raises(ValueError, match="equally often, twice or more; got"):
            dice.check_balanced(torch.tensor(labels))
    dice.check_balanced(torch.tensor([3, 1, 3, 1]))


def test_dice_is_the_bounded_mean_of_the_ratios():
    features, labels = [torch.full((2, 1), value) for value in (1.0, 2.0, 3.0)], torch.zeros(2, dtype=torch.long)
    def ratio(first, second, labels):
        return (first * second).squeeze(1)
    for tau in (10.0, 2.0):
        expected = sum(tau * math.tanh(r / tau) for r in (2, 3, 6)) / 3
        assert DiceDiversityLoss(ratio, tau)(features=features, labels=labels).item() == pytest.approx(expected,
                                                                                                       rel=1e-6)
    saturated = -math.log(math.exp(-6) + 1e-6)
    found = DiceDiversityLoss(ratio, as_published=True)(features=features[1:], labels=labels).item()
    assert found == pytest.approx(10 * math.tanh(saturated / 10), rel=1e-6) and DiceDiversityLoss(ratio).tau == 10
    assert DiceDiversityLoss(ratio)(features=features[:1], labels=labels).item() == 0


def test_the_discriminator_and_its_loss():
    torch.manual_seed(0)
    model = DiceDiscriminator(3, 4)
    assert [layer.out_features for layer in model.layers if isinstance(layer, nn.Linear)] == [256, 256, 100, 1]
    assert model.layers[0].in_features == 2 * 4 + 64 and model.embedding.weight.shape == (3, 64)
    assert {layer.negative_slope for layer in model.layers if isinstance(layer, nn.LeakyReLU)} == {0.2}
    features, labels = [torch.randn(4, 4).requires_grad_() for _ in range(2)], torch.tensor([0, 0, 2, 2])
    same = model(features[0], features[1], labels)
    other = model(features[0], features[1][[1, 0, 3, 2]], labels)
    loss, accuracy = model.loss(features, labels)
    expected = (torch.log1p((-same).exp()).mean() + torch.log1p(other.exp()).mean()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and not accuracy.requires_grad
    assert accuracy.item() == pytest.approx((((same > 0).float().mean() + (other <= 0).float().mean()) / 2).item())
    loss.backward()
    assert features[0].grad is None and model.layers[0].weight.grad is not None
    DiceDiversityLoss(model)(features=features, labels=labels).backward()
    assert features[0].grad is not None


@pytest.mark.parametrize("shape, padding, ok", [((3, 3), 1, False), ((4, 3), 1, True), ((2, 2), 1, False),
                                                ((2, 1), 0, True),
                                                ((1, 1), 0, False), ((4, 2), 1, False), ((1, 2), 3, False)])
def test_two_pixels_must_remain_of_a_map(shape, padding, ok):
    maps = [torch.rand(2, 1, *shape).requires_grad_() for _ in range(2)]
    logits = torch.stack([m.flatten(1)[:, :1].repeat(1, 2) for m in maps])
    loss = GradCAMDiversityLoss(padding=padding)
    if ok:
        assert loss.checked_maps(maps, logits) == maps
        return
    left = "a single pixel" if shape in ((3, 3), (1, 1)) else "nothing"
    with pytest.raises(ValueError,
                       match=f"a padding of {padding} leaves {left} of maps of {shape[0]}×{shape[1]} pixels"):
        loss.checked_maps(maps, logits)


def test_the_output_that_is_differentiated():
    logits, labels = torch.randn(2, 3, 5, dtype=torch.float64), torch.tensor([0, 4, 2])
    own, p = base.of_label(logits, labels), base.of_label(logits.softmax(2), labels)
    for mode, expected in (("gt_logit", own.sum()), ("gt_prob", p.sum()), ("alt_probs", ((1 - p) / 4).sum()),
                           ("alt_logits", ((logits.sum(2) - own) / 4).sum()),
                           ("small_logits", logits.sort(2).values[:, :, :2].sum() / 2)):
        assert GradCAMDiversityLoss(mode).output(logits, labels).item() == pytest.approx(expected.item()), mode
    with pytest.raises(ValueError, match="needs at least two classes"):
        GradCAMDiversityLoss("alt_logits").value(labels, logits[:, :, :1], None)
    for options, said in (({"mode": "x"}, "unknown mode 'x'"), ({"similarity": "x"}, "unknown similarity 'x'"),
                          ({"activation": "x"}, "unknown activation 'x'"), ({"padding": -1}, "0 or more, got -1")):
        with pytest.raises(ValueError, match=said):
            GradCAMDiversityLoss(**options)
    maps = [torch.rand(3, 1, 4, 4) for _ in range(2)]
    for wrong, said in ((maps[:1], "a list of 2 maps .B, C, H, W., one a member, got 1"), (None, "got none"),
                        (maps, "feature_maps are detached"), (torch.rand(2, 3, 4, 4), "stacked feature_maps must be"),
                        ([m[:2] for m in maps], "with B = 3, got"), ([m[:, 0] for m in maps], "with B = 3, got")):
        with pytest.raises(ValueError, match=said):
            GradCAMDiversityLoss().checked_maps(wrong, logits)


def test_dead_maps_are_counted_and_flat_ones_are_zero():
    cams = gradcam.standardized(torch.tensor([[[1.0, 3], [2, 2]]]))
    assert cams[0, 0].tolist() == pytest.approx([-1, 1], abs=1e-5) and cams[0, 1].tolist() == [0, 0]
    maps = [torch.ones(2, 1, 4, 4).requires_grad_(), (-torch.ones(2, 1, 4, 4)).requires_grad_()]
    logits = torch.stack([m.sum((1, 2, 3))[:, None].repeat(1, 2) for m in maps])
    loss = GradCAMDiversityLoss()
    assert loss(labels=torch.tensor([0, 1]), logits=logits, feature_maps=maps).item() == 0 and loss.dead_fraction == 0.5
    assert gradcam._why_unconnected(maps[0]).startswith("the logits were not computed from this stacked tensor")
    assert gradcam._why_unconnected(maps).startswith("the logits do not depend on these feature_maps")


@pytest.mark.parametrize("mode", ["max", "min", "sum", "gt"])
def test_the_cosine_of_input_gradients(mode):
    """Members a·x and b·x with matrices a and b: the gradient of a logit is its row."""
    a, b = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[1.0, 1], [0, 5]])
    images = torch.tensor([[[1.0, 2]], [[1.0, 2]]]).requires_grad_()
    logits = torch.stack([images[0] @ a.T, images[1] @ b.T])  # (1, 4), (3, 10)
    rows = {"max": (a[1], b[1]), "min": (a[0], b[0]), "sum": (a.sum(0), b.sum(0)), "gt": (a[0], b[0])}[mode]
    labels = torch.tensor([0]) if mode == "gt" else None
    found = InputGradientDiversityLoss(mode)(images=images, logits=logits, labels=labels)
    assert found.item() == pytest.approx(torch.cosine_similarity(*rows, dim=0).item(), abs=1e-5)
    for wrong in (None, images.detach(), images[:, :0], images[0]):
        with pytest.raises(ValueError, match=r"needs images=, \(N, B, …\) requiring gradients"):
            InputGradientDiversityLoss(mode)(images=wrong, logits=logits, labels=labels)
    with pytest.raises(ValueError, match="the logits do not depend on these images"):
        InputGradientDiversityLoss(mode)(images=torch.zeros(2, 1, 2).requires_grad_(), logits=logits, labels=labels)
    assert InputGradientDiversityLoss("gt").needs == ("images", "logits", "labels")


def test_a_batch_norm_between_is_found_only_in_training_mode():
    x = torch.randn(4, 3).requires_grad_()
    norm, line = nn.BatchNorm1d(3), nn.Linear(3, 2)
    assert second_order._mixing_between(line(norm(x)).sum(), [x])
    assert not second_order._mixing_between(line(x).sum(), [x])
    hidden = norm(x)
    assert not second_order._mixing_between(line(hidden).sum(), [hidden])
    norm.eval()
    assert not second_order._mixing_between(line(norm(x)).sum(), [x])


def test_the_first_call_warns_of_a_batch_norm_and_later_ones_do_not(recwarn):
    norm, loss = nn.BatchNorm1d(3), InputGradientDiversityLoss("sum")
    for calls in (1, 1, 1):
        images = torch.randn(2, 4, 3).requires_grad_()
        logits = torch.stack([norm(one).square() for one in images])
        assert loss(images=images, logits=logits).isfinite() and loss._tried
        assert sum("BatchNorm in training mode mixes" in str(one.message) for one in recwarn) == calls
