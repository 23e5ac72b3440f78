"""What is concluded from runs: pairs of runs, how training went, the papers' numbers, the tables in the READMEs."""
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, made_up_run, script
from made_up import FAR, NEAR, ensemble

from metrics.ensemble import ENSEMBLE_SCORES
from reporting import paired_gains, papers
from reporting.load import read_runs
from reporting.readme_tables import filled, tables_of


def pairs(folder, **where):
    """The rows of paired_gains.rows_of, by default of the checkpoint and group that most tests make up."""
    tidy = pd.DataFrame(paired_gains.rows_of("mnist", read_runs(folder).runs))
    for column, value in {"checkpoint": "best", "ood_group": "near", **where}.items():
        tidy = tidy[tidy[column] == value] if len(tidy) else tidy
    return tidy


# ---- pairs ----

def test_a_gain_is_the_method_and_the_score(tmp_path):
    """By hand, in points: with its own score the method gains 6 and 4, with logit-average 3 and 1, with DE's 2, 0."""
    for seed, de, gain in ((1, 0.90, 0.02), (2, 0.91, 0.0)):
        ensemble(tmp_path, "de", seed, {"average": de, "logit-average": de + 0.01, "minmax": de + 0.03})
        ensemble(tmp_path, "gradcam", seed, {"average": de + gain, "logit-average": de + gain + 0.02,
                                             "minmax": de + gain + 0.04})
    rows = pairs(tmp_path).set_index(["kind", "score"])
    published = rows.loc[("each script's score", "minmax")]
    assert published.de_score == "average" and published.seeds == "1 2" and published.n == 2
    assert published["mean"] == pytest.approx(5) and published["std"] == pytest.approx(np.sqrt(2))
    half = 12.7062 * np.sqrt(2) / np.sqrt(2)  # Student's t with one degree of freedom, 97.5 %
    assert published.low == pytest.approx(5 - half, abs=1e-3) and published.high == pytest.approx(5 + half, abs=1e-3)
    assert published.paper == pytest.approx(96.56 - 92.45)
    for score, gain in (("logit-average", 2), ("average", 1), ("minmax", 2)):
        row = rows.loc[("one score", score)]
        assert row["mean"] == pytest.approx(gain) and row.de_score == score
        assert row.due_to_score == pytest.approx(5 - gain) and row.share == pytest.approx((5 - gain) / 5)
        assert row["mean"] + row.due_to_score == pytest.approx(published["mean"]), "the parts are the whole"
    assert set(rows.loc["one score"].index) == set(ENSEMBLE_SCORES)


def test_only_the_same_seed_the_same_sets_and_the_same_images_are_compared(tmp_path):
    ensemble(tmp_path, "de", 1, 0.90)
    ensemble(tmp_path, "de", 2, 0.10)  # no such seed of the method
    ensemble(tmp_path, "gradcam", 1, 0.95, 0.97, notes={"notmnist": "10,000 images in place of 17,723"})
    ensemble(tmp_path, "gradcam", 3, 0.10)
    near = pairs(tmp_path).query("score == 'minmax' and kind == 'one score'").iloc[0]
    assert (near.seeds, near.sets, near.n) == ("1", "fashion_mnist", 1) and near["mean"] == pytest.approx(5)
    assert np.isnan([near["std"], near.low, near.high]).all(), "one seed says nothing of its spread"
    far = pairs(tmp_path, ood_group="far").iloc[0]
    assert far.sets == " ".join(sorted(FAR)) and far["mean"] == pytest.approx(7)
    said = script("analyze.py", "--results-dir", tmp_path).stdout
    assert "SDDE − DE, near: only fashion_mnist, the sets that both have on every seed." in said


def test_a_set_must_be_there_on_every_seed(tmp_path):
    for seed, sets in ((1, NEAR), (2, NEAR[:1])):
        ensemble(tmp_path, "de", seed, 0.90, sets=sets)
        ensemble(tmp_path, "adp", seed, 0.91 + 0.01 * seed, sets=NEAR)
    row = pairs(tmp_path).iloc[0]
    assert row.sets == "notmnist" and row.n == 2 and row["mean"] == pytest.approx(2.5)
    assert pairs(tmp_path, ood_group="far").empty


def test_recipes_are_not_mixed(tmp_path):
    changed = {"flip": {"published": True, "used": False}}
    ensemble(tmp_path, "de", 1, 0.90)
    ensemble(tmp_path, "gradcam", 1, 0.95, overrides=changed)
    assert pairs(tmp_path).empty
    assert "minus DE" not in script("analyze.py", "--results-dir", tmp_path).stdout
    assert not (tmp_path / "tables/openood_mnist_paired.csv").exists()
    ensemble(tmp_path, "de", 2, 0.80, overrides=changed)
    ensemble(tmp_path, "gradcam", 2, 0.90, overrides=changed)
    rows = pairs(tmp_path)
    assert set(rows.changed) == {"flip False (published True)"} and set(rows.seeds) == {"2"} and rows.paper.isna().all()


def test_without_a_gain_there_is_no_share(tmp_path):
    ensemble(tmp_path, "de", 1, {"average": 0.90, "logit-average": 0.80})
    ensemble(tmp_path, "gradcam", 1, {"minmax": 0.89, "logit-average": 0.85})
    row = pairs(tmp_path).query("score == 'logit-average'").iloc[0]
    assert row["mean"] == pytest.approx(5) and row.due_to_score == pytest.approx(-6) and np.isnan(row.share)


@pytest.mark.parametrize(("gain", "share"), [(0.004, 0.25), (0.01, 0.7), (0.0005, -5.0), (-0.004, None), (0.0, None)])
def test_a_small_gain_has_a_share_too(tmp_path, gain, share):
    """0.4 points by each script's score, 0.3 by one score for both: a quarter of the gain is the score's. No share of
    what is no gain."""
    ensemble(tmp_path, "de", 1, {"average": 0.90, "logit-average": 0.90})
    ensemble(tmp_path, "gradcam", 1, {"minmax": 0.90 + gain, "logit-average": 0.903})
    row, = pairs(tmp_path).query("score == 'logit-average'").itertuples()
    assert row.mean == pytest.approx(0.3) and row.due_to_score == pytest.approx(100 * gain - 0.3)
    assert np.isnan(row.share) if share is None else row.share == pytest.approx(share)


def test_the_page_of_pairs(tmp_path):
    """On the terminal and in files, in the layout of the other tables; the paper's difference on top."""
    for seed in (1, 2):
        ensemble(tmp_path, "de", seed, {"average": 0.90 + seed / 100, "logit-average": 0.92, "minmax": 0.9})
        ensemble(tmp_path, "gradcam", seed, {"average": 0.92, "logit-average": 0.94, "minmax": 0.97})
        ensemble(tmp_path, "ncl", seed, {"average": 0.95, "logit-average": 0.94})
    said = script("analyze.py", "--results-dir", tmp_path).stdout
    lines = [line.split("  ") for line in said[said.index("method minus DE"):].splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["SDDE", "paper", "+4.11", "+1.54"] in cells
    assert any(line[1:5] == ["one score: logit-average", "2", "+2.00 ± 0.00", "+2.00 to +2.00"]
               and line[5] == "+3.50 (64 %)" for line in cells)
    ncl = said[said.index("NCL  ", said.index("method minus DE")):said.index("SDDE", said.index("method minus DE"))]
    assert "each script's score: average" in ncl and "one score: average" not in ncl, "that is one score already"
    for name in ("paired.md", "paired.tex", "paired.csv", "paired_scores.md", "paired_scores.tex"):
        assert (tmp_path / f"tables/openood_mnist_{name}").stat().st_size > 300
    assert "−" not in (tmp_path / "tables/openood_mnist_paired.tex").read_text(), "pdflatex has no such sign"
    report = script("analyze.py", "--results-dir", tmp_path, "--report")
    assert "method minus DE" in (tmp_path / "report.html").read_text(), report.stdout


# ---- the course of training ----

def test_the_course_of_training(tmp_path):
    """Two seeds of an ensemble beside each other: the chosen epochs, what both epochs are worth, and the logs' ends."""
    for seed, dead in ((1, 0.08), (2, 0.02)):
        rows = [("openood", name, "near" if name in NEAR else "far", checkpoint, "logit-average", "auroc", value)
                for checkpoint, value in (("best", 0.95), ("last", 0.91)) for name in NEAR + FAR]
        log = [{"epoch": epoch, "selection_acc": accuracy, "diversity": diversity, "dead_maps": part, "seconds": 1}
               for epoch, accuracy, diversity, part in (
                   (1, 0.9, -0.1, dead), (2, 0.95, -0.15, 0.5), (3, 0.92, -0.2, dead / 2))]
        made_up_run(tmp_path, "mnist", "lenet", "gradcam", seed, rows, log=log, best_epoch=2, best_accuracy=0.95)
    script("analyze.py", "--results-dir", tmp_path)
    row, = re.findall(r"^\| SDDE .*$", (tmp_path / "tables/openood_mnist_epochs.md").read_text(), re.M)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["SDDE", "2", "2, 2 of 3", "95.00 ± 0.00", "92.00 ± 0.00", "95.00 ± 0.00", "91.00 ± 0.00",
                     "95.00 ± 0.00", "91.00 ± 0.00", "-0.100 ± 0.000", "-0.200 ± 0.000", "5.00 ± 4.24", "2.50 ± 2.12"]


# ---- the papers' numbers ----

@pytest.mark.parametrize("model, before, before_std", [  # in version 1 of arXiv 2205.05874
    ("resnet34", 0.0133, 0.0177), ("wideresnet2810", 0.0107, 0.0166)])
def test_two_published_cells_are_one_dropped_run_of_five(model, before, before_std):
    """IsoMax+'s ECE on CIFAR-10, changed after runs whose temperature hits a bound began to be dropped: with one run
    more, of ECE = 1 − accuracy, today's four give the mean and the deviation of before; nine would not."""
    rows = pd.DataFrame(papers.dismax()).query("id_dataset == 'cifar10' and method == 'isomaxplus'").set_index("model")
    now = rows.loc[model]

    def with_one_more(n):
        dropped = n * before - (n - 1) * now.ece
        variance = ((n - 2) * now.ece_std**2 + (n - 1) / n * (dropped - now.ece) ** 2) / (n - 1)
        return dropped, np.sqrt(variance)

    dropped, std = with_one_more(5)
    assert std == pytest.approx(before_std, abs=4e-4), "rounding moves it by that"
    assert dropped == pytest.approx(1 - now.acc / 100, abs=1e-3)
    dropped, std = with_one_more(10)
    assert abs(std - before_std) > 5e-3 and abs(dropped - (1 - now.acc / 100)) > 0.03


# ---- the READMEs ----

def test_reference_tables_are_made_from_the_committed_runs(tmp_path):
    """Every Markdown table of results/reference, and no other."""
    shutil.copytree(ROOT / "results/reference", tmp_path / "reference", ignore=shutil.ignore_patterns("tables"))
    script("analyze.py", "--results-dir", tmp_path / "reference")
    made, committed = ({path.name: path.read_text() for path in (folder / "tables").glob("*.md")}
                       for folder in (tmp_path / "reference", ROOT / "results/reference"))
    assert made.keys() == committed.keys() and made
    for name, text in made.items():
        assert text == committed[name], f"{name}: type `make tables`"


def test_a_block_is_replaced_by_its_table_with_or_without_the_line_under_it(tmp_path):
    rows = pd.DataFrame({"a": [1]}).to_markdown(index=False)
    path = tmp_path / "t.md"
    path.write_text(f"# T\n\n## one\n\n{rows}\n\nMade on x.\n\n## two\n\n{rows}\n\n\n\nA legend.\n")
    table = "| a |\n|---:|\n| 1 |\n"
    assert tables_of(path) == f"{table}\n{table}"
    assert tables_of(path, notes=True) == f"{table}\nMade on x.\n\n{table}"
    for mark, content in (("table", f"{table}\n{table}"), ("table and notes", f"{table}\nMade on x.\n\n{table}")):
        text = f"before\n<!-- {mark}: {path} -->\nold\n<!-- end -->\nafter"
        assert filled(text) == f"before\n<!-- {mark}: {path} -->\n{content}<!-- end -->\nafter" and filled(
            filled(text)) == filled(text)
