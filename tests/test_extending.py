"""The exercises of docs/extending.md, run exactly as printed, in order, in a copy of the repository."""
import csv
import json
import shutil

import numpy as np
import pytest
from conftest import script
from documents import code_blocks, commands, copy_repository
from PIL import Image

BLOCKS = code_blocks("docs/extending.md")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A clean repository with images and the run that the exercises start from."""
    folder = tmp_path_factory.mktemp("extending") / "repository"
    copy_repository(folder)
    write_images(folder / "my_photos", 12, 0, 256)
    for k, name in enumerate(("daisy", "rose")):
        write_images(folder / "my_flowers" / name, 30, 128 * k, 128 * k + 128)
    run("", folder)
    return folder


def write_images(folder, count, low, high):
    shutil.rmtree(folder, ignore_errors=True)  # a reader who follows the document has one, too
    folder.mkdir(parents=True)
    rng = np.random.default_rng(low)
    for k in range(count):
        Image.fromarray(rng.integers(low, high, (40, 36, 3), dtype=np.uint8)).save(folder / f"{k}.png")


def run(heading, root):
    """Write the Python files and run the commands of one exercise. Returns what the last command printed."""
    said = ""
    for block in BLOCKS:
        if block.heading.startswith(heading) if heading else not block.heading:
            if block.language == "python":
                name = block.code.splitlines()[0].removeprefix("# ")
                (root / name).write_text(block.code)
            else:
                for words in commands(block):
                    assert words[0] == "python"
                    said = script(*words[1:], cwd=root).stdout
    return said


def rows(folder, **wanted):
    """The rows of a run's metrics.csv with these values."""
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[name] == value for name, value in wanted.items())]


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.heading)
def test_an_exercise_takes_twenty_lines_at_most(block):
    assert len([line for line in block.code.splitlines() if line.strip()]) <= 20


def test_a_network(root):
    run("1.", root)
    config = json.loads((root / "results/digits/mobilenet/dismax/seed1/config.json").read_text())
    assert config["plugins"] == ["my_network.py"] and config["parameters"] > 900_000
    assert rows(root / "results/digits/mobilenet/dismax/seed1", metric="accuracy")


def test_a_loss(root):
    said = run("2.", root)
    assert "LogitNorm" in said
    assert float(rows(root / "results/digits/lenet/logitnorm/seed1", metric="accuracy")[0]["value"]) > 0.5
    assert (root / "results/digits/lenet/logitnorm-2-gradcam/seed1/weights.pt").exists()


def test_a_diversity_loss(root):
    run("A diversity loss", root)
    with open(root / "results/digits/lenet/de-2-variance/seed1/log.csv", newline="") as file:
        row, = csv.DictReader(file)
    assert -0.25 <= float(row["diversity"]) < 0


def test_an_ood_set_from_a_folder(root):
    run("3.", root)
    found = rows(root / "results/digits/lenet/softmax/seed1", dataset="photos", metric="auroc", score="MPS")
    assert found and 0 <= float(found[0]["value"]) <= 1
    assert len(np.load(root / "results/digits/lenet/softmax/seed1/scores/MPS/photos.npz")["conf"]) == 12


def test_a_score(root):
    said = run("4.", root)
    folder = root / "results/digits/lenet/softmax/seed1"
    assert rows(folder, metric="auroc", score="GEN")
    script("analyze.py", "--plugin", "my_score.py", "--dataset", "digits", cwd=root)
    with open(root / "results/tables/dismax_digits_scores.csv", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file) if row["score"] == "GEN"} == {"softmax"}
    file, logits = np.load(folder / "scores/GEN/digits.npz"), np.load(folder / "logits/digits.npz")["logits"][0]
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    assert file["conf"] == pytest.approx(-((p * (1 - p)) ** 0.1).sum(1), rel=1e-5)
    answers = list(csv.DictReader(said.splitlines()))
    assert len(answers) == 12 and all(
        (float(row["score"]) >= float(row["threshold"])) == (row["answer"] == "in") for row in answers)


def test_a_data_set(root):
    said = run("5.", root)
    folder = root / "results/flowers/resnet20/dismax/seed1"
    assert rows(folder, dataset="photos", metric="auroc")
    assert {row["class_name"] for row in csv.DictReader(said.splitlines())} <= {"daisy", "rose"}


def test_scores_of_another_program(root):
    said = run("6.", root)
    assert "other" in said
    with open(root / "results/tables/openood_digits_scores.csv", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["method"] == "other"]
    assert found and {row["model"] for row in found} == {"lenet"}
