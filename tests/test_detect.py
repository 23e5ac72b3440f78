"""detect.py's answers, and example.py's."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch
from conftest import ROOT, run_of, script

from data.datasets import CATALOG
from losses.calibration import SCORES
from run_scripts import end_demo
from utils import run_dir


def write_digits(data_dir, folder, count):
    from PIL import Image

    images = np.load(data_dir / "digits/test.npz")["images"]
    for k in range(count):
        Image.fromarray(images[k, ..., 0]).save(folder / f"{k:03}.png")


@pytest.mark.parametrize("loss", ["dismax_fpr", "softmax"])
def test_detect_answers_as_the_logits_say(results_dir, data_dir, tmp_path, loss):
    """Pictures of the test set, saved as files: class, score, probability and answer of the dump's logits under the
    package's head; the share turned away is what was asked for; an unreadable file is named."""
    run, score = run_of(results_dir, loss), {"dismax_fpr": "MMLES", "softmax": "MPS"}[loss]
    write_digits(data_dir, tmp_path, 419)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    done = script("detect.py", run, tmp_path, "--device", "cpu", "--reject-rate", 10, check=False)
    assert done.returncode == 1 and "cut.jpg cannot be read" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "answers.csv").write_text(done.stdout)
    answers = pd.read_csv(tmp_path / "answers.csv")
    logits = torch.from_numpy(np.load(run / "logits" / "digits.npz")["logits"][0]).double()
    assert answers["class"].tolist() == logits.argmax(1).tolist() == answers.class_name.tolist()
    fitted = json.loads((run / "calibration.json").read_text())["last"]
    scores = SCORES[score](logits / fitted["temperature"])
    assert answers.score.tolist() == pytest.approx(scores.tolist(), abs=1e-3)
    probabilities = (logits / fitted["temperature"]).softmax(1).amax(1)
    assert answers.probability.tolist() == pytest.approx(probabilities.tolist(), abs=2e-4)
    assert ((answers.score >= answers.threshold) == (answers.answer == "in")).all()
    assert (answers.answer == "out").mean() == pytest.approx(0.1, abs=0.005)


def test_detect_answers_for_several_runs_names_of_a_pipe_and_in_json(results_dir, data_dir, tmp_path):
    runs = [run_of(results_dir, loss) for loss in ("dismax_fpr", "softmax")]
    write_digits(data_dir, tmp_path, 2)
    names = "".join(f"{tmp_path}/{k:03}.png\n" for k in range(2))
    done = script("detect.py", *runs, "-", "--json", "--device", "cpu", input=names)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["run"] for row in rows] == [str(run) for run in runs] * 2
    assert set(rows[0]) == {"run", "file", "class", "class_name", "probability", "score", "threshold", "answer"}


def test_what_rejects_everything_is_valid_json(results_dir, data_dir, tmp_path):
    """JSON has no Infinity, which Python's module writes and reads all the same."""
    def no_number(name):
        raise AssertionError(f"{name} is no JSON")

    write_digits(data_dir, tmp_path, 1)
    done = script("detect.py", run_of(results_dir), tmp_path, "--json", "--reject-rate", 100, "--device", "cpu")
    row = json.loads(done.stdout, parse_constant=no_number)
    assert row["threshold"] is None and row["answer"] == "out"
    script("export.py", run_of(results_dir), tmp_path / "exported", "--reject-rate", 100)
    for file in ("config.json", "calibration.json"):
        json.loads((tmp_path / "exported" / file).read_text(), parse_constant=no_number)


@pytest.mark.parametrize("words, message", [
    (["--reject-rate", "101"], "between 0 and 100 percent"),
    (["--score", "MLES"], "choose from"),
])
def test_detect_refuses_in_words(results_dir, words, message):
    done = script("detect.py", run_of(results_dir), "x.png", *words, check=False)
    assert done.returncode in (1, 2) and message in done.stderr and "Traceback" not in done.stderr


def test_the_example_page_learns():
    said = script("example.py").stdout
    accuracy, confidence, auroc, asked, inside, outside = map(float, re.findall(r"([0-9.]+)%", said))
    assert accuracy > 97 and abs(accuracy - confidence) < 3 and auroc > 90
    assert abs(inside - asked) < 3 and outside > 50


def test_the_losses_are_a_package_of_their_own(tmp_path):
    """As `pip install .` lays it out: `dismax`, with nothing of ours beside it and torch alone beneath it."""
    shutil.copytree(ROOT / "losses", tmp_path / "dismax")
    code = ("import sys, torch; before = set(sys.modules); import dismax; "
            "print(sorted({m.split('.')[0] for m in set(sys.modules) - before})); "
            "print(dismax.DisMaxLossFirstPart(4, 3)(torch.ones(2, 4)).shape)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["['dismax']", "torch.Size([2, 3])"], done.stderr


# ---- the weights in results/reference ----

WITH_WEIGHTS = sorted((ROOT / "results/reference").rglob("model.safetensors"))


@pytest.mark.parametrize("weights", WITH_WEIGHTS, ids=lambda path: path.parts[-3])
def test_committed_weights_answer_for_photographs(weights):
    """They are those of the run beside them: CIFAR-10's five losses, each with the accuracy of its metrics.csv."""
    photographs = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    answered = script("detect.py", weights.parent, *photographs, "--json", "--device", "cpu").stdout.splitlines()
    assert len(WITH_WEIGHTS) == 5 and len(answered) == len(photographs) == 2
    for row in map(json.loads, answered):
        assert row["class_name"] in CATALOG["cifar10"].class_names and 0.1 <= row["probability"] <= 1
        assert row["answer"] == ("in" if row["score"] >= row["threshold"] else "out")
    accuracy = next(row[6] for row in run_dir.read_metrics(weights.parent) if row[0] == "dismax" and row[3] == "last"
                    and row[5] == "accuracy")
    said = re.search(r"\| dismax +\| accuracy +\| +([\d.]+)", (weights.parent / "README.md").read_text())
    assert float(said[1]) == pytest.approx(accuracy, abs=5e-5) and accuracy > 0.88


def test_the_demo_asks_about_two_photographs(capsys):
    end_demo.ask_about_photographs()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[-2:]] == ["  china.jpg", "  flower.jpg"]
    assert all(line.endswith((", in", ", out")) for line in lines[-2:]) and max(map(len, lines)) <= 80
