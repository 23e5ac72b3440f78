"""The benchmarks compare like with like; how fast anything is, is no test's business."""
import numpy as np
import torch

from benchmarks import ensemble_step, head_loss, input_pipeline, timing
from data.catalog import CATALOG
from data.loaders import ResidentImages

CPU = torch.device("cpu")


def test_ways_take_turns_and_the_median_ratio_is_quoted():
    turns = []
    ways = {name: lambda name=name: turns.append(name) or 5 for name in ("ours", "theirs")}
    rates = timing.take_turns(ways, 3, CPU)
    assert turns == ["ours", "theirs"] * 4 and [len(r) for r in rates.values()] == [3, 3]
    found = timing.summary({"ours": [10, 30, 40], "theirs": [10, 10, 10]}, "ours", "theirs")
    assert (found["ratio"], found["ratio_min"], found["ratio_max"], found["rates"]["ours"]) == (3, 1, 4, 30)


def test_both_heads_compute_the_same_loss():
    for way in head_loss.ways(8, 16, 5, CPU).values():  # asserts it before it times anything
        assert way() == 20


def test_ensemble_steps_compute_the_same_loss():
    for diverse in (False, True):
        for way in ensemble_step.ways(CPU, diverse, batch=4).values():  # asserts it before it times anything
            assert way() == 1


def test_an_epoch_trains_every_member_on_every_image():
    for way in ensemble_step.epochs(CPU, 130).values():
        assert way() == 5 * 130


def test_both_pipelines_make_the_same_kind_of_batch():
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(300) % 10
    statistics = CATALOG["cifar10"].mean, CATALOG["cifar10"].std
    ours = ResidentImages(images, labels, CPU, 32, statistics).train_batches(64, 1, 1, 4, True)
    theirs = torch.utils.data.DataLoader(input_pipeline.Pictures(images, labels), 64, shuffle=True)
    for (a, a_labels), (b, b_labels) in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype == torch.float32 and a_labels.shape == b_labels.shape
        assert abs(a.mean() - b.mean()) < 0.15 and abs(a.std() - b.std()) < 0.15
