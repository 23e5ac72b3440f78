"""A folder of class folders becomes a data set, from prepare.py to the tables; class names and OOD folders go along."""
import json

import numpy as np
import pandas as pd
from conftest import script
from PIL import Image


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


def test_an_unknown_data_set_is_refused_with_the_names_that_exist(tmp_path):
    done = script("train.py", "--dataset", "flowers", "--model", "lenet", "--method", "softmax", "--data-dir", tmp_path,
                  check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "unknown data set 'flowers': choose from cifar10, cifar100" in done.stderr and "--folder" in done.stderr
