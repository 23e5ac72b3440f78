"""Which runs are taken, and the words of those that are not; scores from files; columns, names and forms of tables."""
import errno
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from in_memory import in_memory

from metrics.detection import detection_metrics
from metrics.published import published_detection_metrics
from reporting import load, score_files
from utils import run_dir
from utils.io import UserError

CONFIG = {"run": {"dataset": "mnist", "model": "lenet", "method": "de", "seed": 1}, "method": {"members": 1},
          "recipe": {"epochs": 2}, "overrides": {}, "sessions": [{"device": "CPU"}], "best_epoch": 1, "parameters": 1,
          "best_accuracy": 0.5, "last_accuracy": 0.25, "train_seconds": 0, "wall_clock_seconds": None}
LOG = "epoch,selection_acc\n1,0.5\n2,0.25\n"


@pytest.mark.parametrize("changes, why", [
    ({}, ""), ({"parameters": 0}, "the epochs of its recipe, the members of its method or its parameters are missing"),
    ({"method": {"members": 0}}, "the epochs of its recipe"),
    ({"method": {"members": True}}, "the epochs of its recipe"),
    ({"recipe": {"epochs": 1}}, ""), ({"recipe": {"epochs": 0}}, "the epochs of its recipe"),
    ({"best_epoch": True}, "best_epoch is missing or of another type"),
    ({"run": []}, "run is missing or of another type"),
    ({"best_accuracy": None, "last_accuracy": None, "train_seconds": None}, ""), ({"best_accuracy": True}, "no number"),
    ({"train_seconds": math.inf}, "train_seconds is missing or no number"), ({"train_seconds": -1e-9}, "is negative"),
    ({"run": {**CONFIG["run"], "seed": "1"}}, "run does not say dataset"),
    ({"run": {"seed": 1}}, "run does not say dataset"),
    ({"sessions": [{"device": "CPU"}, {"device": 3}]}, "on which device"), ({"sessions": [3]}, "on which device"),
    ({"overrides": {"lr": {"used": 1}}}, "an override does not say"), ({"overrides": {"lr": {"used": 1,
                                                                                             "published": 2}}}, "")])
def test_the_config_of_a_finished_run(changes, why):
    said = load._foreign({**CONFIG, **changes})
    assert why in said and bool(why) == bool(said)
    assert load._foreign([]) == "it is no object"
    assert "wall_clock_seconds is missing" in load._foreign({k: v for k,
                                                             v in CONFIG.items() if k != "wall_clock_seconds"})


@pytest.mark.parametrize("log, changes, why", [
    (LOG, {}, ""), (LOG, {"log_sha256": hashlib.sha256(LOG.encode()).hexdigest()}, ""),
    (LOG, {"log_sha256": "x"}, "is not the one that config.json tells of"),
    (LOG, {"recipe": {"epochs": 3}}, "has 2 epochs, config.json 3"),
    ("epoch,selection_acc\n1,1\n2,0\n", {"best_accuracy": 1.0, "last_accuracy": 0.0}, ""),
    ("epoch,selection_acc\n1,0.5\n2,-0.01\n", {}, "missing or not between 0 and 1"),
    ("epoch\n1\n2\n", {}, "missing or not between"),
    ("epoch,selection_acc\n0,0.5\n1,0.25\n", {}, "not trained to its end"),
    ("epoch,selection_acc\n1\n", {}, "is damaged"), ("", {}, "log.csv has 0 epochs"),
    ("epoch,selection_acc\n1,0.5\n2,0.5\n", {"last_accuracy": 0.5}, ""),
    ("epoch,selection_acc\n1,0.5\n2,0.6\n", {}, "better accuracy than that of epoch 1"),
    ("epoch,selection_acc\n1,0.25\n2,0.5\n", {"best_epoch": 2, "last_accuracy": 0.5}, ""),
    (LOG, {"best_epoch": 0}, "disagree"),
    (LOG, {"best_epoch": 3}, "disagree"), (LOG, {"last_accuracy": 0.5}, "disagree on the best or the last"),
    (LOG, {"best_accuracy": 0.25}, "disagree")])
def test_the_log_fits_the_config(tmp_path, log, changes, why):
    (tmp_path / "log.csv").write_text(log)
    if why:
        with pytest.raises(UserError, match=why):
            load._log(tmp_path, {**CONFIG, **changes})
    else:
        assert [row["epoch"] for row in load._log(tmp_path, {**CONFIG, **changes})] == [1, 2]


def written(folder, method="de", seed=1, rows=(), dataset="mnist", log=LOG, **changes):
    run = run_dir.run_folder(folder, dataset, "lenet", method, seed)
    run.mkdir(parents=True)
    config = {**CONFIG, "run": {"dataset": dataset, "model": "lenet", "method": method, "seed": seed}, **changes}
    (run / "config.json").write_text(json.dumps(config))
    (run / "log.csv").write_text(log)
    run_dir.write_metrics(run, rows or [("openood", dataset, "id", "last", "", "accuracy", seed / 10)])
    return run


def test_a_run_is_read_with_what_was_changed(tmp_path):
    written(tmp_path, overrides={"lr": {"used": 1, "published": 2}, "flip": {"used": True, "published": False}},
            sessions=[{"device": "A"}, {"device": "B"}])
    written(tmp_path, "ncl", 2, log="nothing", train_seconds=None)
    first, second = load.read_runs(str(tmp_path)).runs
    assert first.changed == "lr 1 (published 2), flip True (published False)" and second.changed == ""
    assert (first.id_dataset, first.model, first.method, first.seed, first.members, first.epochs, first.device) == (
        "mnist", "lenet", "de", 1, 1, 2, "B")
    assert len(first.log) == 2 and second.log == [] and not first.from_files
    assert first.cells("openood", "last", "accuracy") == {("id", "mnist"): (0.1, "")} and first.cells("x", "last",
                                                                                                      "y") == {}


def test_runs_of_one_set_are_read_and_others_named(tmp_path):
    written(tmp_path)
    written(tmp_path, dataset="digits", log=LOG.replace("2,0.25", "2,0.125"), last_accuracy=0.125, seed=3)
    bare = tmp_path / "mnist/lenet/de/seed4"
    bare.mkdir()
    (bare / "weights.pt").write_text("")
    results = load.read_runs(tmp_path, "mnist")
    assert [run.id_dataset for run in results.runs] == ["mnist"] and len(load.read_runs(tmp_path).runs) == 2
    assert results.left_out == [load.LeftOut(bare, "mnist", "lenet", "de",
                                             f"it is not evaluated: python evaluate.py {bare}")]
    for where, words in ((tmp_path / "no", ()), (tmp_path, ("cifar10",))):
        with pytest.raises(UserError, match=f"no evaluated run below {'/'.join([str(where), *words])}. `make demo`"):
            load.read_runs(where, *words)
        assert load.read_runs(where, *words, needed=False) == ([], [])


def test_copies_are_refused_whatever_they_share():
    log = [{"epoch": 1, "seconds": 5.5}]
    rows = [("openood", "mnist", "id", "last", "", "accuracy", 0.5)]
    runs = [in_memory("de", 1, log=log), in_memory("de", 2, log=log), in_memory("de", 3, rows),
            in_memory("de", 4, rows),
            in_memory("de", 5, folder=Path("a/mnist/lenet/de/seed5")), in_memory("de", 5,
                                                                                 folder=Path("b/mnist/lenet/de/seed5")),
            in_memory("de", 6), in_memory("de", 7, folder=Path("results/mnist/lenet/de/seed8")), in_memory("de", 9)]
    refused = {folder.name if folder.parts[0] == "results" else str(folder): why for folder,
               why in load._copies(runs).items()}
    assert set(refused) == {"seed1", "seed2", "seed3", "seed4", "a/mnist/lenet/de/seed5", "b/mnist/lenet/de/seed5",
                            "seed8"}
    assert refused["seed1"] == refused["seed2"] == (
        "the same log.csv is in 2 folders, mnist/lenet/de/seed1 and mnist/lenet/de/seed2: a copy is no seed. Remove "
        "all but the original")
    assert refused["seed3"].startswith("the same metrics.csv is in 2")
    assert "the same seed is in 2" in refused["a/mnist/lenet/de/seed5"]
    assert refused["seed8"] == "its config.json is that of mnist/lenet/de/seed7: it was moved or copied"


# ---- scores from files ----

def scores(folder, **content):
    folder.mkdir(exist_ok=True)
    for name, (pred, conf, label) in content.items():
        np.savez(folder / f"{name}.npz", pred=np.asarray(pred), conf=np.asarray(conf), label=np.asarray(label))
    return folder


def test_scores_from_files_become_a_run_of_the_network_that_is_named(tmp_path):
    inside, out = ([0, 9, 2], [3.0, 2.0, 1.0], [0, 9, 1]), ([0, 0], [2.0, 0.0], [-1, -1])
    scores(tmp_path, cifar10=inside, texture=out, svhn=out, mine=out)
    run = score_files.read_scores("net/work/own", tmp_path, 4)
    assert (run.id_dataset, run.model, run.method, run.seed, run.changed) == ("cifar10", "net/work", "own", 4, "")
    assert run.from_files and run.members == 1 and run.epochs == 0 and run.device == str(tmp_path) and run.log == []
    assert score_files.read_scores("own", tmp_path, 1).model == "scores from files"
    expected = detection_metrics(inside[1], out[1])
    for checkpoint in ("last", "best"):
        assert run.cells("openood", checkpoint, "accuracy") == {("id", "cifar10"): (2 / 3, "")}
        assert run.cells("dismax", checkpoint, "images")["id", "cifar10"] == (3, score_files.NOTE)
        found = run.cells("openood", checkpoint, "auroc", "own score")
        assert set(found) == {("far", "textures"), ("far", "svhn"), ("ood", "mine")}
        assert found["far", "textures"] == (expected["auroc"], "")
        assert run.cells("openood", checkpoint, "images")["ood", "mine"] == (2, score_files.NOTE)
        assert run.cells("dismax", checkpoint, "auroc_published", "own score")["ood", "mine"] == (
            published_detection_metrics(inside[1], out[1])["auroc"], "")
        assert set(run.cells("dismax", checkpoint, "auroc_published", "own score")) == {("very_far", "svhn"),
                                                                                        ("ood", "mine")}


@pytest.mark.parametrize("name, content, said", [
    ("own", {"a": ([0], [1.0], [0])}, "cannot tell .* found a$"),
    ("own", {"a": ([0], [1.0], [0]), "b": ([0], [1.0], [0])}, "found a, b. Say which one it is: --dataset a"),
    ("own", {"cifar10": ([0], [1.0], [10]), "b": ([0], [1.0], [-1])},
     "cifar10 has a label 10, and there are 10 classes"),
    ("own", {"tin": ([0], [1.0], [0]), "tinyimagenet": ([0], [1.0], [-1])},
     "tinyimagenet.npz is a second file of tinyimagenet"),
    ("/own", {"a": ([0], [1.0], [0]), "b": ([0], [1.0], [-1])}, "name a method, or network/method"),
    ("net/", {"a": ([0], [1.0], [0]), "b": ([0], [1.0], [-1])}, "name a method, or network/method"),
    ("own", {"a": ([0], [1.0], [0.5])}, "some are no whole numbers"), ("own", {"a": ([0.5], [1.0], [0])},
                                                                       "some are no whole"),
    ("own", {"a": ([0, 0], [1.0, 1], [0, -1])}, "or all be −1"), ("own", {"a": ([0], [1.0], [-2])}, "or all be −1"),
    ("own", {"a": ([0], [1.0], ["x"])}, "pred and label must be class numbers, not int64 and <U1"),
    ("own", {"a": ([0], [True], [0])}, "conf has the type bool"), ("own",
                                                                   {"a": ([[0] * 2] * 2, np.ones((2, 2)),
                                                                          [[0] * 2] * 2)}, "4 scores"),
    ("own", {"a": ([0], [np.inf], [0])}, "scores that are NaN or infinite"), ("own", {}, "there are no .npz files")])
def test_what_is_no_set_of_score_files(tmp_path, name, content, said):
    with pytest.raises(UserError, match=said):
        score_files.read_scores(name, scores(tmp_path, **content), 1)


def test_one_of_several_sets_can_be_named_and_one_image_is_enough(tmp_path):
    scores(tmp_path, a=([0], [1], [0]), b=([0], [2], [0]))
    run = score_files.read_scores("own", tmp_path, 1, "b")
    assert run.id_dataset == "b" and run.cells("openood", "best", "auroc", "own score") == {("ood", "a"): (1.0, "")}
    scores(tmp_path, cifar10=([0], [1], [9]), a=([0], [1], [-1]), b=([0], [1], [-1]))
    assert score_files.read_scores("own", tmp_path, 1).id_dataset == "cifar10"


def test_a_seed_of_scores_needs_numbers_and_a_seed_of_its_own():
    rows = [("openood", "a", "ood", "best", "own score", "auroc", 0.5)]
    runs = [in_memory("own", 1, rows)]
    for run, said in ((in_memory("own", 1), "seed1 is seed 1 of lenet, own already: choose another NAME"),
                      (in_memory("own", 2, rows), "has the very numbers of results/mnist/lenet/own/seed1: a copy")):
        with pytest.raises(UserError, match=said):
            score_files.add_scores(runs, run)
    for run in (in_memory("own", 2), in_memory("own", 1, rows, model="net"), in_memory("other", 1, rows)):
        score_files.add_scores(runs, run)
    assert len(runs) == 4


def test_why_a_run_is_left_out_is_told_without_its_folder(tmp_path, monkeypatch):
    run = written(tmp_path)
    def reason(error):
        def read(folder, config):
            raise error
        monkeypatch.setattr(load.run_dir, "read_metrics", read)
        results = load.read_runs(tmp_path)
        (left_out,) = results.left_out
        assert results.runs == [] and left_out[:4] == (run, "mnist", "lenet", "de")
        return left_out.reason
    path = run / "metrics.csv"
    assert reason(UserError(f"{path} is odd")) == "metrics.csv is odd"
    assert reason(OSError(errno.EIO, "broken",
                          str(path))).startswith("could not read metrics.csv: broken. Check the disk")
    assert reason(OSError(errno.EDOM, "strange", str(path))) == "metrics.csv: strange"
    monkeypatch.undo()
    (run / "config.json").write_text(json.dumps({**CONFIG, "sha256": 3}))
    assert load.read_runs(tmp_path).left_out[0].reason == (
        "config.json is not that of a finished run: sha256 is of another type")
    monkeypatch.setattr(load.run_dir, "closed_folders", lambda folder, dataset: [tmp_path / "mnist/lenet",
                                                                                 tmp_path / "d"])
    closed = load.read_runs(tmp_path).left_out[:2]
    assert [one[:4] for one in closed] == [(tmp_path / "mnist/lenet", "mnist", "lenet", ""),
                                           (tmp_path / "d", "d", "", "")]
    assert closed[0].reason == "it cannot be read by this user: change its permissions"
