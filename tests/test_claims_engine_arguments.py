"""Claims about the command line of train.py, from words to a Run and its data sets."""
import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.datasets import CATALOG
from data.openood import benchmark
from engine import arguments
from engine.arguments import check_dataset, known_datasets, open_training_sets, parse_arguments, resolve_run
from recipes import recipe_of
from utils.io import UserError
from utils.recipe import flags

CPU = torch.device("cpu")
NEEDED = "--dataset", "digits", "--model", "lenet", "--method", "dismax"
RECIPE = {name: None for name, *_ in flags()}
DEFAULTS = {"dataset": "digits", "model": "lenet", "method": "dismax", "members": None, "diversity": None,
            "outliers": None, "seed": 1, "data_dir": "data", "results_dir": "results", "device": None,
            "if_locked": "fail", "fresh": False,
            "checkpoint_seconds": 60, "track": None, "plugin": [], "bf16": None, "graphs": None, "compile": None,
            "on_bad_image": "stop", "workers": None, **RECIPE}


def parsed(monkeypatch, *words, needed=NEEDED):
    monkeypatch.setattr(sys, "argv", ["train.py", *needed, *map(str, words)])
    return parse_arguments("first\n  second line")


def test_what_train_does_unless_told_otherwise(monkeypatch):
    assert vars(parsed(monkeypatch)) == DEFAULTS
    words = ["--members", "3", "--diversity", "ncl", "--outliers", "mnist", "--seed", "4", "--data-dir", "D",
             "--results-dir", "R", "--device", "cpu", "--if-locked", "wait", "--fresh", "--checkpoint-seconds", "0",
             "--track", "wandb", "--bf16", "--no-graphs", "--compile", "--on-bad-image", "skip", "--workers", "2",
             "--epochs", "5", "--lr", "0.5", "--no-flip", "--milestones", "3", "7", "--mean", "1", "2", "3", "--std",
             ".1", ".2", ".3", "--select-on", "openood"]
    assert vars(parsed(monkeypatch, *words, "--loss", "de")) == {
        **DEFAULTS, "method": "de", "members": 3, "diversity": "ncl", "outliers": "mnist", "seed": 4, "data_dir": "D",
        "results_dir": "R", "device": "cpu", "if_locked": "wait", "fresh": True, "checkpoint_seconds": 0,
        "track": "wandb",
        "bf16": True, "graphs": False, "compile": True, "on_bad_image": "skip", "workers": 2, "epochs": 5, "lr": 0.5,
        "flip": False, "milestones": [3, 7], "mean": [1, 2, 3], "std": [0.1, 0.2, 0.3], "select_on": "openood"}
    rich = parsed(monkeypatch, "--milestones", "--no-bf16", "--graphs", "--no-compile", "--flip", "--mean", "1", "2")
    assert (rich.milestones, rich.bf16, rich.graphs, rich.compile, rich.flip) == ([], False, True, False, True)
    assert type(rich.mean[0]) is float and type(parsed(monkeypatch, "--milestones", "3").milestones[0]) is int


@pytest.mark.parametrize("words", [
    "--model x", "--diversity x", "--if-locked x", "--track x", "--on-bad-image x", "--workers -1", "--seed x",
    "--members 1.5", "--checkpoint-seconds -1", "--milestones 1.5", "--epochs x", "--lr x", "--flip x"])
def test_words_that_are_no_choice_are_refused(monkeypatch, words):
    with pytest.raises(SystemExit) as left:
        parsed(monkeypatch, *words.split())
    assert left.value.code == 2


@pytest.mark.parametrize("k", [0, 2, 4])
def test_data_set_model_and_method_are_needed(monkeypatch, k, capsys):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, needed=NEEDED[:k] + NEEDED[k + 2:])
    assert f"required: {NEEDED[k]}" in capsys.readouterr().err


def test_help_keeps_the_lines_of_the_page(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--help")
    text = capsys.readouterr().out
    assert "first\n  second line\n" in text and all(f"\n  --{name.replace('_', '-')}" in text for name in RECIPE)
    assert text.index("speed:") < text.index("image files (ImageNet):") < text.index("\nrecipe:")
    assert "speed:\n  these options do not change" in text and "recipe:\n  the default is the published" in text


# ---- data sets ----

def test_own_sets_get_a_recipe_and_known_ones_keep_theirs(monkeypatch):
    added = []
    info = SimpleNamespace(size=16, mean=1, std=2)
    sets = {"mine": info, "digits": info}
    monkeypatch.setattr(arguments, "register", lambda data_dir: sets if data_dir == "D" else {})
    monkeypatch.setattr(arguments, "add_dataset", lambda *words: added.append(words))
    known = known_datasets("D")
    assert added == [("mine", 16, 1, 2)] and known == known_datasets() and len(set(known)) == len(known)
    assert {"cifar10", "digits", "imagenet200", "fashion_mnist"} <= set(known)
    check_dataset("digits", "D")
    with pytest.raises(UserError, match="unknown data set 'x': choose from cifar10.*data/prepare.py --folder x=DIR "
                                        "--data-dir E"):
        check_dataset("x", "E")


# ---- from words to a run ----

def resolved(monkeypatch, *words, needed=NEEDED):
    return resolve_run(parsed(monkeypatch, "--data-dir", "nowhere", *words, needed=needed))


def test_a_run_has_its_recipe_and_its_folder(monkeypatch):
    run, published = resolved(monkeypatch, "--seed", "0", "--results-dir", "R")
    assert published == recipe_of("digits", "dismax") == run.recipe
    assert str(run.folder) == "R/digits/lenet/dismax/seed0"
    assert (run.dataset, run.model, run.name, run.seed, run.method.members) == ("digits", "lenet", "dismax", 0, 1)
    run, published = resolved(monkeypatch, "--members", "2", "--diversity", "ncl", "--epochs", "3", "--milestones")
    assert run.name == "dismax-2-ncl" and (run.recipe.epochs, run.recipe.milestones, published.epochs) == (3, (), 20)
    assert run.recipe == dataclasses.replace(published, epochs=3, milestones=())
    assert resolved(monkeypatch, "--members", "1")[0].method.members == 1


@pytest.mark.parametrize(("words", "said"), [
    ("--seed -1", "--seed must be 0 or more, got -1"), ("--members 0", "--members must be at least 1, got 0"),
    ("--method nothing", "unknown method 'nothing'"),
    ("--method oe", "oe trains with outliers, but neither paper has an outlier set for digits: name one with"),
    ("--outliers x", "--outliers x has no training images: choose from none, "),
    ("--model resnet18 --lr -1", "--lr must be at least 0"),
    ("--outliers mnist --outlier-batch 0", "--outlier-batch must be at least 1 with --outliers mnist, got 0"),
    ("--dataset cifar10",
     "lenet takes images of 28×28 pixels, but those of cifar10 have 32×32: choose another --model"),
    ("--model resnet20 --dataset mnist", "there is no recipe for dismax on mnist with resnet20"),
    ("--dataset nothing", "unknown data set 'nothing'.*--data-dir nowhere")])
def test_what_makes_no_sense_is_refused(monkeypatch, words, said):
    with pytest.raises(UserError, match=said):
        resolved(monkeypatch, *words.split())


def test_outliers_are_the_papers_or_ones_own(monkeypatch):
    run, _ = resolved(monkeypatch, needed=("--dataset", "imagenet200", "--model", "resnet50", "--method", "oe"))
    assert run.method.outliers == arguments.EXPOSURE["imagenet200"] and run.recipe.outlier_batch == 256
    run, _ = resolved(monkeypatch, "--outliers", "mnist", "--outlier-batch", "1")
    assert run.method.outliers == "mnist" and run.recipe.outlier_batch == 1 and run.name == "dismax-1-none-mnist"
    without = [name for name, info in CATALOG.items() if "train" not in info.counts]
    for name in without[:3]:
        with pytest.raises(UserError, match=f"--outliers {name} has no training images"):
            resolved(monkeypatch, "--outliers", name)


# ---- training sets ----

def opened(monkeypatch, data_dir, *words):
    args = parsed(monkeypatch, "--data-dir", data_dir, *words)
    run, _ = resolve_run(args)
    return open_training_sets(args, run, CPU), run


def test_training_sets_and_what_is_recorded_of_them(monkeypatch, data_dir):
    calls, plain = [], arguments.open_split
    monkeypatch.setattr(arguments, "open_split", lambda *words, **options: calls.append((words[1:], options)) or plain(
        *words, **options))
    ((train_set, selection, outliers), record), run = opened(
        monkeypatch, data_dir, "--on-bad-image", "skip", "--workers", "3", "--std", ".1", ".2", ".3")
    assert calls == [((CPU, (run.recipe.mean, (0.1, 0.2, 0.3))), {"on_unreadable": "skip", "workers": 3})] * 2
    assert outliers is None and len(train_set) > len(selection) > 0
    assert set(record["data"]) == {"train", "test"} and record["data"]["train"] != record["data"]["test"]
    assert record["num_classes"] == 7 and record["images"] == {
        "size": 28, "shorter_side": 28, "class_names": record["images"]["class_names"]}
    ((_, selection, outliers), record), run = opened(
        monkeypatch, data_dir, "--select-on", "openood", "--outliers", "digits")
    index = benchmark("digits", data_dir).validation.index["test"]
    whole = opened(monkeypatch, data_dir)[0][0][1]
    assert torch.equal(selection.labels, whole.labels[torch.from_numpy(index)]) and len(selection) < len(whole)
    assert len(outliers) == len(train_set) and record["data"]["outliers"] == record["data"]["train"]


def test_batches_by_class_are_refused_where_there_are_too_few(monkeypatch, data_dir):
    dice = "--method", "dice", "--batch-size", "32"
    with pytest.raises(UserError, match="with 2 images per class needs 16 classes, the set has 7"):
        opened(monkeypatch, data_dir, *dice, "--per-class", "2")
    for words in (("--per-class", "16"), ("--per-class", "5"), ("--per-class", "1"), ("--per-class", "0")):
        opened(monkeypatch, data_dir, *dice, *words)
    monkeypatch.setattr(arguments, "benchmark", lambda *_: SimpleNamespace(validation=SimpleNamespace(
        index={"test": np.array([], dtype=np.int64)})))
    with pytest.raises(UserError, match=r"digits has \d+ test images, and none is left .* Use --select-on test"):
        opened(monkeypatch, data_dir, "--select-on", "openood")


def test_images_in_folders_are_resized_to_more_than_their_crop(monkeypatch):
    class Images:
        labels = torch.zeros(4, dtype=torch.long)
    split = SimpleNamespace(digest="d", class_names=["a"])
    monkeypatch.setattr(arguments, "OpenSplits", lambda data_dir, dataset: SimpleNamespace(get=lambda *_: split))
    monkeypatch.setattr(arguments, "open_split", lambda *_, **__: Images())
    args = parsed(monkeypatch, "--data-dir", "nowhere", needed=("--dataset", "imagenet1k", "--model", "resnet18",
                                                               "--method", "dismax"))
    _, record = open_training_sets(args, resolve_run(args)[0], CPU)
    assert record["images"] == {"size": 224, "shorter_side": 256, "class_names": ["a"]}
    assert record["num_classes"] == 1000
