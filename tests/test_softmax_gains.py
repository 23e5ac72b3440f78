"""A method minus SoftMax, seed by seed: values by hand, pairs of the same images only, and what is left out."""
import math

import numpy as np
import pandas as pd
import pytest
from conftest import made_up_run, script
from scipy import stats

from reporting import softmax_gains
from reporting.load import read_runs


def run_on(folder, method, seed, accuracy, aurocs, images=10_000, overrides=None):
    """A run on CIFAR-10; aurocs: OOD set → score → AUROC."""
    rows = [("dismax", "cifar10", "id", "last", "", "accuracy", accuracy),
            ("dismax", "cifar10", "id", "last", "", "images", 10_000)]
    for name, of_scores in aurocs.items():
        group = "near" if name == "cifar100" else "far"
        rows.append(("dismax", name, group, "last", "", "images", images))
        rows += [("dismax", name, group, "last", score, "auroc", value) for score, value in of_scores.items()]
    return made_up_run(folder, "cifar10", "resnet20", method, seed, rows, overrides)


def gains(folder):
    return pd.DataFrame(softmax_gains.rows_of("cifar10", read_runs(folder).runs))


def test_gains_are_means_of_paired_differences(tmp_path):
    """IsoMax+ by MDS, SoftMax by MPS as in the release, beside one score for both; Student's interval of the mean."""
    theirs, ours = {1: 0.80, 2: 0.82, 3: 0.84}, {1: 0.85, 2: 0.86, 3: 0.90}
    for seed in (1, 2, 3):
        run_on(tmp_path, "softmax", seed, 0.91, {"cifar100": {"MPS": theirs[seed], "MDS": theirs[seed] + 0.03}})
        run_on(tmp_path, "isomaxplus", seed, 0.90, {"cifar100": {"MPS": ours[seed] - 0.02, "MDS": ours[seed]}})
    run_on(tmp_path, "isomaxplus", 4, 0.5, {"cifar100": {"MPS": 0.1, "MDS": 0.1}})  # SoftMax has no such seed
    found = gains(tmp_path)
    assert list(zip(found.quantity, found.score, found.softmax_score)) == [
        ("accuracy", "", ""), ("cifar100", "MDS", "MPS"), ("cifar100", "MPS", "MPS"), ("cifar100", "MDS", "MDS")]
    each = np.array([5, 4, 6])
    assert found["mean"].tolist() == pytest.approx([-1, each.mean(), each.mean() - 2, each.mean() - 3])
    assert found["n"].tolist() == [3] * 4 and found["seeds"].tolist() == ["1 2 3"] * 4
    low, high = stats.t.interval(0.95, 2, each.mean(), stats.sem(each))
    assert (found.low[1], found.high[1], found["std"][1]) == pytest.approx((low, high, 1))
    assert found.due_to_score[2:].tolist() == pytest.approx([2, 3]) and found.due_to_score[:2].isna().all()


def test_only_the_same_images_and_the_same_recipe_are_compared(tmp_path):
    run_on(tmp_path, "softmax", 1, 0.9, {"cifar100": {"MPS": 0.8}, "svhn": {"MPS": 0.8}})
    run_on(tmp_path, "dismax", 1, 0.9, {"cifar100": {"MPS": 0.9}}, images=9_000)
    run_on(tmp_path, "isomax", 1, 0.9, {"svhn": {"ES": 0.9}}, overrides={"epochs": {"published": 30, "used": 1}})
    found = gains(tmp_path)
    assert list(zip(found.method, found.quantity)) == [("dismax", "accuracy")]
    assert found.n[0] == 1 and math.isnan(found.low[0])


def test_openoods_sets_are_compared_in_the_mean_over_what_both_have(tmp_path):
    for method, gain in (("softmax", 0), ("dismax", 0.01)):
        rows = [("openood", name, "near", "last", score, "auroc", value + gain * (score == "average"))
                for name, value in (("cifar100", 0.8), ("tinyimagenet", 0.9)) for score in ("average", "logit-average")]
        rows += [("openood", name, "near", "last", "", "images", 100) for name in (
            "cifar100", *(["tinyimagenet"] if method == "dismax" else []))]
        made_up_run(tmp_path, "cifar10", "resnet20", method, 1, rows)
    found = gains(tmp_path)
    assert list(zip(found.quantity, found.score)) == [("near sets", "average"), ("near sets", "logit-average")]
    assert found["mean"].tolist() == pytest.approx([1, 0], abs=1e-9)


def test_the_table_says_pairs_of_scores_and_n(tmp_path):
    for seed in (1, 2):
        run_on(tmp_path, "softmax", seed, 0.91, {"cifar100": {"MPS": 0.8, "MDS": 0.81}})
        run_on(tmp_path, "dismax", seed, 0.90 + seed / 1000, {"cifar100": {"MPS": 0.82 + seed / 100, "MDS": 0.82}})
    script("analyze.py", "--results-dir", tmp_path)
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")]
             for line in (tmp_path / "tables/dismax_cifar10_paired.md").open() if line.startswith("|")][2:]
    assert lines[0][:5] == ["DisMax", "ACC", "", "2", "-0.85 ± 0.07"]
    assert lines[1][1:5] == ["CIFAR-100 AUROC", "MPS", "2", "+3.50 ± 0.71"]
    assert lines[2][1:] == ["CIFAR-100 AUROC", "MDS", "2", "+1.00 ± 0.00", "+1.00 to +1.00", "+2.50"]


def test_without_softmax_there_is_no_table(tmp_path):
    run_on(tmp_path, "dismax", 1, 0.9, {"cifar100": {"MPS": 0.9}})
    assert gains(tmp_path).empty
