"""Claims that a sample of mutations found untested."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cuda_graph import batch_of, made

from data import decode, image_files, openood
from data.ood_folder import OODFolder
from engine import distributed
from engine.metric_rows import calibrated_metrics, openood_scores
from losses.dismax import mix_quadrants
from metrics.ensemble import ensemble_scores
from utils import lock


def test_what_is_transparent_is_white():
    """Clear pixels, half-clear and opaque ones; an image without clear pixels stays as it is."""
    image = Image.new("RGBA", (3, 1))
    for x, pixel in enumerate([(10, 20, 30, 0), (0, 0, 0, 128), (10, 20, 30, 255)]):
        image.putpixel((x, 0), pixel)
    clear, half, opaque = np.asarray(decode.to_rgb(image))[0].tolist()
    assert clear == [255] * 3 and opaque == [10, 20, 30]
    assert half == pytest.approx([127] * 3, abs=1)
    solid = Image.new("RGBA", (2, 2), (1, 2, 3, 255))
    assert np.asarray(decode.to_rgb(solid)).reshape(-1, 3).tolist() == [[1, 2, 3]] * 4


def test_the_smallest_images_are_mixed():
    images = torch.arange(16.0).view(4, 1, 2, 2)
    assert mix_quadrants(images)[0, 0].tolist() == [[0, 9], [14, 7]]  # of images 0, 2 / 3, 1
    for shape in ((4, 1, 1, 2), (4, 1, 2, 1)):
        with pytest.raises(ValueError, match="at least 2×2 pixels"):
            mix_quadrants(torch.zeros(shape))


def test_calibration_is_told_before_and_after_dividing_by_the_temperature():
    """Two classes, logits (z, 0), half of the answers right: at T → ∞ the confidence is ½, and ECE 0."""
    logits, labels = np.array([[4.0, 0], [4.0, 0]]), np.array([0, 1])
    sharp, flat = calibrated_metrics(logits, labels, 1), calibrated_metrics(logits, labels, 1e6)
    assert sharp["ece"] == sharp["ece_uncalibrated"] == flat["ece_uncalibrated"]
    confidence = 1 / (1 + np.exp(-4.0))
    assert sharp["ece"] == pytest.approx(confidence - 0.5, abs=1e-6) and flat["ece"] == pytest.approx(0, abs=1e-5)
    assert sharp["nll"] == pytest.approx(-np.log([confidence, 1 - confidence]).mean(), rel=1e-6)
    assert flat["nll"] == pytest.approx(np.log(2), abs=1e-5) and flat["nll_uncalibrated"] == sharp["nll"]


def test_own_ood_sets_are_a_group_of_the_benchmark(data_dir, tmp_path):
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    own = OODFolder("mine", tmp_path, "digits")
    plain, with_own = (openood.benchmark("digits", data_dir, ood_sets=sets) for sets in ((), (own,)))
    assert set(with_own.groups) - set(plain.groups) == {"ood"}
    assert own.advice == "Name another folder: --ood mine=DIR"
    subset, = with_own.groups["ood"]
    assert subset.name == "mine" and len(subset.index["test"]) == 3


def test_each_score_stands_once_in_the_openood_tables():
    """MPS, MDS and the energy are there as SDDE's scores, of the calibrated members."""
    logits = np.random.default_rng(0).normal(size=(2, 5, 3))
    scores = openood_scores(logits, 1.5)
    assert {"ES", "MMLS", "MMLES", "MMLEPS"} <= scores.keys() and not {"MPS", "MDS"} & scores.keys()
    assert np.array_equal(scores["energy"], ensemble_scores(logits, 1.5)["energy"].numpy())


def test_one_process_keeps_its_batch_norm():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert distributed.convert_sync_batchnorm(model, torch.device("cpu")) is model
    assert type(model[1]) is torch.nn.BatchNorm2d


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_is_known_by_when_it_started():
    """A number that is given out again belongs to another process."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        own, other = lock._identity(os.getpid()), lock._identity(child.pid)
        boot = float(Path("/proc/uptime").read_text().split()[0])
        age = boot - int(other["started"]) / os.sysconf("SC_CLK_TCK")
        assert own["started"] != other["started"] and -1 < age < 60
    finally:
        child.kill()
        child.wait()
    assert lock._identity(child.pid)["started"] is None


def test_a_folder_around_class_folders_may_hold_an_image_too(tmp_path):
    """One folder around two classes and a stray image: the classes are the two."""
    for name in ("set/a/1.png", "set/b/1.png", "set/stray.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert image_files.class_level(["set/a/1.png", "set/b/1.png", "set/stray.png"], "root") == 1
    assert image_files.class_level(["set/a/1.png", "set/stray.png"], "root") == 0  # <class>/<more of it>


@pytest.mark.parametrize(("method", "is_copied"), [("de", False), ("gradcam", False), ("dismax_fpr-2-none", True)])
def test_batches_that_are_not_mixed_are_not_copied(method, is_copied):
    """Of grayscale images the three channels stay one in memory, which LeNet multiplies once."""
    run, loss = made(method)
    inputs, targets, *_ = batch_of(run, 8, grayscale=True)
    images, labels = loss.preprocess(inputs, targets)
    assert (images is inputs and labels is targets) != is_copied
    assert images.stride(-3) == 0 or is_copied
