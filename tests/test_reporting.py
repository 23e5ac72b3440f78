"""What is concluded from runs: pairs of runs, the check against the papers, and the tables in the READMEs."""
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, made_up_run, script

from metrics.ensemble import SCORES
from reporting import paired, papers
from reporting.reading import read_runs
from reporting.readme import BLOCK, filled, tables_of

NEAR, FAR = ("notmnist", "fashion_mnist"), ("textures", "cifar10", "tinyimagenet", "places365")


def ensemble(folder, loss, seed, near, far=0.9, sets=NEAR + FAR, weights="best", overrides=None, notes=None):
    """A run on MNIST whose AUROC is `near` or `far`, a number or one a score; of notMNIST 0.02 more, of FashionMNIST
    0.02 less."""
    rows = [("openood", "mnist", "id", weights, "", "accuracy", 0.99)]
    for name in sets:
        group, value = ("near", near) if name in NEAR else ("far", far)
        shift = {"notmnist": 0.02, "fashion_mnist": -0.02}.get(name, 0)
        rows.append(("openood", name, group, weights, "", "images", 100, (notes or {}).get(name, "")))
        rows += [("openood", name, group, weights, score, "auroc",
                  (value.get(score, 0.5) if isinstance(value, dict) else value) + shift) for score in SCORES]
    made_up_run(folder, "mnist", "lenet", loss, seed, rows, overrides)


def pairs(folder, **where):
    """The rows of paired.compare, by default of the weights and group that most tests make up."""
    tidy = paired.compare("mnist", read_runs(folder)[1])
    for column, value in {"weights": "best", "group": "near", **where}.items():
        tidy = tidy[tidy[column] == value] if len(tidy) else tidy
    return tidy


# ---- pairs ----

def test_a_gain_is_the_method_and_the_score(tmp_path):
    """By hand, in points: read by its own score the method gains 6 and 4, by logit-average 3 and 1, by DE's 2 and 0."""
    for seed, de, gain in ((1, 0.90, 0.02), (2, 0.91, 0.0)):
        ensemble(tmp_path, "de", seed, {"average": de, "logit-average": de + 0.01, "minmax": de + 0.03})
        ensemble(tmp_path, "gradcam", seed, {"average": de + gain, "logit-average": de + gain + 0.02,
                                             "minmax": de + gain + 0.04})
    rows = pairs(tmp_path).set_index(["reading", "score"])
    published = rows.loc[("each script's score", "minmax")]
    assert published.de_score == "average" and published.seeds == "1 2" and published.n == 2
    assert published["mean"] == pytest.approx(5) and published["std"] == pytest.approx(np.sqrt(2))
    half = 12.7062 * np.sqrt(2) / np.sqrt(2)  # Student's t with one degree of freedom, 97.5 %
    assert published.low == pytest.approx(5 - half, abs=1e-3) and published.high == pytest.approx(5 + half, abs=1e-3)
    assert published.paper == pytest.approx(96.56 - 92.45)
    for score, gain in (("logit-average", 2), ("average", 1), ("minmax", 2)):
        row = rows.loc[("one score", score)]
        assert row["mean"] == pytest.approx(gain) and row.de_score == score
        assert row.score_part == pytest.approx(5 - gain) and row.share == pytest.approx((5 - gain) / 5)
        assert row["mean"] + row.score_part == pytest.approx(published["mean"]), "the parts are the whole"
    assert set(rows.loc["one score"].index) == set(SCORES)


def test_only_the_same_seed_the_same_sets_and_the_same_images_are_compared(tmp_path):
    ensemble(tmp_path, "de", 1, 0.90)
    ensemble(tmp_path, "de", 2, 0.10)  # no such seed of the method
    ensemble(tmp_path, "gradcam", 1, 0.95, 0.97, notes={"notmnist": "10,000 images in place of 17,723"})
    ensemble(tmp_path, "gradcam", 3, 0.10)
    near = pairs(tmp_path).query("score == 'minmax' and reading == 'one score'").iloc[0]
    assert (near.seeds, near.sets, near.n) == ("1", "fashion_mnist", 1) and near["mean"] == pytest.approx(5)
    assert np.isnan([near["std"], near.low, near.high]).all(), "one seed says nothing of its spread"
    far = pairs(tmp_path, group="far").iloc[0]
    assert far.sets == " ".join(sorted(FAR)) and far["mean"] == pytest.approx(7)
    said = script("analyze.py", "--results-dir", tmp_path).stdout
    assert "SDDE − DE, near: only fashion_mnist, the sets that both have on every seed." in said


def test_a_set_must_be_there_on_every_seed(tmp_path):
    for seed, sets in ((1, NEAR), (2, NEAR[:1])):
        ensemble(tmp_path, "de", seed, 0.90, sets=sets)
        ensemble(tmp_path, "adp", seed, 0.91 + 0.01 * seed, sets=NEAR)
    row = pairs(tmp_path).iloc[0]
    assert row.sets == "notmnist" and row.n == 2 and row["mean"] == pytest.approx(2.5)
    assert pairs(tmp_path, group="far").empty


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


def test_a_gain_that_is_none_has_no_share(tmp_path):
    ensemble(tmp_path, "de", 1, {"average": 0.90, "logit-average": 0.80})
    ensemble(tmp_path, "gradcam", 1, {"minmax": 0.89, "logit-average": 0.85})
    row = pairs(tmp_path).query("score == 'logit-average'").iloc[0]
    assert row["mean"] == pytest.approx(5) and row.score_part == pytest.approx(-6) and np.isnan(row.share)


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
        rows = [("openood", name, "near" if name in NEAR else "far", weights, "logit-average", "auroc", value)
                for weights, value in (("best", 0.95), ("last", 0.91)) for name in NEAR + FAR]
        made_up_run(tmp_path, "mnist", "lenet", "gradcam", seed, rows)
        (tmp_path / f"mnist/lenet/gradcam/seed{seed}/log.csv").write_text(
            f"epoch,selection_acc,diversity,dead_maps\n1,0.9,-0.1,{dead}\n2,0.95,-0.15,0.5\n3,0.95,-0.2,{dead / 2}\n")
    ensemble(tmp_path, "de", 1, 0.9)  # no log.csv
    script("analyze.py", "--results-dir", tmp_path)
    row, = re.findall(r"^\| SDDE .*$", (tmp_path / "tables/openood_mnist_course.md").read_text(), re.M)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["SDDE", "2", "1, 1 of 300", "50.00 ± 0.00", "50.00 ± 0.00", "95.00 ± 0.00", "91.00 ± 0.00",
                     "95.00 ± 0.00", "91.00 ± 0.00", "-0.100 ± 0.000", "-0.200 ± 0.000", "5.00 ± 4.24", "2.50 ± 2.12"]
    assert set(pd.read_csv(tmp_path / "tables/openood_mnist_course.csv").loss) == {"gradcam"}


# ---- analyze.py --check ----

OPENOOD_PAPER = {"near": 0.9245, "far": 0.9834}  # DE's row


def single(folder, loss, seed, accuracy, sets=("cifar100", "tinyimagenet_resize", "lsun_resize", "svhn"),
           overrides=None):
    """A run on CIFAR-10 × ResNet34 with SoftMax's published values, but for the accuracy."""
    rows = [("dismax", "cifar10", "id", "best", "", "accuracy", accuracy),
            ("dismax", "cifar10", "id", "best", "", "ece_fitted_on_test", 0.0060)]
    values = {"cifar100": ("near", "aupr_out", 0.853), "tinyimagenet_resize": ("far", "auroc", 0.897),
              "lsun_resize": ("far", "auroc", 0.924), "svhn": ("very_far", "aupr_out", 0.949)}
    rows += [("dismax", name, values[name][0], "best", "MPS", f"{values[name][1]}_published", values[name][2])
             for name in sets]
    made_up_run(folder, "cifar10", "resnet34", loss, seed, rows, overrides)


def checked(folder, *words):
    done = script("analyze.py", "--results-dir", folder, "--check", *words, check=False)
    assert not (folder / "tables").exists(), "it writes nothing"
    return done.returncode, done.stdout


def test_check_passes_what_is_reproduced(tmp_path):
    for seed in range(1, 6):
        single(tmp_path, "softmax", seed, 0.956)
        ensemble(tmp_path, "de", seed, **OPENOOD_PAPER)
    code, said = checked(tmp_path)
    assert code == 0 and "OFF" not in said and "not judged  " not in said
    assert "35 published rows: 2 judged, 0 cells outside their tolerance; 33 not judged (33 no run" in said
    code, said = checked(tmp_path, "--dataset", "cifar10")
    assert code == 0 and "14 published rows: 1 judged" in said, "3 networks × 3 rows and 5 ensembles"


def test_check_fails_and_names_every_cell_that_is_outside(tmp_path):
    for seed in range(1, 6):
        single(tmp_path, "softmax", seed, 0.90)
        ensemble(tmp_path, "de", seed, 0.99, OPENOOD_PAPER["far"])
    code, said = checked(tmp_path)
    off = [line for line in said.splitlines() if line.startswith("OFF")]
    assert code == 1 and len(off) == 2 and "2 judged, 2 cells outside" in said
    assert "cifar10, ResNet34, SoftMax (baseline), ACC (%): ours 90 (n = 5), paper 95.6, Δ -5.6, tolerance 0.3" in said
    assert "mnist, LeNet, DE, near AUROC (%): ours 99 (n = 5), paper 92.45, Δ +6.55, tolerance 1" in said


@pytest.mark.parametrize("change, reason", [
    ({"seeds": (1, 2, 3)}, "n = 3, the paper has 5"),
    ({"sets": NEAR + FAR[:2]}, "sets missing or other images than the paper's in far AUROC (%)"),
    ({"notes": {"notmnist": "10,000 images in place of 17,723"}},
     "sets missing or other images than the paper's in near AUROC (%)"),
    ({"overrides": {"epochs": {"published": 50, "used": 1}}}, "changed recipe, epochs 1 (published 50)"),
])
def test_check_does_not_judge_what_is_not_the_papers_row(tmp_path, change, reason):
    """Far off, but incomplete: it is said why, and nothing fails."""
    for seed in change.get("seeds", range(1, 6)):
        ensemble(tmp_path, "de", seed, 0.5, 0.5, **{key: value for key, value in change.items() if key != "seeds"})
    code, said = checked(tmp_path)
    assert code == 0 and f"not judged  mnist, LeNet, DE: {reason}\n" in said and "OFF" not in said
    assert "35 published rows: 0 judged" in said


def test_check_names_a_missing_set_and_does_not_count_a_shortened_run_as_a_seed(tmp_path):
    for seed in range(1, 5):
        single(tmp_path, "softmax", seed, 0.1, sets=("cifar100", "svhn"))
    single(tmp_path, "softmax", 5, 0.1, overrides={"epochs": {"published": 300, "used": 1}})
    code, said = checked(tmp_path)
    assert code == 0 and (
        "SoftMax (baseline): n = 4, the paper has 5; no far: TinyImageNet-r AUROC (%), far: LSUN-r AUROC (%)\n" in said)


def test_a_set_that_one_seed_lacks_leaves_the_mean_over_sets_unjudged(tmp_path):
    for seed in range(1, 6):
        ensemble(tmp_path, "de", seed, 0.5, 0.5, sets=NEAR + FAR if seed > 1 else NEAR + FAR[:3])
    code, said = checked(tmp_path)
    assert code == 0 and "other images than the paper's in far AUROC (%)\n" in said


# ---- the papers' numbers ----

@pytest.mark.parametrize("model, before, before_std", [  # in version 1 of arXiv 2205.05874
    ("resnet34", 0.0133, 0.0177), ("wideresnet2810", 0.0107, 0.0166)])
def test_two_published_cells_are_one_dropped_run_of_five(model, before, before_std):
    """IsoMax+'s ECE on CIFAR-10, changed after runs whose temperature hits a bound began to be dropped: with one run
    more, of ECE = 1 − accuracy, today's four give the mean and the deviation of before; nine would not."""
    rows = papers.dismax().query("dataset == 'cifar10' and loss == 'isomaxplus'").set_index("model")
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

def test_tables_of_the_readmes_are_those_of_the_committed_files():
    for name in ("README.md", "benchmarks/README.md"):
        text = (ROOT / name).read_text()
        assert len(BLOCK.findall(text)) == text.count("<!-- table") > 0
        assert filled(text) == text, "type `make tables`"
    shown = {match["path"].split("/")[-1] for match in BLOCK.finditer((ROOT / "README.md").read_text())}
    assert shown >= {f"{name}.md" for name in (
        "openood_mnist", "openood_mnist_paired", "openood_mnist_course", "openood_digits", "dismax_digits")}


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
