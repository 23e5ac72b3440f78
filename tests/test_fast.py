"""The fast forms of training are the plain run: the same bits where that can be, else within a tolerance stated."""
import json

import pytest
import torch
from conftest import run_like, script
from test_cuda_graph import CPU, batch_of, made, on_a_gpu

from engine import checkpoint, devices, train_step
from engine.train_step import ExecutionOptions, TrainStep, compile_loss, execution_options
from utils.io import UserError


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
