"""Several processes make the run that one makes: every image once, averaged gradients, common BN statistics."""
import json
import os
import signal
import time

import forked
import numpy as np
import pytest
import torch
from conftest import ROOT, log_of, script, train_batches
from PIL import Image
from sklearn.datasets import load_sample_images

from data.loaders import ResidentImages
from data.sampling import class_balanced, rank_slice
from engine import checkpoint

# train.py or evaluate.py in float64, in which two orders of summing agree to ten digits, and a mistake does not; with
# ImageNet's images in 96 pixels in place of 224
IN_FLOAT64 = """import runpy, sys, torch
from dataclasses import replace
torch.set_default_dtype(torch.float64)
sys.argv, sys.path[0] = sys.argv[1:], "."
from data.datasets import CATALOG
CATALOG["imagenet1k"] = replace(CATALOG["imagenet1k"], size=96)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def one_thread_a_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def float64(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripts") / "float64.py"
    path.write_text(IN_FLOAT64)
    return path


def processes(n, *words, **options):
    """Run words in n processes by torchrun."""
    return script("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", *words, **options)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """ImageNet's layout with real photographs: 4 classes, 14 training JPEGs, 6 test JPEGs."""
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    photos = load_sample_images().images
    for split, count in (("train", 14), ("val", 6)):
        for k in range(count):
            folder = root / split / f"n{k % 4:08}"
            folder.mkdir(parents=True, exist_ok=True)
            top, left = rng.integers(0, 200), rng.integers(0, 400)
            Image.fromarray(photos[k % 2][top : top + 180, left : left + 230]).save(folder / f"{k}.JPEG")
    return root


def test_two_processes_train_as_one_does(tmp_path, imagenet, float64):
    """ResNet18 with BN on JPEGs, batches of 8 and 6 (4 + 4, 3 + 3): the same losses, weights and BN statistics."""
    words = [float64, "train.py", "--dataset", "imagenet1k", "--model", "resnet18", "--loss", "dismax", "--epochs", 1,
             "--batch-size", 8, "--lr", 0.01, "--device", "cpu", "--workers", 0]
    env = {**os.environ, "IMAGENET_DIR": str(imagenet)}
    script(*words, "--results-dir", tmp_path / "one", env=env)
    processes(2, *words, "--results-dir", tmp_path / "two", env=env)
    one, two = (tmp_path / name / "imagenet1k/resnet18/dismax/seed1" for name in ("one", "two"))
    for a, b in zip(log_of(one), log_of(two), strict=True):
        for key in ("train_loss", "train_acc", "selection_acc", "distance_scale"):
            assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-9), key
    a, b = checkpoint.load_state(one / "weights.pt"), checkpoint.load_state(two / "weights.pt")
    assert a.keys() == b.keys()
    for key in a:
        assert torch.allclose(a[key].nan_to_num(), b[key].nan_to_num(), rtol=1e-6, atol=1e-9), key
    config = json.loads((two / "config.json").read_text())
    assert config["sessions"][0]["ranks"] == 2 and len(config["sessions"]) == 1

    processes(2, float64, "evaluate.py", two, "--device", "cpu", "--workers", 0, env=env)
    script(float64, "evaluate.py", one, "--device", "cpu", "--workers", 0, env=env)
    for run in (one, two):
        with np.load(run / "logits/imagenet1k.npz") as content:
            assert content["labels"].tolist() == [0, 0, 1, 1, 2, 3], "every image once, in order"
    z = [np.load(run / "logits/imagenet1k.npz")["logits"] for run in (one, two)]
    assert np.allclose(*z, atol=1e-5)


@pytest.mark.parametrize("loss", ["isomaxplus", "softmax-2-gradcam"])
def test_accumulated_micro_batches_are_the_whole_batch(tmp_path, data_dir, float64, loss):
    """Gradients of 64 images are those of 5 forward passes, on one process or on two; also of a diversity loss."""
    words = [float64, "train.py", "--dataset", "digits", "--model", "lenet", "--loss", loss, "--epochs", 1,
             "--device", "cpu", "--data-dir", data_dir]
    script(*words, "--results-dir", tmp_path / "whole")
    script(*words, "--micro-batch", 13, "--results-dir", tmp_path / "parts")
    processes(2, *words, "--micro-batch", 13, "--results-dir", tmp_path / "both")
    runs_of = [tmp_path / name / f"digits/lenet/{loss}/seed1" for name in ("whole", "parts", "both")]
    whole, *others = (checkpoint.load_state(run / "weights.pt") for run in runs_of)
    for name in ("train_loss", *(["diversity"] if "gradcam" in loss else [])):
        rows = [log_of(run)[-1] for run in runs_of]
        assert [float(row[name]) for row in rows] == pytest.approx([float(rows[0][name])] * 3, rel=1e-9)
    for other in others:
        assert all(torch.allclose(whole[key], other[key], rtol=1e-6, atol=1e-9, equal_nan=True) for key in whole)


def test_killed_on_two_processes_it_goes_on_with_one(tmp_path, data_dir, float64):
    words = [float64, "train.py", "--dataset", "digits", "--model", "lenet", "--loss", "isomax", "--epochs", 9,
             "--device", "cpu", "--data-dir", data_dir]
    script(*words, "--results-dir", tmp_path / "undisturbed")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run = tmp_path / "disturbed/digits/lenet/isomax/seed1"
    process = forked.start([*launch, *words, "--results-dir", tmp_path / "disturbed"], ROOT)
    until = time.time() + 60
    while not (run / "log.csv").exists() and time.time() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait()
    said = process.output()
    assert "The state is saved" in said and "Continue with\n  torchrun --nproc_per_node=2" in said
    assert not (run / "weights.pt").exists()
    assert "continues from epoch" in script(*words, "--results-dir", tmp_path / "disturbed").stdout
    logs = [log_of(run), log_of(tmp_path / "undisturbed/digits/lenet/isomax/seed1")]
    for a, b in zip(*logs, strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-6)


def test_all_processes_end_with_the_message(tmp_path, data_dir, float64):
    words = ["train.py", "--dataset", "digits", "--model", "lenet", "--loss", "isomax", "--device", "cpu",
             "--data-dir", data_dir, "--results-dir", tmp_path, "--epochs", 1]
    script(*words)
    done = processes(2, *words, "--lr", "0.5", check=False, timeout=60)
    assert done.returncode and "recipe.lr: 0.02 there, 0.5 asked for" in done.stderr


# ---- shares and orders ----

@pytest.mark.parametrize("count, n", [(10, 3), (2, 5), (0, 2), (64, 8)])
def test_shares_are_everything_once(count, n):
    parts = [list(range(count))[rank_slice(count, (k, n))] for k in range(n)]
    assert sum(parts, []) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_resident_shares_put_together_are_the_batch():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (37, 8, 8, 3), dtype=np.uint8), np.arange(37) % 5
    data = ResidentImages(images, labels, torch.device("cpu"), 8, ((0.5,) * 3, (0.5,) * 3))
    for members in (1, 3):
        whole = list(train_batches(data, 10, 1, 1, 2, True, members=members))
        shares = [list(train_batches(data, 10, 1, 1, 2, True, members=members, rank=(k, 4))) for k in range(4)]
        for k, (inputs, targets) in enumerate(whole):
            assert torch.equal(inputs, torch.cat([s[k][0] for s in shares], -4))
            assert torch.equal(targets, torch.cat([s[k][1] for s in shares], -1))
        labels_seen = torch.cat([targets for _, targets in whole], -1)
        assert labels_seen.shape == ((37,) if members == 1 else (3, 37))
        for row in labels_seen.view(members, -1):
            assert torch.equal(row.bincount(), data.labels.bincount()), "every member sees every image once"
    assert not torch.equal(labels_seen[0], labels_seen[1]), "each in its own order"
    assert torch.equal(torch.cat([y for k in range(4) for _, y in data.eval_batches(3, (k, 4))]), data.labels)


def test_class_balanced_batches():
    """As many batches as whole ones fit; B/K classes each, K images each; classes as often as they are frequent."""
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 15 + [3] * 5)[torch.randperm(100)]
    order = class_balanced(labels, 8, 4, np.random.default_rng(1))
    assert len(order) == 12 * 8
    drawn = labels[order].view(12, 2, 4)
    assert (drawn == drawn[..., :1]).all() and (drawn[:, 0, 0] != drawn[:, 1, 0]).all()
    many = class_balanced(labels.repeat(300), 4, 4, np.random.default_rng(1))
    share_of = labels.repeat(300)[many].bincount() / len(many)
    assert torch.allclose(share_of, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.02)
    assert len(many.unique()) > 15_000, "all images of a class can be drawn"
    with pytest.raises(ValueError, match="needs 5 classes, the set has 4"):
        class_balanced(labels, 10, 2, None)
    with pytest.raises(ValueError, match="3 images per class do not fill a batch of 8"):
        class_balanced(labels, 8, 3, None)
