"""A run can be killed at any moment and loses nothing; bad input is refused in words, and costs nothing finished."""
import json
import platform
import signal
import subprocess
import time
from importlib import metadata

import forked
import numpy
import pytest
import torch
import torchvision
from conftest import ROOT, log_of, same_states, script

from engine import checkpoint
from utils.io import UserError

COMMAND = ["train.py", "--dataset", "digits", "--model", "lenet", "--loss", "dismax_fpr", "--device", "cpu",
           "--checkpoint-seconds", "0"]


def started(data_dir, results, *more):
    return forked.start([*COMMAND, "--data-dir", data_dir, "--results-dir", results, *more], ROOT)


def same_log(a, b):
    """The same text in log.csv, but for the two columns of times."""
    rows = [[{k: v for k, v in row.items() if k not in ("images_per_second", "seconds")} for row in log_of(run)]
            for run in (a, b)]
    return rows[0] == rows[1]


def wait_for(condition, process, seconds=60):
    until = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.output()
        assert time.time() < until
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir):
    """The run that every interrupted one must end as: 12 epochs without a break."""
    results = tmp_path_factory.mktemp("undisturbed")
    script(*COMMAND, "--epochs", 12, "--data-dir", data_dir, "--results-dir", results)
    return results / "digits/lenet/dismax_fpr/seed1"


def test_the_files_are_the_contract(undisturbed):
    assert sorted(p.name for p in undisturbed.iterdir()) == ["config.json", "log.csv", "weights.pt", "weights_best.pt"]
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["run"] == {"dataset": "digits", "model": "lenet", "method": "dismax_fpr", "seed": 1}
    assert config["overrides"] == {"epochs": {"published": 20, "used": 12}}
    assert config["recipe"]["epochs"] == 12 and config["recipe"]["milestones"] == [10, 15]
    session, = config["sessions"]
    assert session["python"] == platform.python_version()
    for package in (torch, torchvision, numpy):
        assert session[package.__name__] == metadata.version(package.__name__)
        assert package.__version__.startswith(session[package.__name__].split("+")[0])
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert session["commit"] == (commit or None) and isinstance(session["uncommitted_changes"], bool)
    assert session["device"].startswith("cpu (") and config["wall_clock_seconds"] > 0
    log = log_of(undisturbed)
    assert list(log[0]) == ["epoch", "lr", "train_loss", "train_acc", "selection_acc", "distance_scale",
                            "images_per_second", "seconds"]
    assert [int(row["epoch"]) for row in log] == list(range(1, 13))
    assert [float(row["lr"]) for row in log] == pytest.approx([0.02] * 10 + [0.002] * 2)
    accuracies = [float(row["selection_acc"]) for row in log]
    assert config["best_accuracy"] == max(accuracies) > 0.8
    assert config["best_epoch"] == accuracies.index(max(accuracies)) + 1, "the first of equally good epochs"
    assert float(log[-1]["train_loss"]) < float(log[0]["train_loss"])
    for name in ("weights.pt", "weights_best.pt"):
        assert torch.load(undisturbed / name, weights_only=True).keys() >= {"classifier.prototypes"}


def test_sigkill_at_any_moment_then_the_same_bits(tmp_path, data_dir, undisturbed):
    """Killed again and again, at moments that differ from try to try."""
    run, kills = tmp_path / "digits/lenet/dismax_fpr/seed1", 0
    for delay in (0.0, 0.11, 0.03):
        epochs = (len(log_of(run)) if (run / "log.csv").exists() else 0) + 1
        if epochs > 10:
            break  # a fast machine is nearly through
        process = started(data_dir, tmp_path, "--epochs", 12)
        wait_for(lambda epochs=epochs: (run / "log.csv").exists() and len(log_of(run)) >= epochs, process)
        time.sleep(delay)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    assert all(p.stat().st_size for p in run.iterdir() if p.suffix != ".part"), "whole or absent"
    script(*COMMAND, "--epochs", 12, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert same_states(run / "weights.pt", undisturbed / "weights.pt")
    assert same_states(run / "weights_best.pt", undisturbed / "weights_best.pt")
    assert len(json.loads((run / "config.json").read_text())["sessions"]) == kills + 1
    assert same_log(run, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_stop_saves_the_step_and_says_how_to_go_on(tmp_path, data_dir, undisturbed, number):
    run = tmp_path / "digits/lenet/dismax_fpr/seed1"
    process = started(data_dir, tmp_path, "--epochs", 12, "--fresh")
    wait_for(lambda: (run / "log.csv").exists(), process)
    process.send_signal(number)
    assert process.wait() == 128 + number
    said = process.output()
    assert "The state is saved" in said
    assert "Continue with\n  python train.py --dataset digits" in said and "--fresh" not in said
    at = checkpoint.load_state(run / "checkpoint.pt")
    done = script(*COMMAND, "--epochs", 12, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert f"continues from epoch {at['epoch']}" in done.stdout
    assert same_states(run / "weights.pt", undisturbed / "weights.pt")
    assert same_log(run, undisturbed)


def test_a_finished_run_is_not_done_again_and_fresh_starts_over(tmp_path, data_dir):
    run = tmp_path / "digits/lenet/dismax_fpr/seed1"
    words = [*COMMAND, "--epochs", 1, "--data-dir", data_dir, "--results-dir", tmp_path]
    script(*words)
    (run / "logits").mkdir()
    before = {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    done = script(*words)
    assert "is finished (1 epochs). Nothing to do" in done.stdout
    assert before == {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    script(*words, "--fresh")
    assert not (run / "logits").exists() and (run / "weights.pt").stat().st_mtime_ns > before["weights.pt"]


def test_another_recipe_is_refused_and_nothing_touched(undisturbed, data_dir):
    results = undisturbed.parents[3]
    before = {p.name: p.read_bytes() for p in undisturbed.iterdir()}
    done = script(*COMMAND, "--epochs", 12, "--lr", "0.5", "--milestones", 3, 4, "--data-dir", data_dir,
                  "--results-dir", results, check=False)
    assert done.returncode == 1
    assert "recipe.lr: 0.02 there, 0.5 asked for" in done.stderr
    assert "recipe.milestones: [10, 15] there, [3, 4] asked for" in done.stderr and "--fresh" in done.stderr
    assert before == {p.name: p.read_bytes() for p in undisturbed.iterdir()}


def test_a_second_process_on_the_same_run_says_so_and_leaves(tmp_path, data_dir):
    first = started(data_dir, tmp_path, "--epochs", 500)
    run = tmp_path / "digits/lenet/dismax_fpr/seed1"
    try:
        wait_for(lambda: (run / "log.csv").exists(), first)
        done = script(*COMMAND, "--epochs", 500, "--data-dir", data_dir, "--results-dir", tmp_path, check=False)
        assert done.returncode == 1 and "another process works in" in done.stderr
        assert first.poll() is None, "the first continues"
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json"])
def test_a_damaged_file_is_named(tmp_path, data_dir, name):
    run = tmp_path / "digits/lenet/dismax_fpr/seed1"
    process = started(data_dir, tmp_path, "--epochs", 500)
    wait_for(lambda: (run / "checkpoint.pt").exists(), process)
    process.kill()
    process.wait()
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: len(content) // 2])
    others = {p.name: p.read_bytes() for p in run.iterdir()}
    done = script(*COMMAND, "--epochs", 500, "--data-dir", data_dir, "--results-dir", tmp_path, check=False)
    assert done.returncode == 1 and f"{run / name} is damaged" in done.stderr and "--fresh" in done.stderr
    assert "Traceback" not in done.stderr
    assert others == {p.name: p.read_bytes() for p in run.iterdir()}


def test_a_full_disk_leaves_the_last_epoch_whole(tmp_path, data_dir, undisturbed):
    """Files may not grow beyond 100 kB, as if the disk were full: the checkpoint of 500 kB does not fit."""
    run = tmp_path / "digits/lenet/dismax_fpr/seed1"
    process = started(data_dir, tmp_path, "--epochs", 12)
    wait_for(lambda: (run / "checkpoint.pt").exists(), process)
    process.kill()
    process.wait()
    kept = (run / "checkpoint.pt").read_bytes()
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); " \
            "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = script("-c", limit, *COMMAND, "--epochs", 12, "--data-dir", data_dir, "--results-dir", tmp_path, check=False)
    assert done.returncode == 1 and "could not write" in done.stderr and "Make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert (run / "checkpoint.pt").read_bytes() == kept and not list(run.glob("*.part"))
    script(*COMMAND, "--epochs", 12, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert same_states(run / "weights.pt", undisturbed / "weights.pt")


@pytest.mark.parametrize("changes, message", [
    (["--dataset", "cifar"], "choose from cifar10, cifar100, imagenet1k, digits"),
    (["--model", "resnet35"], "choose from densenetbc100, resnet34"),
    (["--loss", "dismaxplus"], "choose from softmax, isomax"),
    (["--loss", "de", "--outliers", "svnh"], "--outliers svnh has no training images: choose from none, cifar10"),
    (["--loss", "de", "--outliers", "textures"], "--outliers textures has no training images: choose from none"),
    (["--loss", "oe"], "neither paper has an outlier set for digits: name one with --outliers SET"),
    (["--diversity", "gradcam"], "it needs --members 2 or more"),
    (["--members", "0"], "--members must be at least 1, got 0"),
    (["--loss", "de", "--dataset", "fashion_mnist"], "there is no recipe for de on fashion_mnist"),
    (["--dataset", "cifar10"], "lenet takes images of 28×28 pixels, but those of cifar10 have 32×32"),
    (["--dataset", "mnist"], "python data/prepare.py mnist"),
    (["--device", "cuda:99"], "the device 'cuda:99' cannot be used here"),
    (["--epochs", "0"], "--epochs must be at least 1, got 0"),
    (["--lr", "-1"], "--lr must be at least 0, got -1.0"),
    (["--lr", "nan"], "--lr must be at least 0, got nan"),
    (["--padding", "-2"], "--padding must be at least 0, got -2"),
    (["--micro-batch", "-4"], "--micro-batch must be at least 0, got -4"),
    (["--seed", "-1"], "--seed must be 0 or more, got -1"),
    (["--std", "0.5", "0.5", "0"], "--std must be three numbers, all positive, got (0.5, 0.5, 0.0)"),
    (["--select-on", "train"], "--select-on must be test or openood, got train"),
    (["--learning-rate", "1"], "unrecognized arguments: --learning-rate 1"),
    (["--device", "meta"], "the device 'meta' cannot be used here"),
    (["--workers", "-1"], "argument --workers: must be 0 or more, got -1"),
    (["--loss", "de", "--outliers", "digits", "--outlier-batch", "0"], "--outlier-batch must be at least 1"),
    (["--lr", "1e20"], "the training loss of"),
])
def test_bad_input_is_refused_in_words(tmp_path, data_dir, changes, message):
    done = script(*COMMAND, "--epochs", 2, *changes, "--data-dir", data_dir, "--results-dir", tmp_path, check=False)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert message in done.stderr.replace("'", "").replace("device cuda:99", "device 'cuda:99'").replace(
        "device meta", "device 'meta'")
    assert not list(tmp_path.rglob("weights.pt"))


def test_damaged_states_raise_whatever_the_damage(tmp_path):
    checkpoint.save_state(tmp_path / "good", {"a": torch.arange(10_000)})
    content = (tmp_path / "good").read_bytes()
    for damage in (b"", content[:100], content[:-100], b"\0" * 1000, content[:2000] + b"\0" * 64 + content[2064:]):
        (tmp_path / "bad").write_bytes(damage)
        with pytest.raises(UserError, match="bad is damaged"):
            checkpoint.load_state(tmp_path / "bad")
    assert torch.equal(checkpoint.load_state(tmp_path / "good")["a"], torch.arange(10_000))


def test_recipes_are_the_papers():
    from recipes import recipe_of

    cifar, imagenet = recipe_of("cifar10", "dismax_fpr"), recipe_of("imagenet1k", "softmax")
    assert recipe_of("cifar10", "softmax") == cifar
    assert set(cifar.differences(recipe_of("cifar100", "dismax"))) == {"mean", "std"}
    assert (cifar.epochs, cifar.batch_size, cifar.lr, cifar.weight_decay) == (300, 64, 0.1, 1e-4)
    expected = {1: 0.1, 150: 0.1, 151: 0.01, 200: 0.01, 201: 1e-3, 250: 1e-3, 251: 1e-4, 300: 1e-4}
    assert {epoch: cifar.lr_at(epoch) for epoch in expected} == pytest.approx(expected)
    assert (imagenet.epochs, imagenet.batch_size, imagenet.milestones) == (90, 256, (30, 60))
    assert cifar.changed(lr=None, epochs=3).differences(cifar) == {"epochs": (3, 300)}
    assert cifar.changed(milestones=[1]).milestones == (1,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_resume_on_a_gpu(tmp_path, data_dir):
    words = ["--epochs", "4", "--device", "cuda"]
    process = started(data_dir, tmp_path, *words)
    run = tmp_path / "digits/lenet/dismax_fpr/seed1"
    wait_for(lambda: (run / "log.csv").exists(), process)
    process.send_signal(signal.SIGTERM)
    process.wait()
    script(*COMMAND, *words, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert len(log_of(run)) == 4
