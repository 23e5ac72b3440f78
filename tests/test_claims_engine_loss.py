"""Claims about the loss of a training step and its parts, with networks of a few numbers."""

import pytest
import torch
from torch import nn

from engine.training_loss import FrozenStatistics, TrainingLoss, add_member_dim, as_list, times
from losses import DisMaxLossFirstPart, DisMaxLossSecondPart, SoftMaxLossFirstPart, SoftMaxLossSecondPart
from models.ensemble import Ensemble


class Tiny(nn.Module):
    def __init__(self, head=SoftMaxLossFirstPart):
        super().__init__()
        self.norm, self.classifier = nn.BatchNorm2d(3), head(12, 3)
        nn.init.normal_(next(self.classifier.parameters()))

    def forward(self, images, return_features=False):
        maps = self.norm(images)
        features = maps.flatten(1)
        logits = self.classifier(features)
        return (logits, features, [maps, maps]) if return_features else logits


class Recorder:
    """An auxiliary loss: the sum of the logits, and a record of what it was given."""

    def __call__(self, **given):
        self.given = given
        return given["logits"].sum()


class Dead(Recorder):
    dead_fraction = torch.tensor(0.25)


def ensemble_of(members=2, head=SoftMaxLossFirstPart):
    torch.manual_seed(0)
    return Ensemble([Tiny(head) for _ in range(members)]).train()


def loss_of(model, aux=None, weights=None, second=SoftMaxLossSecondPart, **options):
    criteria = [second(member.classifier) for member in model.members]
    return TrainingLoss(model, criteria, aux, weights, **options)


def batch(n=6):
    g = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, 2, 2, generator=g), torch.randint(3, (n,), generator=g)


def test_metrics_have_names():
    model = ensemble_of()
    assert loss_of(model).names == ("loss", "accuracy")
    assert loss_of(model, {"a": Recorder(), "b": Dead()}).names == ("loss", "accuracy", "a", "b", "dead_maps")
    assert len(loss_of(model).batch_norms) == 2 and loss_of(model).weights == {}


def test_a_step_is_the_mean_of_members_and_weighted_terms():
    model, (images, labels) = ensemble_of(), batch()
    first, second = Recorder(), Dead()
    loss = loss_of(model, {"a": first, "b": second}, {"a": 0.5, "b": -2.0})
    found = loss(images, labels)
    logits = model(images)
    mean = torch.stack([nn.functional.cross_entropy(z, labels) for z in logits]).mean()
    assert found.item() == pytest.approx((mean + (0.5 - 2) * logits.sum()).item(), rel=1e-4, abs=1e-4)
    accuracy = (logits.argmax(2) == labels).float().mean().item()
    total = logits.sum().item()
    assert loss.metrics.tolist() == pytest.approx([mean.item(), accuracy, total, total, 0.25], rel=1e-4, abs=1e-4)
    assert not loss.metrics.requires_grad and first.given["images"] is images and first.given["labels"] is labels
    assert [f.shape for f in first.given["features"]] == [(6, 12)] * 2 and [
        maps.shape for maps in first.given["feature_maps"]] == [(6, 3, 2, 2)] * 2
    assert all(not f.requires_grad for f in loss.aux_features) and loss.aux_labels is labels


def test_shares_of_parts_add_up():
    model, (images, labels) = ensemble_of(), batch()
    model.eval()
    loss = loss_of(model, {"a": Recorder()}, {"a": 0.5})
    whole = loss(images, labels).item()
    metrics, parts = loss.metrics.clone(), []
    for rows, share in ((slice(0, 2), 1 / 3), (slice(2, 6), 2 / 3)):
        parts.append((loss(images[rows], labels[rows], share=share, aux_share=1).item(), loss.metrics.clone()))
    assert sum(value for value, _ in parts) == pytest.approx(whole, rel=1e-4)
    assert sum(found for _, found in parts).tolist() == pytest.approx(metrics.tolist(), rel=1e-4)
    loss(images, labels, share=1, aux_share=0.25)
    assert loss.metrics[2].item() == pytest.approx(metrics[2].item() / 4, rel=1e-4)
    assert loss.metrics[0].item() == pytest.approx(metrics[0].item(), rel=1e-4)
    value = object()
    assert times(1, value) is value and times(0.5, 4) == 2 and times(0, 4) == 0 and times(2, 4) == 8


def test_shown_images_go_through_frozen_statistics():
    model, (images, labels), (shown, theirs) = ensemble_of(), batch(), batch(4)
    recorder = Recorder()
    loss = loss_of(model, {"a": recorder}, {"a": 1.0})
    norm = model.members[0].norm
    loss(images, labels)  # statistics of their own
    before = norm.num_batches_tracked.item()
    loss(images.expand(2, -1, -1, -1, -1), labels.expand(2, -1), shown, theirs)
    assert norm.num_batches_tracked == before + 1 and norm.training and recorder.given["labels"] is theirs
    assert torch.allclose(recorder.given["logits"], model.eval()(shown), atol=1e-5)
    assert recorder.given["images"] is shown and recorder.given["logits"].shape == (2, 4, 3)


def test_outliers_are_labelled_by_the_mean_logits():
    model, (images, labels), (outliers, _) = ensemble_of(), batch(), batch(5)
    recorder = Recorder()
    loss = loss_of(model, {"a": recorder}, {"a": 1.0})
    loss(images, labels, outliers, None)
    predicted = recorder.given["logits"].mean(0).argmax(1)
    assert torch.equal(recorder.given["labels"], predicted) and torch.equal(loss.aux_labels, predicted)
    assert not torch.equal(recorder.given["logits"][0].argmax(1), recorder.given["logits"][1].argmax(1))
    loss(images, labels, outliers[:0], None)
    assert loss.metrics[2] == 0 and len(loss.metrics) == 3


def test_image_gradients_ask_for_a_copy_a_member():
    model, (images, labels), (shown, theirs) = ensemble_of(), batch(), batch(4)
    for wanted in (True, False):
        recorder = Recorder()
        loss = loss_of(model, {"a": recorder}, {"a": 1.0}, image_gradients=wanted)
        loss(images, labels, shown, theirs)
        given = recorder.given["images"]
        assert given.requires_grad == wanted and given.shape == ((2, 4, 3, 2, 2) if wanted else (4, 3, 2, 2))
        assert not shown.requires_grad
    assert torch.equal(loss_of(model, {"a": recorder}).model(images), model(images))


def test_without_auxiliary_losses_shown_images_are_not_looked_at():
    model, (images, labels) = ensemble_of(), batch()
    loss = loss_of(model)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    assert loss(images, labels, images, labels).requires_grad and passes == [1] and len(loss.metrics) == 2


def test_a_part_without_images_is_zero_and_connected():
    model, (images, labels) = ensemble_of().eval(), batch()
    loss = loss_of(model)
    found = loss(images[:0], labels[:0])
    found.backward()
    assert found.item() == 0 and loss.metrics.tolist() == [0, 0]
    assert all(p.grad is not None and p.grad.eq(0).all() for p in model.members[0].classifier.parameters())
    same = loss.preprocess(images[:0], labels[:0])
    assert same[0].shape[0] == 0


# ---- batches that are mixed or split ----

class Turning(SoftMaxLossSecondPart):
    def preprocess(self, inputs, targets):
        return inputs.flip(0), targets.flip(0)


def fpr(classifier):
    return DisMaxLossSecondPart(classifier, regularization="fpr")


def test_every_members_batch_goes_through_its_own_criterion():
    model, (images, labels) = ensemble_of(), batch()
    turned = loss_of(model, second=Turning)
    x, y = turned.preprocess(images, labels)
    assert torch.equal(x, images.flip(0)) and torch.equal(y, labels.flip(0))
    two, both = torch.stack([images, images + 1]), torch.stack([labels, 2 - labels])
    x, y = turned.preprocess(two, both)
    assert torch.equal(x, two.flip(1)) and torch.equal(y, both.flip(1))
    x, y = loss_of(model).preprocess(two, both)
    assert torch.equal(x, two) and torch.equal(y, both)
    assert loss_of(model).preprocess(images, labels)[0] is images


def test_what_mixes_and_what_reorders():
    plain = ensemble_of()
    assert [(loss.mixes, loss.reorders) for loss in (
        loss_of(plain), loss_of(plain, second=Turning), loss_of(ensemble_of(head=DisMaxLossFirstPart), second=fpr),
        loss_of(ensemble_of(head=DisMaxLossFirstPart), second=DisMaxLossSecondPart))] == [
            (False, False), (False, True), (True, True), (False, True)]
    model = ensemble_of()
    first, second = (member.classifier for member in model.members)
    some = TrainingLoss(model, [SoftMaxLossSecondPart(first), Turning(second)])
    assert some.reorders and not some.mixes
    assert not TrainingLoss(model, [object()]).mixes, "a plugin's need not say"
    images, labels = batch()
    assert torch.equal(some.preprocess(images, labels)[1], labels), "one batch for all goes through the first one's"
    turned = TrainingLoss(model, [Turning(second), SoftMaxLossSecondPart(first)]).preprocess(images, labels)
    assert torch.equal(turned[1], labels.flip(0))


@pytest.mark.parametrize("shared", [True, False])
def test_a_mixed_batch_may_be_split(shared):
    """The loss, its gradient and the accuracy of six images, half of them mixed, whole and in parts of four and two."""
    model = ensemble_of(head=DisMaxLossFirstPart)
    for member in model.members:
        member.norm.eval()
    loss, (images, labels) = loss_of(model, second=fpr), batch()
    if not shared:
        images, labels = torch.stack([images, images.flip(0)]), torch.stack([labels, labels.flip(0)])
    images, labels = loss.preprocess(images, labels)
    whole = loss(images, labels)
    whole.backward()
    gradient, metrics = next(model.members[1].classifier.parameters()).grad.clone(), loss.metrics.clone()
    model.zero_grad()
    classes, weights, counted = loss.split_targets(labels)
    assert counted.shape == labels.shape and classes.shape == (*labels.shape, 4)
    assert counted[..., :3].eq(1 / 3).all() and counted[..., 3:].eq(0).all()
    parts = torch.zeros(2)
    for rows in (slice(0, 4), slice(4, 6)):
        split = classes[..., rows, :], weights[..., rows], counted[..., rows]
        loss(images[..., rows, :, :, :], labels[..., rows], split=split, share=99).backward()
        parts += loss.metrics
    assert parts.tolist() == pytest.approx(metrics.tolist(), rel=1e-4)
    assert torch.allclose(next(model.members[1].classifier.parameters()).grad, gradient, atol=1e-5)
    logits = model(images)
    right = (logits.argmax(2) == labels)[:, :3].float().mean().item()
    assert metrics[1].item() == pytest.approx(right), "of the images that are not mixed"


# ---- small parts ----

def test_frozen_statistics_are_thawed_as_they_were():
    norms = [nn.BatchNorm2d(2).train(), nn.BatchNorm2d(2).eval()]
    with FrozenStatistics(norms):
        assert [norm.training for norm in norms] == [False, False]
    assert [norm.training for norm in norms] == [True, False]


def test_one_network_is_an_ensemble_of_one():
    assert [add_member_dim(torch.zeros(s)).shape for s in ((4, 3), (2, 4, 3))] == [(1, 4, 3), (2, 4, 3)]
    tensor = torch.zeros(2)
    assert as_list((1, 2)) == as_list([1, 2]) == [1, 2] and as_list(tensor)[0] is tensor
    torch.manual_seed(0)
    member, (images, labels) = Tiny().eval(), batch()
    loss = TrainingLoss(member, [SoftMaxLossSecondPart(member.classifier)], {"a": (recorder := Recorder())}, {"a": 0.0})
    assert loss(images, labels).item() == pytest.approx(nn.functional.cross_entropy(member(images), labels).item())
    assert recorder.given["logits"].shape == (1, 6, 3)
