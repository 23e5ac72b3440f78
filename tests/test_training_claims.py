"""What a trained run claims about itself, seen from outside: by which images its best epoch was selected, that a stop
in the middle of an epoch changes nothing, which weights it starts from, and what it says meanwhile."""
import csv
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios

import forked
import numpy as np
import pytest
import torch
from conftest import ROOT, same_states, script
from test_openood import give, write_list

from data.loaders import open_set
from engine import checkpoint
from engine.build import build_network
from losses import LOSSES

SELECTION = "selection_acc"  # the column of log.csv by which weights_best.pt is selected


def train(loss, dataset, data_dir, results, *more, model="lenet", check=True, **options):
    return script("train.py", "--dataset", dataset, "--model", model, "--loss", loss, "--data-dir", data_dir,
                  "--results-dir", results, "--device", "cpu", *more, check=check, **options)


def read(run):
    """(config, rows of log.csv)."""
    with open(run / "log.csv") as file:
        return json.loads((run / "config.json").read_text()), list(csv.DictReader(file))


def selected_by(log):
    return [float(row[SELECTION]) for row in log]


# ---- which epoch is the best, and on which images ----

CLASSES, VALIDATION = 10, np.arange(1, 80, 4)  # every fourth image of the test split


@pytest.fixture(scope="module")
def tiny_mnist(tmp_path_factory):
    """MNIST in miniature: a pattern a class under noise, which a network learns in a few epochs.

    OpenOOD's lists name 20 of the 80 test images for validation. The other test images have wrong labels, so that a
    network that has learned the classes is right about none of them.
    """
    folder = tmp_path_factory.mktemp("tiny_mnist")
    rng = np.random.default_rng(0)
    patterns = 200 * rng.integers(0, 2, (CLASSES, 7, 7, 1)).repeat(4, 1).repeat(4, 2)

    def images(labels):
        return (patterns[labels] + rng.integers(0, 56, (len(labels), 28, 28, 1))).astype(np.uint8)

    labels = np.arange(200) % CLASSES
    give(folder, "mnist", "train", labels=labels, images=images(labels))
    labels = np.arange(80) // 4 % CLASSES
    shown = images(labels)
    tested = np.setdiff1d(np.arange(80), VALIDATION)
    labels[tested] = (labels[tested] + 1) % CLASSES
    give(folder, "mnist", "test", labels=labels, images=shown)
    for name, positions in (("val", VALIDATION), ("test", tested)):
        lines = [f"mnist/test/{labels[k]}_{k}.jpg {labels[k]}" for k in positions]
        write_list(folder, f"mnist/{name}_mnist.txt", lines)
    return folder


# the last epoch's learning rate spoils what was learned, so that the last epoch is not among the best
SPOILED = ["--epochs", 6, "--batch-size", 20, "--padding", 0, "--no-flip", "--milestones", 5, "--gamma", 20]


def hits_of(run, folder="logits"):
    """Which of the 80 test images a saved state is right about."""
    with np.load(run / folder / "mnist.npz") as content:
        return content["logits"].mean(0).argmax(1) == content["labels"]


def test_sdde_selects_on_openoods_validation_images_the_last_of_equal_epochs(tiny_mnist, tmp_path):
    """The logged accuracies are those of the saved weights on the 20 validation images; on the whole split they are far
    lower. Several epochs are equally good, and the last of them is taken."""
    train("de", "mnist", tiny_mnist, tmp_path, "--members", 1, *SPOILED)
    run = tmp_path / "mnist/lenet/de-1-none/seed1"
    config, log = read(run)
    accuracies = selected_by(log)
    best = max(accuracies)
    assert accuracies.count(best) > 1 and best > 0.5 and accuracies[-1] < best, "or this test says nothing"
    assert config["recipe"]["select_on"] == "openood" and config["best_accuracy"] == best
    assert config["best_epoch"] == 6 - accuracies[::-1].index(best)
    script("evaluate.py", run, "--data-dir", tiny_mnist, "--device", "cpu")
    for folder, expected in (("logits", accuracies[-1]), ("logits_best", best)):
        assert hits_of(run, folder)[VALIDATION].mean() == pytest.approx(expected)
    assert hits_of(run, "logits_best").mean() < 0.4 < best


@pytest.mark.parametrize(("loss", "dataset", "best"), [
    ("de-1-none", "mnist", 4), ("softmax", "mnist", 1), ("de-1-none", "digits", 1)])
def test_of_epochs_that_are_all_alike_sdde_keeps_the_last_and_dismax_the_first(
        tiny_mnist, data_dir, tmp_path, loss, dataset, best):
    """Alike, because nothing is learned. digits have no OpenOOD validation images: selected as DisMax selects."""
    train(loss, dataset, tiny_mnist if dataset == "mnist" else data_dir, tmp_path, "--epochs", 4, "--lr", 0,
          "--final-lr", 0)
    config, log = read(tmp_path / dataset / "lenet" / loss / "seed1")
    assert len(set(selected_by(log))) == 1 and config["best_epoch"] == best
    assert config["recipe"]["select_on"] == ("openood" if best == 4 else "test")


def test_dismax_selects_on_the_whole_test_split_the_first_of_equal_epochs(tiny_mnist, tmp_path):
    train("softmax", "mnist", tiny_mnist, tmp_path, *SPOILED, "--lr", 0.05)
    run = tmp_path / "mnist/lenet/softmax/seed1"
    config, log = read(run)
    accuracies = selected_by(log)
    best = max(accuracies)
    assert accuracies.count(best) > 1 and accuracies[-1] < best, "or this test says nothing"
    assert config["best_epoch"] == accuracies.index(best) + 1 and config["best_accuracy"] == best
    script("evaluate.py", run, "--data-dir", tiny_mnist, "--device", "cpu")
    for folder, expected in (("logits", accuracies[-1]), ("logits_best", best)):
        assert hits_of(run, folder).mean() == pytest.approx(expected)


# ---- what the log says of an epoch ----

@pytest.mark.parametrize("loss", ["softmax", "dismax"])
def test_logged_loss_and_accuracy_are_means_over_the_training_images(data_dir, tmp_path, loss):
    """With a learning rate of 0 the saved weights are those of every step. The last, smaller batch counts as such.
    DisMax trains on ten times its logits."""
    train(loss, "digits", data_dir, tmp_path, "--epochs", 2, "--lr", 0, "--padding", 0, "--micro-batch", 50)
    run = tmp_path / "digits/lenet" / loss / "seed1"
    net = build_network("lenet", 7, LOSSES[loss][0]).eval()
    net.load_state_dict(checkpoint.load_state(run / "weights.pt"))
    digits = open_set("digits", "train", data_dir, torch.device("cpu"))
    with torch.no_grad():
        logits = torch.cat([net(images) for images, _ in digits.eval_batches()])
    expected = torch.nn.functional.cross_entropy(logits * (10 if loss == "dismax" else 1), digits.labels).item()
    accuracy = (logits.argmax(1) == digits.labels).float().mean().item()
    for row in read(run)[1]:
        assert float(row["train_loss"]) == pytest.approx(expected, rel=1e-5)
        assert float(row["train_acc"]) == pytest.approx(accuracy, abs=1e-6)
        rate = 845 / float(row["images_per_second"])
        assert 0 < rate <= float(row["seconds"])


# ---- stopped in the middle of an epoch ----

STOPPING = """
import os, runpy, signal, sys
import torch
at, sys.argv = int(sys.argv[1]), sys.argv[2:]
step, taken = torch.optim.SGD.step, []
def counted(self, *arguments, **named):
    result = step(self, *arguments, **named)
    taken.append(1)
    if len(taken) == at:
        os.kill(os.getpid(), signal.SIGTERM)
    return result
torch.optim.SGD.step = counted
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("loss", "label", "more", "at"), [
    ("dismax_fpr", "dismax_fpr", [], 5),  # what a step draws itself
    ("gradcam", "de-2-gradcam", ["--members", 2], 20),  # which member's batch the diversity loss is shown
    # a pass over the 845 outliers is 9 steps of the 14: stopped in the second pass of an epoch
    ("oe", "de-2-none-digits", ["--members", 2, "--outliers", "digits", "--outlier-batch", 100], 11),
    ("gradcam_oe", "de-2-gradcam-digits", ["--members", 2, "--outliers", "digits", "--outlier-batch", 100], 14 + 12),
    ("dice", "de-2-dice", ["--members", 2, "--ramp-epochs", 1, "--batch-size", 64], 16),
])
def test_stopped_in_mid_epoch_it_ends_with_the_same_bits(tmp_path, data_dir, loss, label, more, at):
    words = ["train.py", "--dataset", "digits", "--model", "lenet", "--loss", loss, "--epochs", 2, "--device", "cpu",
             "--data-dir", data_dir, *more]
    script(*words, "--results-dir", tmp_path / "whole")
    stopped = script("-c", STOPPING, at, *words, "--results-dir", tmp_path / "cut", check=False)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    whole, cut = (tmp_path / name / "digits/lenet" / label / "seed1" for name in ("whole", "cut"))
    steps = 13 if loss == "dice" else 14
    epoch, step = at // steps + 1, at % steps
    saved = checkpoint.load_state(cut / "checkpoint.pt")
    assert (saved["epoch"], saved["step"]) == (epoch, step) and step, "in the middle"
    assert not (cut / "weights.pt").exists()
    assert f"epoch {epoch}, step {step}" in script(*words, "--results-dir", tmp_path / "cut").stdout
    for name in ("weights.pt", "weights_best.pt"):
        assert same_states(whole / name, cut / name)
    a, b = ([{name: float(value) for name, value in row.items() if name not in ("images_per_second", "seconds")}
             for row in read(run)[1]] for run in (whole, cut))
    assert len(a) == len(b) == 2
    assert a == b, "the log too, of the epoch that was cut"


def test_fewer_outliers_than_a_batch_are_all_shown_in_every_step(tmp_path, data_dir):
    """A batch of 845 is the whole set in another order, and so is one of 2,000: the same run, up to rounding."""
    for size in (845, 2_000):
        train("oe", "digits", data_dir, tmp_path / str(size), "--members", 1, "--outliers", "digits", "--outlier-batch",
              size, "--epochs", 1)
    small, large = (read(tmp_path / str(size) / "digits/lenet/de-1-none-digits/seed1")[1][0] for size in (845, 2_000))
    for name in ("train_loss", "outlier"):
        assert float(small[name]) == pytest.approx(float(large[name]), rel=1e-5)
    assert float(small["outlier"]) > 0


# ---- what a run starts from ----

@pytest.fixture
def tiny_imagenet200(tmp_path, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for wnid in ("n01443537", "n01484850"):
            (tmp_path / "imagenet" / split / wnid).mkdir(parents=True)
            for k in range(2):
                Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
                    tmp_path / "imagenet" / split / wnid / f"ILSVRC2012_{split}_{len(wnid) + k:08}.JPEG")
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "imagenet"))
    return tmp_path


def test_initial_weights_from_a_file(tiny_imagenet200):
    """Every parameter of every member is the file's before a step has changed it; another file is another recipe."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(num_classes=200).state_dict()
    file = tiny_imagenet200 / "theirs.pth"
    torch.save(theirs, file)
    words = ["--members", 2, "--epochs", 1, "--batch-size", 2, "--micro-batch", 2, "--lr", 0, "--final-lr", 0,
             "--select-on", "test", "--workers", 0]
    more = {"model": "resnet18", "env": {**os.environ}}
    results = tiny_imagenet200 / "results"
    train("de", "imagenet200", tiny_imagenet200, results, *words, "--initial", file, **more)
    run = results / "imagenet200/resnet18/de-2-none/seed1"
    config, _ = read(run)
    assert config["recipe"]["initial"] == str(file) and config["overrides"]["initial"] == {
        "published": "random", "used": str(file)}
    ours = checkpoint.load_state(run / "weights.pt")
    for member in (0, 1):
        of_member = {key.removeprefix(f"members.{member}."): value for key, value in ours.items()
                     if key.startswith(f"members.{member}.")}
        for key, value in theirs.items():
            if "running" in key or "tracked" in key:
                continue
            key = {"fc.weight": "classifier.weights", "fc.bias": "classifier.bias"}.get(key, f"body.{key}")
            assert torch.equal(of_member[key], value), key
    done = train("de", "imagenet200", tiny_imagenet200, results, *words, check=False, **more)
    assert done.returncode == 1 and f"recipe.initial: '{file}' there, 'random' asked for" in done.stderr
    missing = train("de", "imagenet200", tiny_imagenet200, tiny_imagenet200 / "elsewhere", *words, "--initial",
                    tiny_imagenet200 / "nowhere.pth", check=False, **more)
    assert missing.returncode == 1 and "nowhere.pth: there is no such file" in missing.stderr
    assert "Traceback" not in missing.stderr


# ---- what is said meanwhile ----

def test_it_is_quiet_when_nobody_watches(tmp_path, data_dir):
    """Off a terminal: no bar, which would fill a log file, and nothing that looks like an error; then one line, as the
    run is finished."""
    done = train("softmax", "digits", data_dir, tmp_path, "--epochs", 2)
    assert done.stderr == "" and "\r" not in done.stdout and "█" not in done.stdout
    assert "2 epochs in" in done.stdout
    done = train("softmax", "digits", data_dir, tmp_path, "--epochs", 2)
    assert done.stderr == "" and done.stdout.count("\n") == 1


def test_there_is_a_bar_when_somebody_watches(tmp_path, data_dir):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    words = ["train.py", "--dataset", "digits", "--model", "lenet", "--loss", "softmax", "--epochs", 2, "--data-dir",
             data_dir, "--results-dir", tmp_path, "--device", "cpu"]
    process = subprocess.Popen([forked.python(), *map(str, words)], cwd=ROOT, stdin=theirs, stdout=theirs,
                               stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait() == 0 and b"\r" in said.replace(b"\r\n", b"\n") and b"img" in said
