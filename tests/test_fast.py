"""The fast forms of training are the plain run: the same bits where that can be, else within a tolerance stated."""
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, same_states, script

from engine import checkpoint, cuda_graph, memory
from engine.build import model_of, objective_of
from engine.cuda_graph import Recording, like
from engine.train_step import EAGER_STEPS, Speed, Stepper, compiled, speed_of
from recipes import method_of, recipe_of
from utils.io import UserError

CPU = torch.device("cpu")
PLAIN = Speed(bf16=False, graphs=False, compiled=False)


def made(loss, dataset="digits", model="lenet", **changes):
    """(config, recipe, objective) of a method, from one random state."""
    name, method = method_of(loss)
    config = {"run": {"dataset": dataset, "model": model, "loss": loss, "seed": 1}, "method": vars(method)}
    recipe = recipe_of(dataset, name, method).changed(**changes)
    torch.manual_seed(0)
    return config, recipe, objective_of(model_of(config).train(), config, recipe)


def batch_of(config, size, grey=False, shared=False):
    """(inputs, targets, shown, shown labels) as batches_of gives them."""
    members = config["method"]["members"]
    own = (members,) if members > 1 and not shared else ()
    g = torch.Generator().manual_seed(size)
    x, y = torch.randn(*own, size, 1, 28, 28, generator=g), torch.randint(7, (*own, size), generator=g)
    x = x.expand(*own, size, 3, 28, 28) if grey else x.repeat_interleave(3, -3)
    return x, y, *((x[0], y[0]) if config["method"]["diversity"] == "gradcam" else (None, None))


def words(data_dir, results, *more):
    return ["train.py", "--dataset", "digits", "--model", "lenet", "--data-dir", data_dir, "--results-dir", results,
            "--device", "cpu", *more]


@pytest.mark.parametrize("loss", ["dismax_fpr", "dismax-2-gradcam"])
def test_seeds_side_by_side_are_the_runs_of_their_own_commands(tmp_path, data_dir, loss):
    """Bit for bit, though dismax_fpr draws random numbers in every step; a seed that is finished already is left."""
    for seed in (1, 2, 3):
        script(*words(data_dir, tmp_path / "alone", "--loss", loss, "--epochs", 2, "--seed", seed))
    together = words(data_dir, tmp_path / "together", "--loss", loss, "--epochs", 2)
    script(*together, "--seed", 2)
    assert "seed2 is finished" in script(*together, "--seeds", 3, 2, 1).stdout
    for seed in (1, 2, 3):
        one, other = (tmp_path / folder / "digits/lenet" / loss / f"seed{seed}" for folder in ("alone", "together"))
        for file in ("weights.pt", "weights_best.pt"):
            assert same_states(one / file, other / file), (seed, file)
        session, = json.loads((other / "config.json").read_text())["sessions"]
        assert session.get("together_with_seeds") == (None if seed == 2 else [3, 1])


def test_seeds_side_by_side_stop_and_go_on_together(tmp_path, data_dir):
    more = ("--loss", "dismax_fpr", "--epochs", 12, "--seeds", 1, 2)
    script(*words(data_dir, tmp_path / "whole", *more))
    command = [sys.executable, *map(str, words(data_dir, tmp_path / "cut", *more))]
    process = subprocess.Popen(command, cwd=ROOT)
    folders = [tmp_path / f"cut/digits/lenet/dismax_fpr/seed{seed}" for seed in (1, 2)]
    while not all((run / "log.csv").exists() for run in folders):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert all((run / "checkpoint.pt").exists() and not (run / "weights.pt").exists() for run in folders)
    assert "going on from epoch" in script(*words(data_dir, tmp_path / "cut", *more)).stdout
    for run in folders:
        assert same_states(run / "weights.pt", tmp_path / "whole" / run.relative_to(tmp_path / "cut") / "weights.pt")


def test_a_seed_that_fails_costs_the_others_nothing(tmp_path, data_dir):
    broken = tmp_path / "digits/lenet/softmax/seed1"
    script(*words(data_dir, tmp_path, "--loss", "softmax", "--epochs", 1, "--seed", 2))
    broken.mkdir()
    (broken / "checkpoint.pt").write_bytes(b"not a checkpoint")
    done = script(*words(data_dir, tmp_path, "--loss", "softmax", "--epochs", 1, "--seeds", 1, 2, 3), check=False)
    assert done.returncode == 1 and "seed1/checkpoint.pt is damaged" in done.stderr
    assert (tmp_path / "digits/lenet/softmax/seed3/weights.pt").exists()


@pytest.mark.parametrize(("loss", "epochs"), [("softmax", 3), ("dismax_fpr", 3), ("de-2-gradcam", 1)])
def test_bfloat16_trains_as_float32_does(tmp_path, data_dir, loss, epochs):
    """Epoch by epoch: the loss within 2 % (0.02 below 1), accuracy within 3 points; the state in float32."""
    runs_ = {}
    for flag in ("--no-bf16", "--bf16"):
        script(*words(data_dir, tmp_path / flag, "--loss", loss, "--epochs", epochs, "--lr", 0.02, flag))
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
        config, recipe, objective = made("dismax", "cifar10", "resnet34")
        optimizer = torch.optim.SGD(objective.parameters(), 0.1, 0.9, nesterov=True, fused=True)
        step = Stepper(objective, optimizer, None, recipe, Speed(bf16, False, False), CPU)
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        step((images, torch.arange(4), None, None), 0.1, 4)
        state = objective.model.state_dict()
        assert {t.dtype for t in state.values()} <= {torch.float32, torch.int64, torch.bool}
        assert all(p.grad.dtype == torch.float32 for p in objective.parameters())
        after.append((step.sums[0].item() / 4, {k: v for k, v in state.items() if "running" in k}))
    (loss_a, a), (loss_b, b) = after
    assert loss_b == pytest.approx(loss_a, rel=0.005)
    for key, value in a.items():
        assert (b[key] - value).abs().max() <= 0.02 * value.abs().max() + 1e-3, key


def test_grey_images_keep_their_one_channel_in_a_recording():
    grey = torch.randn(2, 4, 1, 5, 5).expand(-1, -1, 3, -1, -1)
    colour = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    for tensor in (grey, colour, torch.arange(4)):
        copy = like(tensor)
        assert torch.equal(copy, tensor) and copy.stride() == tensor.stride() and copy.data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("loss", ["dismax_fpr", "de", "gradcam", "adp"])
def test_a_recorded_step_is_the_step(monkeypatch, loss):
    """Eight batches, one of them smaller, learning rates that change: the bits of the eager run; what is replayed is
    the recording's own memory (a CUDA graph, which a CPU has not, is stood in for by calling the function)."""
    replays = []

    def replay(self, batch):
        for mine, given in zip(self.batch, batch):
            if mine is not None:
                cuda_graph.memory(mine).copy_(cuda_graph.memory(given))
        replays.append(1)
        self.function(*self.batch)

    monkeypatch.setattr(Recording, "__init__", lambda self, function, batch, device: self.__dict__.update(
        function=function, batch=[each if each is None else like(each) for each in batch]))
    monkeypatch.setattr(Recording, "replay", replay)
    states = []
    for graphs in (False, True):
        config, recipe, objective = made(loss)
        optimizer = torch.optim.SGD(objective.parameters(), 0.1, 0.9, nesterov=True, fused=True)
        step = Stepper(objective, optimizer, None, recipe, Speed(False, graphs, False), CPU)
        for k, size in enumerate((8, 8, 8, 8, 8, 5, 8, 8)):
            batch = batch_of(config, size, grey=True, shared=loss == "adp")
            batch = tuple(each if each is None or not each.is_floating_point() else each + k for each in batch)
            step(batch, 0.1 / (k + 1), size)
        states.append((objective.state_dict(), step.sums))
    (a, sums_a), (b, sums_b) = states
    assert len(replays) == 4 and torch.equal(sums_a, sums_b)
    assert all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a)


@pytest.mark.parametrize(("error", "kept"), [
    (RuntimeError("operation not permitted when stream is capturing\nand more"), True),
    (torch.OutOfMemoryError("CUDA out of memory"), False),
])
def test_a_step_that_cannot_be_recorded_goes_on_without(monkeypatch, error, kept):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(Recording, "__init__", fail)
    states = []
    for graphs in (False, True):
        config, recipe, objective = made("softmax")
        optimizer = torch.optim.SGD(objective.parameters(), 0.1, 0.9, nesterov=True, fused=True)
        step = Stepper(objective, optimizer, None, recipe, Speed(False, graphs, False), CPU)
        if graphs and not kept:
            with pytest.raises(torch.OutOfMemoryError):
                for _ in range(5):
                    step(batch_of(config, 4), 0.1, 4)
            return
        for _ in range(5):
            step(batch_of(config, 4), 0.1, 4)
        states.append(objective.state_dict())
    assert step.unrecorded == "operation not permitted when stream is capturing"
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("loss", ["dismax", "de-2-none", "de-2-gradcam", "de-2-adp"])
def test_the_compiled_loss_is_the_loss(loss):
    """Value to 1e-5 and every gradient to 1e-4 of its largest number, second derivatives included."""
    config, recipe, objective = made(loss)
    batch = batch_of(config, 4, shared="adp" in loss)
    found = []
    for function in (objective, compiled(objective, "aot_eager")):
        objective.zero_grad()
        value = function(*batch)
        value.backward()
        found.append((value.item(), [p.grad.clone() for p in objective.parameters()]))
    (value, gradients), (same, others) = found
    assert same == pytest.approx(value, rel=1e-5)
    for a, b in zip(gradients, others):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max() + 1e-7


@pytest.mark.parametrize(("loss", "model"), [("dismax", "resnet34"), ("gradcam", "lenet"), ("adp", "lenet")])
def test_the_estimate_is_what_a_step_keeps(loss, model):
    """Against tensors that are really kept, of images in colour, within 2 %; more for more images."""
    dataset = "cifar10" if model == "resnet34" else "digits"
    found = {}
    for size in (4, 8):
        config, recipe, objective = made(loss, dataset, model, batch_size=size)
        found[size] = memory.estimate(config, recipe, bf16=False)["kept for the backward pass"]
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    side = 32 if model == "resnet34" else 28
    own = {"dismax": (), "gradcam": (5,), "adp": ()}[loss]
    batch = torch.randn(*own, 8, 3, side, side), torch.arange(8).remainder(7).expand(*own, 8), None, None
    if loss == "gradcam":
        batch = *batch[:2], torch.randn(8, 3, side, side), batch[1][0]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = objective(*batch)
    weights = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    really = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
    assert value.isfinite() and found[8] == pytest.approx(really, rel=0.02)
    assert 1.3 * found[4] < found[8] <= 2 * found[4], "kernels laid out anew are kept, too, once a step"
    numbers = sum(p.numel() for p in objective.model.parameters())
    assert memory.estimate(config, recipe, False)["weights, gradients, momentum"] == 12 * numbers
    halved = memory.estimate(config, recipe, True)["kept for the backward pass"]
    assert halved == found[8] // 2


def test_out_of_memory_says_what_to_lower():
    with pytest.raises(UserError, match="cpu is out of memory.*fewer --seeds; --micro-batch 16"), \
            memory.explained(CPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")


@pytest.mark.parametrize(("flags", "message"), [
    (["--graphs"], "--graphs: they need a CUDA device"),
    (["--loss", "dice", "--compile"], "--compile: neither with several processes nor for DICE"),
    (["--seed", 1, "--seeds", 2], "not allowed with argument"),
])
def test_what_cannot_be_had_is_refused(data_dir, tmp_path, flags, message):
    done = script(*words(data_dir, tmp_path, "--loss", "softmax", *flags), check=False)
    assert done.returncode and message in done.stderr and not any(tmp_path.iterdir())


def test_what_is_used_by_default():
    _, method = method_of("softmax")
    recipe = recipe_of("digits", "softmax", method)
    assert speed_of(CPU, method, recipe) == PLAIN


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@on_a_gpu
@pytest.mark.parametrize("loss", ["softmax", "isomax", "isomaxplus", "dismax_fpr", "de", "ncl", "adp", "gradcam"])
def test_a_step_on_a_gpu_is_recorded_and_never_waited_for(loss):
    config, recipe, objective = made(loss)
    device = torch.device("cuda")
    optimizer = torch.optim.SGD(objective.to(device).parameters(), 0.1, 0.9, nesterov=True, fused=True)
    step = Stepper(objective, optimizer, None, recipe, Speed(True, True, False), device)
    batch = tuple(each if each is None else each.to(device) for each in batch_of(config, 8, shared=loss in (
        "ncl", "adp")))
    with torch.cuda.stream(torch.cuda.Stream(device)):
        for _ in range(EAGER_STEPS):
            step(batch, 0.1, 8)
        assert step.recording and not step.unrecorded
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                step(batch, 0.1, 8)
                step.whole(*step.prepared(*batch))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert step.sums.isfinite().all()


@on_a_gpu
@pytest.mark.parametrize("loss", ["dismax_fpr", "gradcam"])
def test_fast_and_plain_agree_on_a_gpu(tmp_path, data_dir, loss):
    """An epoch: the loss within 2 %. Graphs alone, in float32: within 0.1 %."""
    found = {}
    for name, flags in (("plain", ["--no-bf16", "--no-graphs"]), ("graphs", ["--no-bf16"]), ("fast", [])):
        command = words(data_dir, tmp_path / name, "--loss", loss, "--epochs", 1, *flags)
        command[command.index("cpu")] = "cuda"
        script(*command)
        log = (tmp_path / name / "digits/lenet" / loss / "seed1/log.csv").read_text().splitlines()[1]
        found[name] = float(log.split(",")[2])
    assert found["graphs"] == pytest.approx(found["plain"], rel=1e-3)
    assert found["fast"] == pytest.approx(found["plain"], rel=0.02)
