"""DICE: a bounded ratio, and a discriminator that learns by itself."""
import pytest
import torch
import torch.nn.functional as F
from diversity_inputs import F64, LABELS

from losses.diversity import DiceDiscriminator, DiceDiversityLoss


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


def test_dice_compiles_as_one_graph():
    torch._dynamo.reset()
    torch.manual_seed(0)
    loss, features = DiceDiversityLoss(DiceDiscriminator(5, 3)), [torch.randn(4, 3) for _ in range(3)]
    compiled = torch.compile(lambda f, y: loss(features=f, labels=y), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(features, LABELS), loss(features=features, labels=LABELS))


def test_the_discriminator_refuses_unequal_classes():
    discriminator = DiceDiscriminator(5, 3)
    features = [torch.randn(4, 3)] * 2
    loss, _ = discriminator.loss(features, torch.tensor([0, 3, 0, 3]))
    assert loss.isfinite()
    for labels in (LABELS, torch.tensor([0, 0, 0, 1])):
        with pytest.raises(ValueError, match="every class of a batch equally often, twice or more"):
            discriminator.loss(features, labels)
    with pytest.raises(ValueError, match="two members or more, got those of 1"):
        discriminator.loss(features[:1], torch.tensor([0, 3, 0, 3]))
