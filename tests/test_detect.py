"""detect.py's answers, and example.py's."""
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, script

from losses.calibration import SCORES


def run_of(results_dir, loss="dismax_fpr", seed=1):
    return results_dir / f"digits/lenet/{loss}/seed{seed}"


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


@pytest.mark.parametrize("words, message", [
    (["--reject-rate", "101"], "from 0 to 100"),
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
