"""Training of ensembles: what a step minimises, what each method is shown, and that a network is an ensemble of one."""
import numpy as np
import pytest
import torch
from conftest import run_like

from data.loaders import ResidentImages
from engine.batches import batches_of, outlier_batches
from engine.build import build_ensemble, build_model, build_network, build_training_loss
from engine.discriminator import DiscriminatorTrainer
from engine.pretrained import initialise
from engine.training_loss import FrozenStatistics
from losses import LOSSES
from losses.diversity import DiceDiscriminator, NCLDiversityLoss
from utils.io import UserError

CPU = torch.device("cpu")


def training_loss_of(name, model="lenet", **choices):
    torch.manual_seed(0)
    run = run_like(name, model, choices=choices)
    return build_training_loss(build_model(run, 7), run)


# ---- how members start ----

def test_members_start_from_trained_weights(tmp_path):
    """All from the same, as SDDE's; those that share their batches with heads of their own."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(num_classes=7)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    for same_heads in (True, False):
        net = build_ensemble("resnet18", 7, LOSSES["softmax"][0], 2)
        initialise(net, "resnet18", str(tmp_path / "weights.pth"), same_heads)
        x = torch.randn(2, 3, 64, 64)
        logits = net.eval()(x)
        assert torch.allclose(logits[0], theirs.eval()(x), atol=1e-5) == same_heads
        assert torch.equal(logits[0], logits[1]) == same_heads
        assert torch.equal(net.members[0].body.conv1.weight, net.members[1].body.conv1.weight)
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        initialise(net, "resnet18", str(tmp_path / "other.pth"), True)
    with pytest.raises(UserError, match="not for lenet"):
        initialise(build_model(run_like("de"), 7), "lenet", "pretrained", True)
    with pytest.raises(UserError, match="does not fit resnet18: of another shape: classifier.bias"):
        initialise(build_network("resnet18", 10, LOSSES["softmax"][0]), "resnet18", str(tmp_path / "weights.pth"), True)


# ---- what each step is given ----

@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 4
    images = rng.integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(64)  # who is who
    return ResidentImages(images, labels, CPU, 28, ((0.5,) * 3, (0.5,) * 3))


def of(name, **changes):
    return run_like(name, batch_size=16, padding=0, flip=False, **changes)


def who(images):
    return ((images[..., 0, 0, 0] * 0.5 + 0.5) * 255).round().int()


def test_own_batches_and_one_member_shown(small):
    run = of("gradcam")
    steps = list(batches_of(small, None, run, 1, 0))
    assert len(steps) == 4
    inputs = torch.cat([x for x, *_ in steps], 1)
    assert inputs.shape == (5, 64, 3, 28, 28)
    assert all(sorted(who(member).tolist()) == list(range(64)) for member in inputs), "each sees each image once"
    assert not torch.equal(who(inputs[0]), who(inputs[1]))
    shown = [next(n for n in range(5) if torch.equal(who(x[n]), who(s))) for x, _, s, _ in steps]
    assert all(torch.equal(y[n], given) for n, (_, y, _, given) in zip(shown, steps))
    many = [next(n for n in range(5) if torch.equal(who(x[n]), who(s)))
            for epoch in range(1, 13) for x, _, s, _ in batches_of(small, None, run, epoch, 0)]
    assert set(many) == set(range(5)), "any member's"
    again = list(batches_of(small, None, run, 1, 2))
    assert all(torch.equal(a, b) for x, y in zip(steps[2:], again) for a, b in zip(x, y)), "from step 2 on, the same"


def test_de_pays_for_no_diversity_pass(small):
    assert all(s is None and y is None for _, _, s, y in batches_of(small, None, of("de"), 1, 0))
    assert not training_loss_of("de").aux_losses


def test_shared_batches(small):
    for loss in ("ncl", "adp"):
        steps = list(batches_of(small, None, of(loss), 1, 0))
        assert all(x.shape == (16, 3, 28, 28) and y.shape == (16,) and s is None for x, y, s, _ in steps)
    steps = list(batches_of(small, None, of("dice", per_class=8), 1, 0))
    assert all(y.bincount()[y.bincount() > 0].tolist() == [8, 8] for _, y, *_ in steps) and len(steps) == 4
    other = list(batches_of(small, None, of("dice", per_class=8), 2, 0))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(steps, other)), "other batches in another epoch"


def test_outliers_are_shown_whole_in_order_without_end(small):
    run = of("de", outlier_batch=20)
    stream = outlier_batches(small, run, 1, 0)
    first = [next(stream) for _ in range(9)]
    assert [len(x) for x in first] == [20, 20, 20, 4] * 2 + [20], "the last, smaller batch of a pass is kept"
    seen = torch.cat([who(x) for x in first[:4]])
    assert sorted(seen.tolist()) == list(range(64)), "each once in a pass"
    assert not torch.equal(seen, torch.cat([who(x) for x in first[4:8]])), "another order in the next pass"
    later = outlier_batches(small, run, 1, 5)
    assert torch.equal(next(later), first[5]) and torch.equal(next(later), first[6])
    assert not torch.equal(who(next(outlier_batches(small, run, 2, 0))), who(first[0])), "an epoch begins anew"
    assert torch.equal(first[0][0], next(small.subset(seen[:1].long()).eval_batches())[0][0]), "not augmented"
    tiny = small.subset(torch.arange(7))
    assert [len(next(outlier_batches(tiny, run, 1, k))) for k in range(3)] == [7] * 3, "smaller than a batch"


def test_heads_start_with_the_bias_of_their_paper():
    """DisMax's code starts the SoftMax head's bias at 0; SDDE's members have nn.Linear, U(−1/√F, 1/√F)."""
    def biases(loss, **changes):
        torch.manual_seed(0)
        net = build_model(run_like(loss, choices=changes), 7)
        return torch.cat([member.classifier.bias.detach() for member in getattr(net, "members", [net])])
    assert not biases("softmax").any()
    drawn = torch.cat([biases("de", members=50)])
    assert drawn.abs().max() <= 84**-0.5 and drawn.std() == pytest.approx(84**-0.5 / 3**0.5, rel=0.1)


def test_the_discriminators_gradient_is_clipped_by_itself():
    torch.manual_seed(0)
    features, labels = [100 * torch.randn(8, 84) for _ in range(2)], torch.arange(8) // 2
    norms = []
    for clip in (0.0, 1.0):
        torch.manual_seed(0)
        adversary = DiscriminatorTrainer(DiceDiscriminator(7, 84), 1e-3, clip)
        adversary.backward(features, labels)
        adversary.update()
        norms.append(torch.stack([p.grad.norm() for p in adversary.discriminator.parameters()]).norm().item())
    assert norms[0] > 2 and norms[1] == pytest.approx(1, abs=1e-4)


# ---- what a step minimises ----

def data(n=5, b=8):
    torch.manual_seed(1)
    return torch.randn(n, b, 3, 28, 28), torch.randint(0, 7, (n, b))


def test_mean_over_members():
    step = training_loss_of("de")
    x, y = data()
    loss = step(x, y)
    expected = torch.stack([torch.nn.functional.cross_entropy(m(i), t) for m, i, t in zip(step.model.members, x, y)])
    assert torch.allclose(loss, expected.mean()) and step.names == ("loss", "accuracy")
    loss.backward()
    alone = build_network("lenet", 7, LOSSES["softmax"][0])
    alone.load_state_dict(step.model.members[2].state_dict())
    torch.nn.functional.cross_entropy(alone(x[2]), y[2]).backward()
    for ours, theirs in zip(step.model.members[2].parameters(), alone.parameters()):
        assert torch.allclose(ours.grad, theirs.grad / 5, atol=1e-7), "a fifth of its own gradient, as published"


def test_weighted_terms_on_what_is_shown():
    step = training_loss_of("gradcam")
    x, y = data()
    with torch.no_grad():
        plain = training_loss_of("de")(x, y)
    loss = step(x, y, x[3], y[3])
    logits, _, maps = step.model(x[3], return_features=True)
    value = step.aux_losses["diversity"](labels=y[3], logits=logits, feature_maps=maps)
    assert torch.allclose(loss, plain + 0.1 * value, atol=1e-6)
    assert step.names == ("loss", "accuracy", "diversity", "dead_maps")
    assert torch.allclose(step.metrics[2], value.detach()) and 0 <= step.metrics[3] <= 1


def test_shared_batches_reuse_the_training_outputs():
    step = training_loss_of("ncl")
    x, y = data(1)
    loss = step(x[0], y[0])
    logits = step.model(x[0])
    ce = torch.stack([torch.nn.functional.cross_entropy(z, y[0]) for z in logits]).mean()
    assert torch.allclose(loss, ce + 0.1 * NCLDiversityLoss()(logits=logits))


def test_outliers_get_the_ensembles_own_labels():
    step = training_loss_of("gradcam", outliers="svhn")
    x, y = data()
    outliers = torch.randn(6, 3, 28, 28)
    loss = step(x, y, outliers)
    assert step.names == ("loss", "accuracy", "diversity", "outlier", "dead_maps")
    logits, _, maps = step.model(outliers, return_features=True)
    assert torch.equal(step.aux_labels, logits.mean(0).argmax(1))
    cam = step.aux_losses["diversity"](labels=step.aux_labels, logits=logits, feature_maps=maps)
    oe = (logits.logsumexp(2) - logits.mean(2)).mean()
    with torch.no_grad():
        ce = training_loss_of("de")(x, y)
    assert torch.allclose(loss, ce + 0.1 * cam + 0.5 * oe, atol=1e-5)


def test_the_diversity_pass_leaves_batch_statistics_alone():
    """In it BN uses its running statistics, without updating them; the other pass updates them once."""
    torch.manual_seed(0)
    net = build_ensemble("resnet18_32x32", 10, LOSSES["softmax"][0], 2)
    step = build_training_loss(net, run_like("gradcam", "resnet18_32x32", "cifar10", {"members": 2}))
    x, y = torch.randn(2, 4, 3, 32, 32), torch.randint(0, 10, (2, 4))
    step.train()
    step(x, y, x[0], y[0]).backward()
    tracked = {name: b.item() for name, b in net.named_buffers() if name.endswith("num_batches_tracked")}
    assert set(tracked.values()) == {1} and all(m.training for m in step.batch_norms)
    with FrozenStatistics(step.batch_norms):
        a = net(x[0])
    assert torch.equal(a, net.eval()(x[0]))


def test_dices_adversary_learns_from_its_own_loss_only():
    step = training_loss_of("dice")
    adversary = DiscriminatorTrainer(step.aux_losses["diversity"].discriminator, 1e-3)
    x, _ = data(1, 8)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    before = [p.clone() for p in adversary.discriminator.parameters()]
    step(x[0], y).backward()
    assert all(p.grad is None for p in adversary.discriminator.parameters())
    loss, accuracy = adversary.backward(step.aux_features, step.aux_labels)
    adversary.update()
    assert 0 <= accuracy <= 1 and loss > 0
    assert not all(torch.equal(a, b) for a, b in zip(before, adversary.discriminator.parameters()))
    assert not set(map(id, adversary.discriminator.parameters())) & set(map(id, step.parameters()))
