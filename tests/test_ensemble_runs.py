"""Whole runs of ensembles: logs, tables, interruption, and that a network is an ensemble of one."""
import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import script

from engine import checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """Every diversity loss on digits for an epoch, and a combination of ours; evaluated."""
    folder = tmp_path_factory.mktemp("ensembles")
    for words in (["de"], ["ncl"], ["adp"], ["dice"], ["gradcam"], ["input_gradient"],
                  ["oe", "--outliers", "digits", "--outlier-batch", 16],
                  ["dismax", "--members", 2, "--diversity", "gradcam"]):
        script("train.py", "--dataset", "digits", "--model", "lenet", "--loss", *words, "--epochs", 1, "--batch-size",
               64, "--data-dir", data_dir, "--results-dir", folder, "--device", "cpu")
    script("evaluate.py", *folder.glob("digits/lenet/*/seed1"), "--data-dir", data_dir, "--device", "cpu")
    return folder


def test_every_method_leaves_its_terms_in_the_log(trained):
    expected = {"de": [], "ncl": ["diversity"], "adp": ["diversity"], "gradcam": ["diversity", "dead_maps"],
                "dice": ["diversity", "discriminator_loss", "discriminator_accuracy"], "input_gradient": ["diversity"],
                "de-5-none-digits": ["outlier"], "dismax-2-gradcam": ["diversity", "dead_maps"]}
    assert {path.parent.name for path in trained.glob("digits/lenet/*/seed1")} == set(expected)
    for label, terms in expected.items():
        run = trained / f"digits/lenet/{label}/seed1"
        with open(run / "log.csv") as file:
            row, = csv.DictReader(file)
        names = list(row)
        assert names[names.index("selection_acc") + 1 : names.index("distance_scale")] == terms, label
        assert all(np.isfinite(float(value)) for value in row.values())
        method = json.loads((run / "config.json").read_text())["method"]
        with np.load(run / "logits/digits.npz") as content:
            assert content["logits"].shape == (method["members"], 419, 7)


def test_tables_of_ensembles(trained):
    said = script("analyze.py", "--results-dir", trained).stdout
    assert "openood, LeNet" in said and "SDDE" in said and "dismax-2-gradcam" in said and "ours, common score" in said
    tidy = pd.read_csv(trained / "tables/openood_digits.csv")
    metrics = pd.read_csv(trained / "digits/lenet/gradcam/seed1/metrics.csv", keep_default_na=False)
    metrics = metrics[(metrics.benchmark == "openood") & (metrics.checkpoint == "best") & (metrics.metric == "auroc")]
    for protocol, score in (("as published", "minmax"), ("common score", "logit-average")):
        row = tidy[(tidy.method == "gradcam") & (tidy.protocol == protocol) & (tidy.column == "near AUROC (%)")].iloc[0]
        value = metrics[(metrics.ood_group == "near") & (metrics.score == score)].value
        assert row.ours == pytest.approx(100 * value.mean())
    scores = pd.read_csv(trained / "tables/openood_digits_scores.csv")
    assert set(scores.method) == {"de", "ncl", "adp", "dice", "gradcam", "input_gradient", "de-5-none-digits",
                                "dismax-2-gradcam"}
    assert "minmax" in set(scores.score)


@pytest.mark.parametrize("words, message", [
    (["--per-class", 1], "DICE needs two or more images per class"),
    (["--per-class", 5], "that fill a batch: --per-class 5 and --batch-size 64 do not fit"),
    (["--per-class", 2], "needs 32 classes, the set has 7"),
])
def test_settings_that_make_no_sense_are_refused_before_training(tmp_path, data_dir, words, message):
    done = script("train.py", "--dataset", "digits", "--model", "lenet", "--loss", "dice", *words, "--device", "cpu",
                  "--data-dir", data_dir, "--results-dir", tmp_path, check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_killed_and_taken_up_again_it_ends_with_the_same_bits(tmp_path, data_dir):
    """DICE: two optimisers, a ramp, class-balanced batches and clipping."""
    words = ["train.py", "--dataset", "digits", "--model", "lenet", "--loss", "dice", "--members", 2, "--batch-size",
             64, "--ramp-epochs", 1, "--data-dir", data_dir, "--device", "cpu", "--epochs", 3,
             "--checkpoint-seconds", 0]
    script(*words, "--results-dir", tmp_path / "undisturbed")
    stopping = ("import runpy, sys\n"
                "from engine import checkpoint\n"
                "save, saved = checkpoint.save_state, []\n"
                "def save_state(path, state):\n"
                "    save(path, state)\n"
                "    saved.append(path.name)\n"
                "    if saved.count('checkpoint.pt') == 2: sys.exit(9)\n"
                "checkpoint.save_state, sys.argv = save_state, sys.argv[1:]\n"
                "runpy.run_path(sys.argv[0], run_name='__main__')\n")
    done = script("-c", stopping, *words, "--results-dir", tmp_path / "cut", check=False)
    run = "digits/lenet/de-2-dice/seed1"
    assert done.returncode == 9 and not (tmp_path / "cut" / run / "weights.pt").exists()
    assert "continues from epoch 3" in script(*words, "--results-dir", tmp_path / "cut").stdout
    a, b = (checkpoint.load_state(tmp_path / name / run / "weights.pt") for name in ("undisturbed", "cut"))
    assert all(torch.allclose(a[key], b[key], rtol=0, atol=0, equal_nan=True) for key in a)


def test_an_ensemble_of_one_is_the_network(tmp_path, data_dir):
    words = ["train.py", "--dataset", "digits", "--model", "lenet", "--epochs", 1, "--data-dir", data_dir,
             "--device", "cpu"]
    script(*words, "--loss", "softmax", "--results-dir", tmp_path / "a")
    script(*words, "--loss", "de", "--members", 1, "--lr", 0.02, "--weight-decay", 5e-4, "--zero-bias", "--results-dir",
           tmp_path / "b")
    a = checkpoint.load_state(tmp_path / "a/digits/lenet/softmax/seed1/weights.pt")
    b = checkpoint.load_state(tmp_path / "b/digits/lenet/de-1-none/seed1/weights.pt")
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[key], b[key], rtol=0, atol=0, equal_nan=True) for key in a)
