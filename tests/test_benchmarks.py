"""The benchmarks compare like with like; how fast anything is, is no test's business."""
import numpy as np
import pytest
import torch
from conftest import train_batches

from benchmarks import evaluation, head_loss, input_pipeline, run, scoring, timing, training
from data.datasets import CATALOG
from data.loaders import ResidentImages

CPU = torch.device("cpu")


def test_ways_take_turns_and_the_median_ratio_is_quoted():
    turns = []
    ways = {name: lambda name=name: turns.append(name) or 5 for name in ("ours", "theirs")}
    rates = timing.take_turns(ways, 3, CPU)
    assert turns == ["ours", "ours", "theirs", "theirs"] * 3 and [len(r) for r in rates.values()] == [3, 3]
    found = timing.summary({"ours": [10, 30, 40], "theirs": [10, 10, 10]}, "ours", "theirs")
    assert (found["ratio"], found["ratio_min"], found["ratio_max"], found["rates"]["ours"]) == (3, 1, 4, 30)


def test_both_heads_compute_the_same_loss():
    for way in head_loss.ways(8, 16, 5, CPU).values():  # asserts it before it times anything
        assert way() == 20


@pytest.mark.parametrize("case", [c for c in training.CASES if c.model == "lenet"], ids=lambda case: case.title)
def test_training_both_ways_starts_with_the_same_loss_and_trains_on_every_image(case):
    made = training.Made(case, CPU, 8, 2)  # asserts that the losses are equal
    both = made.training_loss.model, made.members
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in both]
    assert made.ours() == made.ordinary() == 8 * 2 * len(made.members)
    for module, state in zip(both, before):
        assert any(not torch.equal(v, state[k]) for k, v in module.state_dict().items())
    made.close()


@pytest.mark.parametrize("model", ["resnet34", "densenetbc100"])
def test_other_networks_have_the_same_loss_both_ways(model):
    case = next(case for case in training.CASES if case.model == model)
    made = training.Made(case, CPU, 2, 1)
    forward = 1.16e9 if model == "resnet34" else 0.29e9  # multiply-adds of an image, as published
    assert made.flops == pytest.approx(3 * 2 * forward, rel=0.05)
    made.close()


def test_a_wrong_loss_is_not_timed(monkeypatch):
    monkeypatch.setattr(training.plain, "dismax_loss", lambda logits, labels: logits.sum())
    case = next(case for case in training.CASES if case.method == "dismax" and case.model == "lenet")
    with pytest.raises(AssertionError, match="two different losses"):
        training.Made(case, CPU, 4, 1)


def test_evaluation_finds_the_same_scores_both_ways():
    found, flops = evaluation.made("mnist", "lenet", "dismax", 60, CPU)  # asserts it
    assert flops > 0 and [way() for way in found.values()] == [60] * 3


@pytest.mark.parametrize("theirs", [scoring.CURVES, scoring.LOOP])
def test_metrics_are_the_same_both_ways(theirs):
    assert [way() for way in scoring.ways(50, theirs).values()] == [len(scoring.SCORES)] * 2  # asserts it


def test_rates_are_shown_with_their_share_of_the_machine():
    result = {"what": "a step", "unit": "images/s", "against": "theirs", "rates": {"ours": 1234.5, "theirs": 4.321},
              "ratio": 2, "ratio_min": 1, "ratio_max": 3, "target": 1.5, "share": 0.456}
    assert run.row(result) == ["a step", "1,234 images/s", "4.32 (theirs)", "2.0× (1.0–3.0)", "≥ 1.5×", "46%"]


def test_both_pipelines_make_the_same_kind_of_batch():
    """Each of their images is one of the 9·9·2 crops and flips of the image padded by 4 black pixels; every image once,
    every corner about as often, half of them flipped."""
    n = 300
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    mean, std = CATALOG["cifar10"].mean, CATALOG["cifar10"].std
    torch.manual_seed(0)
    ours = train_batches(ResidentImages(images, np.arange(n), CPU, 32, (mean, std)), 64, 1, 1, 4, True)
    theirs = torch.utils.data.DataLoader(input_pipeline.Pictures(images, np.arange(n)), 64, shuffle=True)
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
