"""What differs on accelerators, tried on a CPU: stand-ins for their modules, errors and random states."""
import copy
import sys
import weakref

import numpy as np
import pytest
import torch
from conftest import script
from PIL import Image
from test_cuda_graph import GRAPHS, PLAIN, StandIn, batch_of, made, run_steps, stepping
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train
from data.loaders import ResidentImages
from engine import detection, devices, inference, train_step
from engine.discriminator import DiscriminatorTrainer
from losses.diversity import DiceDiscriminator, dice
from utils.io import UserError

MPS = torch.device("mps")
OUT_OF_MEMORY = """
import torch
from engine import inference

plain, calls = inference.add_member_dim, []


def add_member_dim(logits):
    calls.append(1)
    if len(calls) == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return plain(logits)


inference.add_member_dim = add_member_dim
"""


def test_apples_gpu_is_waited_for_without_naming_it(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("mps"))
    devices.synchronize(MPS)
    devices.synchronize(torch.device("cpu"))
    assert calls == ["mps"]


class WithoutFloat64(torch.Tensor):
    """A tensor of a device that has no float64, until it is on the CPU."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return super().cpu().as_subclass(torch.Tensor)


def test_detection_makes_no_float64_on_the_device():
    detector = object.__new__(detection.Detector)
    detector.ours = True
    detector.model = lambda images: torch.randn(2, 4, 3).as_subclass(WithoutFloat64)
    detector.head = type("Head", (), {name: staticmethod(lambda logits, *rest: logits) for name in (
        "probabilities", "scores", "detect")})
    classes, probabilities, scores, _ = detector(torch.zeros(4, 3, 28, 28), 0.05)
    assert scores.dtype == torch.float64 and type(scores) is torch.Tensor and scores.shape == (4, 3)


# ---- out of memory ----

@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.01 GB)"),
    RuntimeError("FIND was unable to find an engine to execute this computation")])
def test_each_devices_lack_of_memory_is_explained(error):
    """cuDNN does not say that it was the memory."""
    word = "probably " if "an engine" in str(error) else ""
    with pytest.raises(UserError, match=f"mps is {word}out of memory.*do this"), devices.explain_out_of_memory(
            MPS, "do this"):
        raise error
    with pytest.raises(RuntimeError, match="another"), devices.explain_out_of_memory(MPS):
        raise RuntimeError("another")


def test_lack_of_memory_for_an_answer_is_explained(tmp_path, results_dir):
    plugin = tmp_path / "short_of_memory.py"
    plugin.write_text(OUT_OF_MEMORY.replace("inference", "detection"))
    image = tmp_path / "grey.png"
    Image.new("RGB", (28, 28)).save(image)
    done = script("detect.py", results_dir / "digits/lenet/softmax/seed1", image, "--device", "cpu", "--plugin", plugin,
                  check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cpu is out of memory (CUDA out of memory. Tried to allocate 2.00 GiB). End other processes" in done.stderr


def test_a_gpu_that_is_full_is_explained_before_the_data_is_read(monkeypatch, data_dir):
    def full(*options):
        raise RuntimeError("CUDA error: out of memory")
    monkeypatch.setattr(train, "execution_options", full)
    monkeypatch.setattr(sys, "argv", ["train.py", "--dataset", "digits", "--model", "lenet", "--loss", "softmax",
                                      "--device", "cpu", "--data-dir", str(data_dir)])
    with pytest.raises(UserError, match="cpu is out of memory"):
        train.main()


def test_a_run_that_is_too_large_to_evaluate_does_not_stop_the_others(tmp_path, data_dir, results_dir):
    plugin = tmp_path / "short_of_memory.py"
    plugin.write_text(OUT_OF_MEMORY)
    runs = [tmp_path / name for name in ("results/digits/lenet/softmax/seed1", "results/digits/lenet/softmax/seed2")]
    for run in runs:
        run.mkdir(parents=True)
        for file in ("config.json", "log.csv", "weights.pt", "weights_best.pt"):
            (run / file).write_bytes((results_dir / run.relative_to(tmp_path / "results") / file).read_bytes())
    done = script("evaluate.py", *runs, "--data-dir", data_dir, "--device", "cpu", "--plugin", plugin, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cpu is out of memory (CUDA out of memory. Tried to allocate 2.00 GiB). End other processes" in done.stderr
    assert f"not evaluated: {runs[0]}" in done.stderr
    assert [(run / "metrics.csv").exists() for run in runs] == [False, True]


def test_lack_of_memory_outside_of_a_step_is_explained(tmp_path, data_dir):
    """Here when the first epoch is validated."""
    plugin = tmp_path / "short_of_memory.py"
    plugin.write_text(OUT_OF_MEMORY)
    done = script("train.py", "--dataset", "digits", "--model", "lenet", "--loss", "softmax", "--epochs", 1, "--device",
                  "cpu", "--data-dir", data_dir, "--results-dir", tmp_path, "--plugin", plugin, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cpu is out of memory" in done.stderr and "--micro-batch 16" in done.stderr


# ---- a recorded step ----

@pytest.mark.parametrize("sizes", [(8, 8, 5, 8, 8, 8, 5, 8), (5, 8, 5, 8, 8, 8, 8, 8)])
def test_the_last_smaller_batch_is_not_recorded(sizes):
    """A session may begin shortly before an epoch's end."""
    step, *_ = run_steps("softmax", GRAPHS, sizes=sizes)
    assert step.graph.static[0].shape[0] == 8 and step.graph.replays >= 2 and step.graph_status == "graphed"


def test_batches_that_are_never_alike_are_not_recorded():
    step, *_ = run_steps("softmax", GRAPHS, sizes=(8, 5) * 4)
    assert step.graph is None and step.graph_status == "eager: too few steps"


def test_what_the_check_needed_is_given_back(monkeypatch):
    """Once, when nothing refers to the copies or to the eager step's gradients any more."""
    copies, alive, steps = [], [], []

    class Watched(train_step.Snapshot):
        def __init__(self, tensors):
            super().__init__(tensors)
            copies.append(weakref.ref(self))
    monkeypatch.setattr(train_step, "Snapshot", Watched)
    monkeypatch.setattr(devices, "release_memory", lambda device: alive.append(
        [copy() for copy in copies] + [p.grad for step in steps for p in step.training_loss.parameters()]))

    class Seen(StandIn):
        def __init__(self, function, *others):
            steps.append(function.__self__)
            super().__init__(function, *others)
    run_steps("softmax", GRAPHS, Seen)
    assert alive == [[None] * (2 + len(list(steps[0].training_loss.parameters())))]


def test_where_looking_costs_time_dice_is_nan_for_a_class_that_is_alone(monkeypatch):
    """As on a GPU, where nobody waits to look at the labels; a training stops at a loss that is NaN."""
    discriminator, features = DiceDiscriminator(5, 3), [torch.randn(5, 3) for _ in range(2)]
    with pytest.raises(ValueError, match="every class of a batch equally often"):
        discriminator.loss(features, torch.tensor([0, 0, 1, 1, 2]))
    monkeypatch.setattr(dice, "check_balanced", lambda labels: None)
    assert discriminator.loss(features, torch.tensor([0, 0, 1, 1, 2]))[0].isnan()
    assert discriminator.loss(features, torch.tensor([0, 0, 1, 1, 1]))[0].isfinite()
    assert dice.next_of_class(torch.tensor([3, 1, 3, 1, 3])).tolist() == [2, 3, 4, 1, 0]


class Devices(TorchDispatchMode):
    """The kinds of device of all tensors that operators get and give in a block."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        found = function(*arguments, **(named or {}))
        self.seen |= {leaf.device.type for leaf in tree_leaves((arguments, named, found)) if torch.is_tensor(leaf)}
        return found


@pytest.mark.parametrize("earlier", [0, 1])
def test_all_that_the_discriminators_update_needs_is_on_the_gpu(earlier):
    """Tensors without numbers stand in for a GPU's: RMSprop counts its steps there, also those before a stop."""
    with FakeTensorMode(), Devices() as used:
        with torch.device("cuda"):
            trainer = DiscriminatorTrainer(DiceDiscriminator(5, 3), 1e-3, clip=1.0)
        for recorded in (*[False] * earlier, True, True):
            if recorded:
                trainer.prepare_recording()
                used.seen.clear()
            for p in trainer.discriminator.parameters():
                p.grad = torch.zeros_like(p)
            trainer.update()
    assert trainer.optimizer.param_groups[0]["capturable"] is True and used.seen == {"cuda"}
    assert all(tensor.is_cuda for tensor in trainer.tensors().values()) and len(trainer.tensors()) == 9 * 4


# ---- random states ----

def test_a_random_state_belongs_to_its_kind_of_device():
    cpu = devices.rng_state(torch.device("cpu"))
    other = {**copy.deepcopy(cpu), "type": "mps", "device": torch.zeros(16, dtype=torch.uint8)}
    former = {"cpu": cpu["cpu"], "device": torch.zeros(16, dtype=torch.uint8)}  # told no type, and was CUDA's
    kinds = [torch.device(kind) for kind in ("cpu", "cuda", "mps")]
    assert [devices.restores_rng_state(cpu, kind) for kind in kinds] == [True, False, False]
    assert [devices.restores_rng_state(other, kind) for kind in kinds] == [False, False, True]
    assert [devices.restores_rng_state(former, kind) for kind in kinds] == [False, True, False]


def test_recorded_and_eager_runs_draw_the_same_after_a_check():
    """FPR draws in each step. The check runs a step twice, and draws once."""
    run, step = stepping("dismax_fpr", GRAPHS, record=StandIn)
    torch.manual_seed(0)
    for _ in range(6):
        step(batch_of(run, 8), 0.1, 8)
    recorded = torch.rand(3)
    run, step = stepping("dismax_fpr")
    torch.manual_seed(0)
    for _ in range(6):
        step(batch_of(run, 8), 0.1, 8)
    assert torch.equal(recorded, torch.rand(3))


def test_a_checked_replay_draws_what_the_eager_step_drew():
    """Here each step draws a factor of its loss. A replay that drew another one would be thrown away."""
    after = []
    for options in (PLAIN, GRAPHS):
        run, step = stepping("softmax", options, record=StandIn)
        step.loss = lambda *batch, plain=step.loss: plain(*batch) * (1 + torch.rand(()))
        torch.manual_seed(0)
        for _ in range(6):
            step(batch_of(run, 8), 0.1, 8)
        after.append((step.training_loss.model.fc.weight.detach(), torch.rand(3)))
    assert step.graph_status == "graphed" and all(map(torch.equal, *after))


def test_logits_are_read_when_the_device_is_done(monkeypatch):
    """They are copied to the host without waiting for each batch, and waited for once, on the model's own device."""
    order = []
    monkeypatch.setattr(devices, "synchronize", lambda device: order.append(device))
    plain = inference.distributed.gather_to_main
    monkeypatch.setattr(inference.distributed, "gather_to_main", lambda parts: order.append("read") or plain(parts))
    run, loss = made("softmax")
    data = ResidentImages(np.zeros((4, 28, 28, 1), np.uint8), np.zeros(4, np.int64), torch.device("cpu"), 28, (
        run.recipe.mean, run.recipe.std))
    inference.forward(loss.model.eval(), data, "")
    assert order == [torch.device("cpu"), "read"]
