"""The benchmarks compare like with like, and say where a number comes from. No test depends on how fast anything is."""
import numpy as np
import pytest
import torch
from conftest import train_batches

from benchmarks import evaluation, head_loss, input_pipeline, scoring, timing, training
from benchmarks.machine import Machine, copy_bandwidth, matrix_rate
from benchmarks.roofline import StepCost, TrafficCounter, cost_of
from benchmarks.workload import Workload
from data.datasets import CATALOG
from data.loaders import ResidentImages
from engine.train_step import ExecutionOptions

CPU = torch.device("cpu")
MACHINE = Machine("cpu", "some chip", 2, {"float32": 1e12, "bfloat16": 4e12}, 1e10)


# ---- timing and comparison ----

def test_functions_are_timed_alternately_and_the_median_ratio_is_quoted():
    calls = []
    fns = {name: lambda name=name: calls.append(name) or 5 for name in ("ours", "theirs")}
    rates = timing.alternate(fns, 3, CPU)
    assert calls == ["ours", "ours", "theirs", "theirs"] * 3 and [len(r) for r in rates.values()] == [3, 3]
    found = timing.summary({"ours": [10, 30, 40], "theirs": [10, 10, 10]}, "theirs")
    assert (found["ratio"], found["ratio_min"], found["ratio_max"], found["values"]["ours"]) == (3, 1, 4, 30)
    assert found["baseline"] == "theirs"


def test_both_heads_compute_the_same_loss():
    for fn in head_loss.fns(8, 16, 5, CPU).values():  # asserts it before it times anything
        assert fn() == 20


@pytest.mark.parametrize("case", [c for c in training.CASES if c.model == "lenet"], ids=lambda case: case.title)
def test_training_and_baseline_start_with_the_same_loss_and_train_on_every_image(case):
    ours = Workload(case, CPU, 8, 2)
    theirs = training.BaselineTraining(ours)  # asserts that the losses are equal
    both = ours.model, theirs.members
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in both]
    assert ours.train() == theirs.train() == 8 * 2 * ours.members
    for module, state in zip(both, before):
        assert any(not torch.equal(v, state[k]) for k, v in module.state_dict().items())
    theirs.close()


@pytest.mark.parametrize(("model", "multiply_adds"), [("resnet34", 1.16e9), ("densenetbc100", 0.29e9)])
def test_other_networks_have_the_baselines_loss_and_the_published_operations(model, multiply_adds):
    case = next(case for case in training.CASES if case.model == model)
    ours = Workload(case, CPU, 2, 1)
    training.BaselineTraining(ours).close()
    assert ours.cost.flops == pytest.approx(3 * 2 * multiply_adds, rel=0.05)  # forward, and two products backward


def test_the_baseline_of_sdde_sees_the_same_statistics_of_batch_normalization():
    """The members' own batches come first and move the statistics that the saliency maps are made with."""
    case = training.Case("5 ResNet-20s, SDDE", "cifar10", "resnet20", "gradcam", (4, 1), (4, 1))
    ours = Workload(case, CPU, 4, 1)
    theirs = training.BaselineTraining(ours)
    batch = [x.double() if x.is_floating_point() else x for x in next(ours.batches(0, 4))]
    theirs.members.double()
    expected = theirs.loss(*batch)[0].item()
    assert ours.training_loss.double()(*batch).item() == pytest.approx(expected, rel=1e-10)
    theirs.close()


def test_a_wrong_loss_is_not_timed(monkeypatch):
    monkeypatch.setattr(training.baseline, "dismax_loss", lambda logits, labels: logits.sum())
    case = next(case for case in training.CASES if case.method == "dismax" and case.model == "lenet")
    with pytest.raises(AssertionError, match="two different losses"):
        training.BaselineTraining(Workload(case, CPU, 4, 1))


def test_evaluation_is_timed_without_tf32_and_the_setting_comes_back(monkeypatch):
    def settings(*_):
        return [place.allow_tf32 for place in (torch.backends.cudnn, torch.backends.cuda.matmul)]
    before = settings()
    monkeypatch.setattr(evaluation, "case_rows", lambda *words: iter([settings()]))
    assert list(evaluation.run(None, CPU, True)) == [[False, False]] and settings() == before != [False, False]


def test_evaluation_finds_the_baselines_scores():
    found, cost = evaluation.fns("mnist", "lenet", "dismax", 60, CPU)  # asserts it
    assert cost.flops > 0 and [fn() for fn in found.values()] == [60] * 3


@pytest.mark.parametrize("baseline", scoring.COMPARISONS)
def test_metrics_are_the_baselines(baseline):
    pytest.importorskip(scoring.COMPARISONS[baseline][2])
    assert [fn() for fn in scoring.fns(2000, baseline).values()] == [len(scoring.SCORES)] * 2  # asserts it


def test_other_metrics_are_not_timed(monkeypatch):
    def halved(id_scores, ood_scores):
        return {"auroc": 0.5 * scoring.openood_rule(id_scores, ood_scores)["auroc"]}
    monkeypatch.setitem(scoring.COMPARISONS, scoring.OPENOOD_RULE, (scoring.detection_metrics, halved, "sklearn"))
    with pytest.raises(AssertionError, match="two different auroc"):
        scoring.fns(50, scoring.OPENOOD_RULE)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(scoring, "COMPARISONS", {"some library": (None, None, "no_such_package")})
    row, = scoring.run(MACHINE, CPU, True)
    assert row["not_measured"] == "needs the package no_such_package"


def test_both_pipelines_make_the_same_kind_of_batch():
    """Each of their images is one of the 9·9·2 crops and flips of the image padded by 4 black pixels; every image once,
    every corner about as often, half of them flipped."""
    n = 300
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    mean, std = CATALOG["cifar10"].mean, CATALOG["cifar10"].std
    torch.manual_seed(0)
    ours = train_batches(ResidentImages(images, np.arange(n), CPU, 32, (mean, std)), 64, 1, 1, 4, True)
    theirs = torch.utils.data.DataLoader(input_pipeline.CIFAR10Images(images, np.arange(n)), 64, shuffle=True)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), (1, 2))  # (n, 9, 9, 3, 32, 32)
    for batches in map(list, (ours, theirs)):
        assert [len(labels) for _, labels in batches] == [64] * 4 + [44]
        shown, which = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]).tolist()
        assert shown.shape == (n, 3, 32, 32) and shown.dtype == torch.float32 and sorted(which) == list(range(n))
        assert which != sorted(which)
        pixels = (shown * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]) * 255
        places = []
        for k, image in zip(which, pixels.round().to(torch.uint8).numpy()):
            found = [(top, left, flipped) for flipped in (False, True) for top, left in np.argwhere(
                (views[k] == (image[..., ::-1] if flipped else image)).all((2, 3, 4))).tolist()]
            places += found
            assert len(found) == 1
        top, left, flipped = np.array(places).T
        for corner in (top, left):  # 33 of each are expected, give or take 5.4
            assert (abs(np.bincount(corner, minlength=9) - n / 9) < 5 * 5.4).all()
        assert abs(flipped.mean() - 0.5) < 5 * 0.029


# ---- the roofline ----

def traffic_of(function):
    with TrafficCounter() as counter:
        function()
    return counter.bytes


def test_every_operator_reads_its_inputs_and_writes_its_outputs_once():
    a, b, row = torch.ones(8, 4), torch.ones(8, 4), torch.ones(4)
    size = 8 * 4 * 4  # bytes
    expected = {
        lambda: a + b: 3 * size,
        lambda: a * a: 2 * size,  # one tensor
        lambda: a.add_(b): 3 * size,  # read as well as written
        lambda: a.copy_(b): 2 * size,  # only written
        lambda: a.zero_(): size,
        lambda: a.view(-1, 2).t()[1:].unsqueeze(0): 0,  # views
        lambda: torch.empty(8, 4): 0,
        lambda: row.expand(8, 4) + b: 2 * size + 16,  # a row that lies in memory once
        lambda: torch.cat([a, b]): 4 * size,
        lambda: a.to(torch.bfloat16): size + size // 2,
    }
    assert [traffic_of(function) for function in expected] == list(expected.values())


def test_traffic_and_operations_of_a_convolution_in_closed_form():
    """Forward: input, weights, output. Backward: the gradient of the output, input and weights are read, the gradients
    of both written. Twice the operations of the forward pass."""
    images, weight = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(5, 3, 3, 3, requires_grad=True)
    n, w, out = 4 * 2 * 3 * 64, 4 * 5 * 27, 4 * 2 * 5 * 64
    gradient = torch.ones(2, 5, 8, 8)

    def step():
        torch.autograd.grad(torch.nn.functional.conv2d(images, weight, padding=1), (images, weight), gradient)

    cost = cost_of(step, 2)
    assert cost.bytes == ((n + w + out) + (out + n + w) + (n + w)) / 2
    assert cost.flops == 3 * 2 * 5 * 27 * 64
    assert cost.intensity == cost.flops / cost.bytes


def test_traffic_of_a_whole_step():
    """Of ResNet-20 what is the same for any batch are its 0.27 million parameters: read in both passes, their gradients
    written, and by the optimizer weight, gradient and momentum read, weight and momentum written. Each image adds the
    maps, in bfloat16 half as much."""
    case = next(case for case in training.CASES if case.title == "ResNet-20")
    an_image, any_batch, flops = {}, {}, set()
    for bf16 in (False, True):
        two, four = (Workload(case, CPU, batch, 1, ExecutionOptions(bf16=bf16)).cost for batch in (2, 4))
        an_image[bf16] = (4 * four.bytes - 2 * two.bytes) / 2
        any_batch[bf16] = 2 * two.bytes - 2 * an_image[bf16]
        flops |= {two.flops, four.flops}
    assert any_batch[False] == pytest.approx(8 * 4 * 269_722, rel=0.02)
    assert an_image[True] == pytest.approx(an_image[False] / 2, rel=0.01) and len(flops) == 1


def test_the_bound_is_the_lower_of_both_roofs():
    """1 TFLOP/s and 10 GB/s meet at 100 FLOP/byte."""
    assert MACHINE.bound(StepCost(1e9, 1e9 / 50), "float32") == 0.5e12
    assert MACHINE.bound(StepCost(1e9, 1e9 / 400), "float32") == 1e12
    assert MACHINE.bound(StepCost(1e9, 1e9 / 400), "bfloat16") == 4e12
    shares = MACHINE.shares(100, StepCost(1e9, 1e9 / 50), "float32")
    assert shares["of_matrix_rate"] == pytest.approx(0.1) and shares["of_roofline"] == pytest.approx(0.2)


def test_rates_of_the_machine_are_numbers_of_it():
    assert 1e8 < matrix_rate(CPU, torch.float32, repeats=1) < 1e14
    assert 1e7 < copy_bandwidth(CPU, repeats=1) < 1e13
