"""A folder of class folders becomes a data set, from prepare.py to the tables; class names and OOD folders go along."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import script
from PIL import Image

from data.datasets import CATALOG
from data.splits import Split


def write_images(folder, count, center, seed):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for k in range(count):
        pixels = np.clip(rng.normal(center, 40, (36, 30, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:02}.png")


def test_own_images_are_trained_on_evaluated_and_answered_for(tmp_path):
    for k, (name, center) in enumerate({"rose": (200, 30, 30), "tulip": (30, 200, 30)}.items()):
        write_images(tmp_path / "images" / name, 20, center, k)
    write_images(tmp_path / "holiday" / "any" / "depth", 6, (128, 128, 128), 2)
    data, results = ["--data-dir", tmp_path / "data"], tmp_path / "results"
    script("data/prepare.py", "--folder", f"flowers={tmp_path / 'images'}", "--size", 28, *data)
    words = ["--dataset", "flowers", "--model", "lenet", "--method", "isomaxplus", "--epochs", 2, "--device", "cpu"]
    script("train.py", *words, *data, "--results-dir", results)
    run = results / "flowers/lenet/isomaxplus/seed1"
    config = json.loads((run / "config.json").read_text())
    assert config["num_classes"] == 2
    assert config["images"] == {"size": 28, "shorter_side": 28, "class_names": ["rose", "tulip"]}
    assert config["overrides"] == {"epochs": {"published": 30, "used": 2}}, "the default recipe counts as published"

    script("evaluate.py", run, "--ood", f"holiday={tmp_path / 'holiday'}", *data, "--device", "cpu")
    table = pd.read_csv(run / "metrics.csv", keep_default_na=False)
    assert set(table.ood_group[table.dataset == "holiday"]) == {"ood"}
    assert (table.value[(table.dataset == "holiday") & (table.metric == "images")] == 6).all()
    answers = script("detect.py", run, tmp_path / "images/tulip/00.png", "--json", "--device", "cpu").stdout
    assert json.loads(answers)["class_name"] in ("rose", "tulip")
    printed = script("analyze.py", "--results-dir", results).stdout
    assert "flowers, dismax, LeNet" in printed and "ood: holiday AUROC (%)" in printed


def test_other_classes_under_the_same_name_are_refused(tmp_path):
    """Their numbers would mean other classes: the accuracy would be that of nothing."""
    for name in ("rose", "tulip"):
        write_images(tmp_path / "images" / name, 4, (99, 99, 99), len(name))
    data, run = ["--data-dir", tmp_path / "data"], tmp_path / "results/flowers/lenet/softmax/seed1"
    prepare = ["data/prepare.py", "--folder", f"flowers={tmp_path / 'images'}", "--size", 28, *data]
    script(*prepare)
    script("train.py", "--dataset", "flowers", "--model", "lenet", "--method", "softmax", "--epochs", 1, *data,
           "--results-dir", tmp_path / "results", "--device", "cpu")
    for change, said in (("aster", "2 then and 3 now, and class 0 was rose and is aster"),
                         ("violet", "2 then and 3 now, and class 2 was not there and is violet")):
        write_images(tmp_path / "images" / change, 4, (9, 99, 9), 1)
        script(*prepare)
        done = script("evaluate.py", run, *data, "--device", "cpu", check=False)
        assert done.returncode == 1 and said in done.stderr and not (run / "metrics.csv").exists()
        shutil.rmtree(tmp_path / "images" / change)
    script(*prepare)
    script("evaluate.py", run, *data, "--device", "cpu")


@pytest.mark.parametrize("size", [32, 72])
def test_test_images_that_were_trained_on_are_counted(tmp_path, size, monkeypatch):
    monkeypatch.setitem(CATALOG, "flowers", None)  # so that it is taken out afterwards
    del CATALOG["flowers"]
    for name in ("a", "b"):
        write_images(tmp_path / "images/train" / name, 3, (99, 99, 99), ord(name))
        write_images(tmp_path / "images/test" / name, 3, (99, 99, 99), 1)
    shutil.copy(tmp_path / "images/train/a/00.png", tmp_path / "images/test/b/02.png")
    words = ["--folder", f"flowers={tmp_path / 'images'}", "--size", size, "--data-dir", tmp_path / "data"]
    for _ in range(2):  # also when nothing is done
        assert "1 of them are training images, too" in script("data/prepare.py", *words).stdout
    split = Split.open("flowers", "test", tmp_path / "data")
    assert split.origin_note == "from files that no checksum covers, 1 of them training images, too"
    assert "1 of them" not in Split.open("flowers", "train", tmp_path / "data").origin_note


@pytest.mark.parametrize("size", [32, 72])
def test_what_cannot_be_prepared_leaves_nothing_damaged(tmp_path, size):
    write_images(tmp_path / "images/a", 1, (99, 99, 99), 0)
    write_images(tmp_path / "images/b", 3, (99, 99, 99), 0)
    words = ["--folder", f"flowers={tmp_path / 'images'}", "--size", size, "--data-dir", tmp_path / "data"]
    done = script("data/prepare.py", *words, check=False)
    assert done.returncode == 1 and "the class a of" in done.stderr
    assert not (tmp_path / "data/flowers").exists()
    assert script("data/prepare.py", "--verify", "--data-dir", tmp_path / "data").stdout.startswith("No set is")


@pytest.mark.parametrize("words, message", [
    (["--folder", "flowers=x", "--folder", "flowers=y"], "--folder has the name flowers twice"),
    (["--folder", "CIFAR10=."], "the name CIFAR10 is already in use"),  # macOS takes it for cifar10
    (["--folder", "Downloads=."], "the name Downloads is already in use")])
def test_names_that_would_replace_another_set_are_refused(tmp_path, words, message):
    done = script("data/prepare.py", *words, "--data-dir", tmp_path, check=False)
    assert done.returncode == 1 and message in done.stderr and not any(tmp_path.iterdir())


def test_an_unknown_data_set_is_refused_with_the_names_that_exist(tmp_path):
    done = script("train.py", "--dataset", "flowers", "--model", "lenet", "--method", "softmax", "--data-dir", tmp_path,
                  check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "unknown data set 'flowers': choose from cifar10, cifar100" in done.stderr and "--folder" in done.stderr
