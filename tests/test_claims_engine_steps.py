"""Claims about a training step: its parts, its loss, and the discriminator beside it."""
import contextlib
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from conftest import run_like
from torch import nn

from engine import build, distributed, train_step
from engine.build import build_model, build_training_loss, diversity_loss, shares_batch
from engine.cuda_graph import Snapshot, disagreement, distance, in_memory, version_is_safe
from engine.train_step import ExecutionOptions, TrainStep, channels_last, execution_options, first_line
from losses.diversity import DiceDiscriminator
from models.ensemble import Ensemble
from utils.io import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


# ---- from names to parts ----

def test_a_model_is_a_network_or_an_ensemble_with_the_head_of_its_method():
    torch.manual_seed(0)
    single, pair = build_model(run_like("dismax"), 7), build_model(run_like("dismax", choices={"members": 2}), 7)
    assert not isinstance(single, Ensemble) and isinstance(pair, Ensemble) and len(pair.members) == 2
    assert type(single.classifier).__name__ == "DisMaxLossFirstPart" and single.classifier.num_classes == 7
    assert build.members_of(single) == [single] and build.members_of(pair) == list(pair.members)
    assert not torch.equal(*(member.conv1.weight for member in pair.members))
    for zero in (True, False):
        head = build_model(run_like("softmax", zero_bias=zero), 7).classifier
        assert head.bias.eq(0).all() == zero


def test_unknown_names_are_refused_with_those_that_are_known():
    run = run_like("softmax")
    other = dataclasses.replace(run, method=run.method.changed(head="y"))
    for change, said in (
            (lambda: build.build_network("x", 7, nn.Linear), "unknown network 'x': choose from densenetbc100"),
            (lambda: build_model(other, 7), "unknown head 'y': choose from softmax, isomax"),
            (lambda: diversity_loss(None, "z", run.recipe), "unknown diversity loss 'z': choose from ncl")):
        with pytest.raises(UserError, match=f"{said}.* One of a plugin needs --plugin FILE"):
            change()


def test_the_losses_and_weights_of_a_step_are_the_recipes():
    def loss_of(name, **recipe):
        run = run_like(name, **recipe)
        return build_training_loss(build_model(run, 7), run)
    plain, own = loss_of("de"), loss_of("gradcam", diversity_weight=0.25)
    assert plain.names == ("loss", "accuracy") and not plain.weights and len(plain.criteria) == 5
    assert own.weights == {"diversity": 0.25} and own.names == ("loss", "accuracy", "diversity", "dead_maps")
    both = run_like("gradcam", choices={"outliers": "mnist"}, diversity_weight=0.5, outlier_weight=0.75)
    model = build_model(both, 7)
    assert build_training_loss(model, both).weights == {"diversity": 0.5, "outlier": 0.75}
    assert loss_of("input_gradient").image_gradients and not own.image_gradients and not plain.image_gradients
    fpr = loss_of("dismax_fpr", alpha=0.5).criteria[0]
    assert fpr.alpha == 0.5 and fpr.mixes and not loss_of("dismax").criteria[0].mixes
    for member, criterion in zip(model.members, build_training_loss(model, both).criteria):
        assert criterion.model_classifier is member.classifier


def test_diversity_needs_two_members():
    run = run_like("gradcam", choices={"members": 1})
    with pytest.raises(UserError, match="--diversity gradcam separates members: it needs --members 2 or more"):
        build_training_loss(build_model(run, 7), run)
    two = run_like("gradcam", choices={"members": 2})
    build_training_loss(build_model(two, 7), two)


@pytest.mark.parametrize(("batch", "per_class", "micro", "said"), [
    (64, 1, 0, "two or more images per class.*--per-class 1 and --batch-size 64 do not fit"), (64, 2, 0, ""),
    (63, 2, 0, "--per-class 2 and --batch-size 63 do not fit"), (64, 0, 0, "--per-class 0"),
    (64, 4, 3, "DICE compares the 4 images of a class.*--micro-batch 3 is smaller. Use 4 or more"), (64, 4, 4, ""),
    (64, 4, 1, "--micro-batch 1 is smaller"), (64, 4, 5, "")])
def test_dices_batches_hold_whole_classes(batch, per_class, micro, said):
    recipe = run_like("dice", batch_size=batch, per_class=per_class, micro_batch=micro).recipe
    model = build_model(run_like("dice", choices={"members": 2}), 7)
    if said:
        with pytest.raises(UserError, match=said):
            diversity_loss(model, "dice", recipe)
    else:
        discriminator = diversity_loss(model, "dice", recipe).discriminator
        again = DiceDiscriminator(7, 84)
        assert [p.shape for p in discriminator.parameters()] == [p.shape for p in again.parameters()]


def test_members_share_the_batches_of_losses_computed_on_them():
    shared = {name: shares_batch(run_like(name).method) for name in ("de", "ncl", "adp", "dice", "gradcam", "softmax")}
    assert shared == {"de": False, "ncl": True, "adp": True, "dice": True, "gradcam": False, "softmax": False}


# ---- options ----

@pytest.mark.parametrize(("device", "name", "recipe", "flags", "why"), [
    (CPU, "softmax", {}, {}, "CUDA graphs need a CUDA device"), (GPU, "softmax", {}, {}, ""),
    (GPU, "softmax", {"micro_batch": 4, "batch_size": 8}, {}, "not with --micro-batch"),
    (GPU, "softmax", {"micro_batch": 8, "batch_size": 8}, {}, ""), (GPU, "softmax", {"micro_batch": 0}, {}, ""),
    (GPU, "softmax", {"micro_batch": 9, "batch_size": 8}, {}, ""),
    (GPU, "softmax", {}, {"graphs": False}, "--no-graphs"),
    (CPU, "softmax", {}, {"graphs": False}, "CUDA graphs need a CUDA device"), (GPU, "dice", {}, {"graphs": True}, "")])
def test_why_there_is_no_graph(monkeypatch, device, name, recipe, flags, why):
    monkeypatch.setattr(train_step, "version_is_safe", lambda: True)
    monkeypatch.setattr(train_step.devices, "multiplies_bfloat16", lambda device: True)
    options = execution_options(device, run_like(name, **recipe), **flags)
    assert options.why_eager == why and options.graphs == (not why) and options.compiled is False
    assert options.bf16 == (device is GPU), "a LeNet gains nothing on a CPU"
    assert execution_options(device, run_like(name, **recipe), bf16=False, **flags).bf16 is False


def test_bfloat16_is_used_where_it_pays(monkeypatch):
    for pays in (True, False):
        monkeypatch.setattr(train_step.devices, "multiplies_bfloat16", lambda device, pays=pays: pays)
        large, small = run_like("softmax", "resnet20", "cifar10"), run_like("softmax")
        assert execution_options(CPU, large).bf16 == pays and not execution_options(CPU, small).bf16
        assert execution_options(GPU, small).bf16 == pays and execution_options(CPU, small, bf16=True).bf16


def test_options_that_cannot_be_had_are_refused(monkeypatch):
    with pytest.raises(UserError, match="^--graphs: CUDA graphs need a CUDA device"):
        execution_options(CPU, run_like("softmax"), graphs=True)
    with pytest.raises(UserError, match="--compile: neither with several ranks nor for DICE"):
        execution_options(CPU, run_like("dice"), compiled=True)
    assert execution_options(CPU, run_like("ncl"), compiled=True).compiled is True
    monkeypatch.setattr(train_step.devices, "multiplies_bfloat16", lambda device: False)
    monkeypatch.setattr(train_step, "version_is_safe", lambda: False)
    unsafe = execution_options(GPU, run_like("softmax"), bf16=False)
    assert not unsafe.graphs and "does not recover from a capture that fails; --graphs tries it" in unsafe.why_eager
    assert execution_options(GPU, run_like("softmax"), False, True).graphs
    assert execution_options(GPU, run_like("softmax"), False, False).why_eager == "--no-graphs"
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    assert execution_options(GPU, run_like("softmax"), False).why_eager == "not with several ranks"
    with pytest.raises(UserError, match="--compile: neither"):
        execution_options(CPU, run_like("softmax"), compiled=True)


@pytest.mark.parametrize(("version", "safe"), [
    ("2.12.9", False), ("2.13.0", True), ("2.14.1+cu130", True), ("3.0.0a1", True), ("1.99.0", False)])
def test_graphs_are_safe_from_a_version_on(monkeypatch, version, safe):
    monkeypatch.setattr(torch, "__version__", version)
    assert version_is_safe() == safe


# ---- a step ----

class Loss(nn.Module):
    """w·mean(inputs), whose metrics are the loss and 1."""

    names, aux_losses = ("loss", "accuracy"), {}
    mixes = reorders = False

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.weights = {"diversity": 0.5}

    def preprocess(self, inputs, targets):
        return inputs, targets

    def forward(self, inputs, targets, *aux, share=1):
        loss = self.model.weight.sum() * inputs.mean() * (aux[3] if len(aux) > 3 else share)
        self.metrics = torch.stack([loss.detach(), torch.ones(())])
        return loss


def stepping(micro=0, clip=0.0, options=None):
    loss = Loss()
    optimizer = torch.optim.SGD(loss.parameters(), 1.0)
    return TrainStep(loss, optimizer, None, SimpleNamespace(micro_batch=micro, per_class=0, clip=clip),
                     options or ExecutionOptions(), CPU)


def images(*values):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()


def test_a_step_moves_against_the_gradient_by_the_learning_rate():
    for micro in (0, 1):
        step = stepping(micro)
        for _ in range(2):  # gradients of the step before are gone
            step((images(1.0, 2.0, 6.0), torch.zeros(3, dtype=torch.long), None, None), 0.5, 3)
        assert step.training_loss.model.weight.item() == pytest.approx(1 - 2 * 0.5 * 3)
        assert step.sums[0].item() == pytest.approx(3 * (3 - 1.5)) and step.graph_status == "eager: not asked for"
    assert step.sums[1].item() == 2 * 3 * 3 and stepping().sums.tolist() == [0, 0]


def test_gradients_are_clipped_and_times_the_ranks(monkeypatch):
    batch = images(4.0), torch.zeros(1, dtype=torch.long), None, None
    for clip, moved in ((1.0, 1.0), (8.0, 4.0), (0.0, 4.0)):
        step = stepping(clip=clip)
        step(batch, 1.0, 1)
        assert step.training_loss.model.weight.item() == pytest.approx(1 - moved, abs=1e-4)
    step = stepping()
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (0, 3))
    step.backward(batch, 1)
    assert step.training_loss.model.weight.grad.item() == 12 and step.sums.tolist() == [4, 1]


def test_gradients_are_exchanged_after_the_last_part(monkeypatch):
    asked, batch = [], (images(1.0, 2.0, 3.0), torch.zeros(3, dtype=torch.long), None, None)
    monkeypatch.setattr(distributed, "no_sync", lambda module, is_last: asked.append(
        is_last) or contextlib.nullcontext())
    stepping(1)(batch, 1.0, 3)
    assert asked == [False, False, True]
    stepping()(batch, 1.0, 3)
    assert len(asked) == 3, "one process and one part: nothing to exchange"
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda tensor: tensor)
    monkeypatch.setattr(distributed, "wrap_ddp", lambda module, device: module)
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (0, 1))
    stepping()(batch, 1.0, 3)
    assert asked[3:] == [True]


@pytest.mark.parametrize(("micro", "share"), [(0, 1), (1, 0.5)])
def test_a_discriminator_learns_from_every_part(micro, share):
    calls = []
    discriminator = SimpleNamespace(
        names=("d", "e"), zero_grad=lambda: calls.append("zero"), update=lambda: calls.append("update"),
        backward=lambda *words: calls.append(words) or torch.tensor([2.0, 3.0]) * words[2])
    plain = stepping(micro)
    loss = plain.training_loss
    loss.aux_features, loss.aux_labels = "features", "labels"
    step = TrainStep(loss, plain.optimizer, discriminator, plain.recipe, ExecutionOptions(), CPU)
    assert step.names == ["loss", "accuracy", "d", "e"]
    step((images(1.0, 2.0), torch.zeros(2, dtype=torch.long), None, None), 1.0, 2)
    assert calls == ["zero", *[("features", "labels", share)] * round(1 / share), "update"]
    assert step.sums[2:].tolist() == [4, 6] and step.sums[0] != 0
    step.backward((images(1.0)[:0], torch.zeros(0, dtype=torch.long)), 2)
    assert calls[-1] == "update", "an empty part teaches nothing"


def test_names_and_weights_of_a_step():
    step = stepping()
    step.set_weight("diversity", 0.75)
    assert step.training_loss.weights["diversity"] == 0.75 and step.names == ["loss", "accuracy"]
    recorded = stepping(options=ExecutionOptions(graphs=True))
    rate, weight = recorded.optimizer.param_groups[0]["lr"], recorded.training_loss.weights["diversity"]
    assert rate.item() == 1 and weight.item() == 0.5
    recorded.set_weight("diversity", 0.75)
    recorded((images(1.0), torch.zeros(1, dtype=torch.long), None, None), 0.125, 1)
    assert recorded.training_loss.weights["diversity"] is weight and weight.item() == 0.75
    assert recorded.optimizer.param_groups[0]["lr"] is rate and rate.item() == 0.125
    assert recorded.graph_status == "eager: too few steps"
    assert first_line(RuntimeError("a\nb")) == "a" and first_line(RuntimeError()) == "RuntimeError"


def test_channels_lie_innermost_but_for_grayscale():
    for shape in ((2, 3, 4, 5), (2, 6, 3, 4, 5)):
        given = torch.randn(shape)
        found = channels_last(given)
        assert torch.equal(found, given) and found.stride(-3) == 1
    gray = torch.randn(2, 1, 4, 5).expand(-1, 3, -1, -1)
    assert channels_last(gray) is gray and in_memory(gray).shape == (2, 1, 4, 5)
    assert in_memory(torch.arange(3)).shape == (3,) and in_memory(found) is found


# ---- the check of a recorded step ----

def test_distances_are_euclidean_and_nans_must_stand_at_the_same_places():
    a, nan = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, torch.nan, 5.0])
    assert distance(a, a + torch.tensor([0, 3, -4])) == 5 and distance(nan, nan + torch.tensor([2, 0, 0])) == 2
    assert distance(nan, a) != distance(nan, a) and distance(a, nan) != distance(a, nan)


def test_a_replay_may_differ_by_a_share_of_the_change():
    """The kernel changes by 10, so a floor of 0.01 is added to each tensor's change; a twentieth of both may differ."""
    tensors = {"kernel": torch.zeros(10, 10), "bias": torch.zeros(1)}
    before = Snapshot(tensors)
    tensors["kernel"] += 1
    tensors["bias"] += 1
    eager = Snapshot(tensors)
    for bias, agrees in ((0.0504, True), (0.0506, False), (-0.0504, True), (-0.0506, False)):
        tensors["bias"].fill_(1 + bias)
        assert (disagreement(before, eager, tensors) == "") == agrees
    assert disagreement(before, eager, tensors) == "bias differs by 0.0506, the step changes it by 1"
    tensors["bias"].fill_(torch.nan)
    assert disagreement(before, eager, tensors).startswith("bias differs by nan")
    before.restore()
    assert tensors["kernel"].eq(0).all() and tensors["bias"].item() == 0
