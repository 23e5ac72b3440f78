"""The fast forms of training are the plain run: the same bits where that can be, else within a tolerance stated."""
import json

import pytest
import torch
from conftest import run_like, script

from data.datasets import CATALOG
from engine import checkpoint, devices, train_step
from engine.build import build_model, build_training_loss
from engine.cuda_graph import CUDAGraphStep, clone_memory, in_memory
from engine.train_step import WARMUP_STEPS, ExecutionOptions, TrainStep, compile_loss, execution_options
from utils.io import UserError

CPU = torch.device("cpu")
PLAIN = ExecutionOptions()


def made(name, dataset="digits", model="lenet", **recipe):
    """(run, training loss) of a method, from one random state."""
    run = run_like(name, model, dataset, **recipe)
    torch.manual_seed(0)
    return run, build_training_loss(build_model(run, CATALOG[dataset].classes).train(), run)


def stepping(name, options=PLAIN, device=CPU, record=None):
    """(run, TrainStep) of a method on digits."""
    run, loss = made(name)
    optimizer = torch.optim.SGD(loss.to(device).parameters(), 0.1, 0.9, nesterov=True, fused=True)
    return run, TrainStep(loss, optimizer, None, run.recipe, options, device, record or CUDAGraphStep)


def batch_of(run, size, grayscale=False, shared=False):
    """(inputs, targets, aux images, aux labels) as batches_of gives them."""
    members = run.method.members
    own = (members,) if members > 1 and not shared else ()
    g = torch.Generator().manual_seed(size)
    x, y = torch.randn(*own, size, 1, 28, 28, generator=g), torch.randint(7, (*own, size), generator=g)
    x = x.expand(*own, size, 3, 28, 28) if grayscale else x.repeat_interleave(3, -3)
    return x, y, *((x[0], y[0]) if run.method.diversity == "gradcam" else (None, None))


def words(data_dir, results, *more):
    return ["train.py", "--dataset", "digits", "--model", "lenet", "--data-dir", data_dir, "--results-dir", results,
            "--device", "cpu", *more]


@pytest.mark.parametrize(("loss", "epochs", "batch"), [
    ("softmax", 3, 64), ("dismax_fpr", 3, 32), ("de-2-gradcam", 1, 64)])
def test_bfloat16_trains_as_float32_does(tmp_path, data_dir, loss, epochs, batch):
    """Epoch by epoch: the loss within 2 % (0.02 below 1), accuracy within 3 points; the state in float32."""
    runs_ = {}
    for flag in ("--no-bf16", "--bf16"):
        script(*words(data_dir, tmp_path / flag, "--loss", loss, "--epochs", epochs, "--lr", 0.02, "--batch-size",
                      batch, flag))
        runs_[flag] = tmp_path / flag / "digits/lenet" / loss / "seed1"
    plain, fast = ([[float(value) for value in line.split(",")[2:5]] for line in
                    (run / "log.csv").read_text().splitlines()[1:]] for run in runs_.values())
    assert plain != fast
    for (loss_a, train_a, test_a), (loss_b, train_b, test_b) in zip(plain, fast):
        assert loss_b == pytest.approx(loss_a, rel=0.02, abs=0.02)
        assert train_b == pytest.approx(train_a, abs=0.03) and test_b == pytest.approx(test_a, abs=0.03)
    state = checkpoint.load_state(runs_["--bf16"] / "weights.pt")
    assert {t.dtype for t in state.values()} <= {torch.float32, torch.int64, torch.bool}
    assert json.loads((runs_["--bf16"] / "config.json").read_text())["sessions"][0]["bf16"] is True


def test_bfloat16_keeps_heads_losses_and_batch_statistics_in_float32():
    """One step on random images: the loss within 0.5 %, every BN statistic within 2 % of its own spread."""
    after = []
    for bf16 in (False, True):
        run, loss = made("dismax", "cifar10", "resnet34")
        optimizer = torch.optim.SGD(loss.parameters(), 0.1, 0.9, nesterov=True, fused=True)
        step = TrainStep(loss, optimizer, None, run.recipe, ExecutionOptions(bf16=bf16), CPU)
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        step((images, torch.arange(4), None, None), 0.1, 4)
        state = loss.model.state_dict()
        assert {t.dtype for t in state.values()} <= {torch.float32, torch.int64, torch.bool}
        assert all(p.grad.dtype == torch.float32 for p in loss.parameters())
        after.append((step.sums[0].item() / 4, {k: v for k, v in state.items() if "running" in k}))
    (loss_a, a), (loss_b, b) = after
    assert loss_b == pytest.approx(loss_a, rel=0.005)
    for key, value in a.items():
        assert (b[key] - value).abs().max() <= 0.02 * value.abs().max() + 1e-3, key


# ---- a step recorded as a CUDA graph; on a CPU another object stands in for the recording ----

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


def run_steps(name, options, record=StandIn, sizes=(8, 8, 8, 8, 8, 5, 8, 8)):
    """(TrainStep, state dict, sums) after batches of these sizes, with learning rates and images that change."""
    run, step = stepping(name, options, record=record)
    for k, size in enumerate(sizes):
        batch = batch_of(run, size, grayscale=True, shared=name == "adp")
        step(tuple(x if x is None or not x.is_floating_point() else x + k for x in batch), 0.1 / (k + 1), size)
    return step, {k: v.clone() for k, v in step.training_loss.state_dict().items()}, step.sums.clone()


def same(a, b):
    return all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a)


GRAPHS = ExecutionOptions(graphs=True)


@pytest.mark.parametrize("name", ["dismax_fpr", "de", "gradcam", "adp"])
def test_a_recorded_step_is_the_step(name):
    """Eight batches, one of them smaller: the bits of the eager run; the first replay is checked, and kept."""
    _, eager, eager_sums = run_steps(name, PLAIN)
    step, graphed, sums = run_steps(name, GRAPHS)
    assert step.graph.replays == 4 and step.is_checked and step.graph_status == "graphed"
    assert same(eager, graphed) and torch.equal(eager_sums, sums)


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


@pytest.mark.parametrize("loss", ["dismax", "de-2-none", "de-2-gradcam", "de-2-adp"])
def test_the_compiled_loss_is_the_loss(loss):
    """Value to 1e-5 and every gradient to 1e-4 of its largest number, second derivatives included."""
    run, training_loss = made(loss)
    if "gradcam" in loss and not train_step.can_compile_gradients():
        pytest.skip("this PyTorch cannot compile gradients")
    batch, found = batch_of(run, 4, shared="adp" in loss), []
    for function in (training_loss, compile_loss(training_loss, "aot_eager")):
        training_loss.zero_grad()
        value = function(*batch)
        value.backward()
        found.append((value.item(), [p.grad.clone() for p in training_loss.parameters()]))
    (value, gradients), (same, others) = found
    assert same == pytest.approx(value, rel=1e-5)
    assert all((a - b).abs().max() <= 1e-4 * a.abs().max() + 1e-7 for a, b in zip(gradients, others))


def test_out_of_memory_says_what_to_lower():
    with pytest.raises(UserError, match="out of memory.*--micro-batch 16"), devices.explain_out_of_memory(CPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")


@pytest.mark.parametrize(("flags", "message"), [
    (["--graphs"], "--graphs: CUDA graphs need a CUDA device"),
    (["--loss", "dice", "--compile"], "--compile: neither with several ranks nor for DICE")])
def test_what_cannot_be_had_is_refused(data_dir, tmp_path, flags, message):
    done = script(*words(data_dir, tmp_path, "--loss", "softmax", *flags), check=False)
    assert done.returncode and message in done.stderr and not any(tmp_path.iterdir())


def test_what_is_used_by_default(monkeypatch):
    """bfloat16 on CPUs only where they multiply it, and never for LeNet; no graph on a CPU."""
    for amx, name, bf16 in ((False, "resnet34", False), (True, "resnet34", True), (True, "lenet", False)):
        monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device, amx=amx: amx)
        options = execution_options(CPU, run_like("softmax", name, "cifar10" if name == "resnet34" else "digits"))
        assert options == ExecutionOptions(bf16=bf16, why_eager="CUDA graphs need a CUDA device")


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@on_a_gpu
@pytest.mark.parametrize("loss", ["softmax", "isomax", "isomaxplus", "dismax_fpr", "de", "ncl", "adp", "gradcam"])
def test_a_step_on_a_gpu_is_recorded_checked_and_never_waited_for(loss):
    device = torch.device("cuda")
    with devices.side_stream(device):
        run, step = stepping(loss, ExecutionOptions(bf16=True, graphs=True), device)
        batch = tuple(each if each is None else each.to(device) for each in batch_of(run, 8, shared=loss in (
            "ncl", "adp")))
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


@on_a_gpu
@pytest.mark.parametrize("loss", ["dismax_fpr", "gradcam"])
def test_fast_and_plain_agree_on_a_gpu(tmp_path, data_dir, loss):
    """An epoch: the loss within 2 %. Graphs alone, in float32: within 0.1 %."""
    found = {}
    for name, flags in (("plain", ["--no-bf16", "--no-graphs"]), ("graphs", ["--no-bf16", "--graphs"]),
                        ("fast", ["--bf16", "--graphs"])):
        command = words(data_dir, tmp_path / name, "--loss", loss, "--epochs", 1, *flags)
        command[command.index("cpu")] = "cuda"
        script(*command)
        log = (tmp_path / name / "digits/lenet" / loss / "seed1/log.csv").read_text().splitlines()[1]
        found[name] = float(log.split(",")[2])
    assert found["graphs"] == pytest.approx(found["plain"], rel=1e-3)
    assert found["fast"] == pytest.approx(found["plain"], rel=0.02)
