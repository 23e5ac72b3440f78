"""A step recorded as a CUDA graph is the step, whatever goes wrong. On a CPU an object stands in for recordings."""
import contextlib
import copy

import pytest
import torch
from conftest import run_like
from torch.utils._python_dispatch import TorchDispatchMode

from data.datasets import CATALOG
from engine import devices
from engine.build import build_model, build_training_loss
from engine.cuda_graph import CUDAGraphStep, Snapshot, clone_memory, disagreement, in_memory
from engine.discriminator import discriminator_of
from engine.train_step import WARMUP_STEPS, ExecutionOptions, TrainStep
from losses.diversity import dice
from losses.diversity.base import DiversityLoss
from utils.io import UserError

CPU = torch.device("cpu")
PLAIN = ExecutionOptions()
GRAPHS = ExecutionOptions(graphs=True)
KINDS = ("softmax", "isomax", "isomaxplus", "dismax_fpr", "de", "ncl", "adp", "gradcam", "dice")
SHARED = ("ncl", "adp", "dice")  # methods whose members share a batch


def made(name, dataset="digits", model="lenet", **recipe):
    """(run, training loss) of a method, from one random state."""
    run = run_like(name, model, dataset, **recipe)
    torch.manual_seed(0)
    return run, build_training_loss(build_model(run, CATALOG[dataset].classes).train(), run)


def stepping(name, options=PLAIN, device=CPU, record=None):
    """(run, TrainStep) of a method on digits."""
    run, loss = made(name)
    optimizer = torch.optim.SGD(loss.to(device).parameters(), 0.1, 0.9, nesterov=True, fused=True)
    discriminator = discriminator_of(loss.aux_losses.get("diversity"), run.recipe)
    return run, TrainStep(loss, optimizer, discriminator, run.recipe, options, device, record or CUDAGraphStep)


def batch_of(run, size, grayscale=False, shared=False):
    """(inputs, targets, aux images, aux labels) as batches_of gives them."""
    members = run.method.members
    own = (members,) if members > 1 and not shared else ()
    g = torch.Generator().manual_seed(size)
    x, y = torch.randn(*own, size, 1, 28, 28, generator=g), torch.randint(7, (*own, size), generator=g)
    y = torch.arange(size) // (-(-size // 2)) if run.recipe.per_class else y  # two classes, equally often
    x = x.expand(*own, size, 3, 28, 28) if grayscale else x.repeat_interleave(3, -3)
    return x, y, *((x[0], y[0]) if run.method.diversity == "gradcam" else (None, None))


def test_grayscale_images_keep_their_one_channel_in_a_recording():
    grayscale = torch.randn(2, 4, 1, 5, 5).expand(-1, -1, 3, -1, -1)
    colour = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    for tensor in (grayscale, colour, torch.arange(4)):
        copy = clone_memory(tensor)
        assert torch.equal(copy, tensor) and copy.stride() == tensor.stride() and copy.data_ptr() != tensor.data_ptr()


class StandIn:
    """Records a step by keeping the function; `replay` calls it on memory of its own, as a CUDA graph does."""

    def __init__(self, function, batch, device):
        self.function, self.replays = function, 0
        self.static = [new if new is None else clone_memory(new) for new in batch]

    accepts = CUDAGraphStep.accepts

    def replay(self, batch):
        for static, new in zip(self.static, batch):
            if static is not None:
                in_memory(static).copy_(in_memory(new))
        self.replays += 1
        self.function(*self.static)


def test_a_recording_is_of_the_function_on_memory_of_its_own(monkeypatch):
    """CUDA's graph is stood in for: it must be recorded on the stream in use, once, and replayed on copied batches."""
    calls, inside = [], []

    class Graph:
        def replay(self):
            calls.append("replay")

    @contextlib.contextmanager
    def recording(graph, stream, capture_error_mode):
        inside.append((type(graph), stream, capture_error_mode))
        yield
        inside.append("end")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    batch = torch.ones(2, 3), torch.arange(2), None
    step = CUDAGraphStep(lambda *static: calls.append((static, len(inside))), batch, CPU)
    (static, began), = calls
    assert began == 1 and inside == [(Graph, "stream of cpu", "thread_local"), "end"]
    assert all(a is b if b is None else a.data_ptr() != b.data_ptr() for a, b in zip(static, batch))
    step.replay((torch.full((2, 3), 7.0), torch.tensor([4, 5]), None))
    assert calls[1:] == ["replay"] and static[0].eq(7).all() and static[1].tolist() == [4, 5]
    assert step.accepts(batch) and not step.accepts((torch.ones(1, 3), torch.arange(1), None))
    assert not step.accepts((*batch[:2], torch.ones(1)))


def run_steps(name, options, record=StandIn, sizes=(8, 8, 8, 8, 8, 5, 8, 8)):
    """(TrainStep, state dict, sums) after batches of these sizes, with learning rates and images that change."""
    run, step = stepping(name, options, record=record)
    for k, size in enumerate(sizes):
        if name == "dice":
            step.set_weight("diversity", 0.1 * k)
            size -= size % 2
        batch = batch_of(run, size, grayscale=True, shared=name in SHARED)
        step(tuple(x if x is None or not x.is_floating_point() else x + k for x in batch), 0.1 / (k + 1), size)
    return step, {k: v.clone() for k, v in step.training_loss.state_dict().items()}, step.sums.clone()


def same(a, b):
    return all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a)


@pytest.mark.parametrize("name", ["dismax_fpr", "de", "gradcam", "adp", "dice"])
def test_a_recorded_step_is_the_step(name):
    """Eight batches, one of them smaller: the bits of the eager run; the first replay is checked, and kept."""
    plain, eager, eager_sums = run_steps(name, PLAIN)
    step, graphed, sums = run_steps(name, GRAPHS)
    assert step.graph.replays == 4 and step.is_checked and step.graph_status == "graphed"
    assert same(eager, graphed) and torch.equal(eager_sums, sums)
    if step.discriminator:
        assert same(*(made.discriminator.tensors() for made in (plain, step)))


class Operators(TorchDispatchMode):
    """The names of all operators that are called in a block."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.names.add(str(function).split(".")[1])
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("name", KINDS)
def test_a_step_needs_nothing_that_a_recording_cannot_do(name, monkeypatch):
    """It makes no tensor of numbers, which would be copied from the CPU, and waits for no value."""
    monkeypatch.setattr(dice, "check_balanced", lambda labels: None)  # both on CPUs only
    monkeypatch.setattr(DiversityLoss, "checked_labels", lambda self, labels, *shape: labels)
    run, step = stepping(name, GRAPHS, record=StandIn)
    batch = batch_of(run, 8, shared=name in SHARED)
    step(batch, 0.1, 8)
    with Operators() as called:
        step.whole_step(*step.preprocess(*batch))
    assert "convolution_backward" in called.names
    assert not called.names & {"lift_fresh", "_local_scalar_dense", "nonzero", "bincount", "masked_select"}


def test_a_discriminator_that_was_recorded_continues_on_a_cpu():
    """A GPU's checkpoint counts steps on the device; what continues is the run that never left the CPU."""
    (_, first), (_, second) = stepping("dice"), stepping("dice")
    features = [torch.randn(8, 84) for _ in range(5)]
    labels = torch.arange(8) // 4
    first.discriminator.backward(features, labels)
    first.discriminator.update()
    state = copy.deepcopy(first.discriminator.state_dict())
    state["optimizer"]["param_groups"][0]["capturable"] = True
    second.discriminator.load_state_dict(state)
    for trainer in (first.discriminator, second.discriminator):
        trainer.zero_grad()
        trainer.backward(features, labels)
        trainer.update()
    assert same(first.discriminator.tensors(), second.discriminator.tensors())


def corrupted(change):
    """A stand-in whose replays call `change` with the network's parameters afterwards."""
    class Corrupted(StandIn):
        def replay(self, batch):
            super().replay(batch)
            with torch.no_grad():
                change(self.function.__self__)
    return Corrupted


def test_a_replay_that_is_not_the_step_is_thrown_away():
    """A wrong value, a NaN, a weight that stays as it was, a loss that is not counted: the run is the eager one."""
    _, eager, eager_sums = run_steps("softmax", PLAIN)

    class Stale(StandIn):
        def replay(self, batch):
            weight = self.function.__self__.training_loss.model.conv2.weight
            before = weight.detach().clone()
            super().replay(batch)
            with torch.no_grad():
                weight.copy_(before)

    def forget_momentum(step):
        next(iter(step.optimizer.state.values()))["momentum_buffer"].zero_()

    faults = {
        "fc.bias": corrupted(lambda step: step.training_loss.model.fc.bias.add_(1e-2)),
        "conv1.weight": corrupted(lambda step: step.training_loss.model.conv1.weight[0, 0, 0, 0].fill_(torch.nan)),
        "conv2.weight": Stale, "metrics": corrupted(lambda step: step.sums.zero_()),
        "momentum_buffer 0": corrupted(forget_momentum)}
    for name, record in faults.items():
        step, state, sums = run_steps("softmax", GRAPHS, record)
        assert step.graph is None and f"eager: a replay differed from the step ({name} differs" in step.graph_status
        assert same(eager, state) and torch.equal(eager_sums, sums), name


def test_what_is_counted_does_not_hide_a_wrong_weight():
    """A batch of 512 adds over 1000 to the metrics. A bias that a step changes by 0.02 must still be right."""
    tensors = {"fc.weight": torch.ones(3, 3), "fc.bias": torch.zeros(3), "metrics": torch.zeros(2)}
    before = Snapshot(tensors)
    tensors["fc.weight"].mul_(1.1), tensors["fc.bias"].add_(0.02), tensors["metrics"].add_(1200.0)
    eager = Snapshot(tensors)
    assert not disagreement(before, eager, tensors)
    tensors["fc.bias"].zero_()  # was not changed
    assert disagreement(before, eager, tensors).startswith("fc.bias differs by 0.0346")


def test_differences_by_rounding_are_not_held_against_a_replay():
    step, *_ = run_steps("softmax", GRAPHS, corrupted(lambda step: step.training_loss.model.fc.weight.mul_(1 + 1e-6)))
    assert step.graph_status == "graphed"


def failing(at, error):
    class Failing(StandIn):
        def __init__(self, *arguments):
            if at == "capture":
                raise error
            super().__init__(*arguments)

        def replay(self, batch):
            super().replay(batch)
            if self.replays == 2:
                raise error
    return Failing


def test_a_step_that_cannot_be_recorded_continues_eagerly(monkeypatch):
    error = RuntimeError("operation not permitted when stream is capturing\nand more")
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    _, eager, eager_sums = run_steps("softmax", PLAIN)
    step, state, sums = run_steps("softmax", GRAPHS, failing("capture", error))
    assert step.graph_status == ("eager: the step could not be recorded (operation not permitted when stream is "
                                 "capturing)")
    assert same(eager, state) and torch.equal(eager_sums, sums)
    monkeypatch.setattr(torch, "__version__", "2.11.0")  # does not recover from a failed capture
    with pytest.raises(UserError, match="does not recover from that. Continue with the same command and --no-graphs"):
        run_steps("softmax", GRAPHS, failing("capture", error))


def test_a_replay_that_fails_stops_in_words():
    with pytest.raises(UserError, match=r"the recorded step failed \(launch failure\).*--no-graphs"):
        run_steps("softmax", GRAPHS, failing("replay", RuntimeError("launch failure")))


@pytest.mark.parametrize("at", ["capture", "replay"])
def test_out_of_memory_in_a_recording_is_that(at):
    with pytest.raises(UserError, match="cpu is out of memory"), devices.explain_out_of_memory(CPU):
        run_steps("softmax", GRAPHS, failing(at, torch.OutOfMemoryError("CUDA out of memory")))


def test_the_step_before_is_not_kept_alive():
    """Features that the discriminator learns from are detached: a graph of the step before would fail a capture."""
    run, loss = made("dice", per_class=4, batch_size=8)
    loss(*batch_of(run, 8, shared=True)[:1], torch.arange(8) // 4)
    assert all(f.grad_fn is None for f in loss.aux_features) and loss.metrics.grad_fn is None


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@on_a_gpu
@pytest.mark.parametrize("loss", KINDS)
def test_a_step_on_a_gpu_is_recorded_checked_and_never_waited_for(loss):
    device = torch.device("cuda")
    with devices.side_stream(device):
        run, step = stepping(loss, ExecutionOptions(bf16=True, graphs=True), device)
        batch = tuple(each if each is None else each.to(device) for each in batch_of(run, 8, shared=loss in SHARED))
        for _ in range(WARMUP_STEPS + 1):
            step(batch, 0.1, 8)
        assert step.graph_status == "graphed" and step.is_checked
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                step(batch, 0.1, 8)
                step.whole_step(*step.preprocess(*batch))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert step.sums.isfinite().all()
