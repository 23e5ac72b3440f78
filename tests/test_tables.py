"""The tables: labels that are true, guards on images, defaults for unknown names, costs, speed."""
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, made_up_run, printed, script
from made_up import FAR, NEAR, ensemble, single

from data.subsets import OpenSplits
from engine import metric_rows
from engine.inference import Outputs
from metrics.calibration import probabilities_of
from reporting import corrupted, dismax, ood_sets, openood
from reporting.comparison import Column, compare
from reporting.load import read_runs
from reporting.verdicts import OUTSIDE, verdict

CHANGED = {"epochs": {"published": 300, "used": 1}}


def rows_of(folder, name):
    """The body of the first Markdown table of a file, cells stripped; a method's name repeated in each of its rows."""
    text = (folder / f"tables/{name}.md").read_text()
    lines = re.search(r"(?:^\|.*\n)+", text, re.M)[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[2:]]
    for k in range(1, len(rows)):
        rows[k][0] = rows[k][0] or rows[k - 1][0]
    return rows


# ---- labels ----

def test_as_published_stands_only_before_rows_that_were_published(tmp_path):
    single(tmp_path, "softmax", 1, 0.956)
    single(tmp_path, "isomax", 1, 0.95, score="ES")  # trained by the scripts, in no table of the paper
    single(tmp_path, "softmax", 2, 0.9, overrides=CHANGED)
    single(tmp_path, "mine", 1, 0.97)
    single(tmp_path, "softmax", 1, 0.9, model="resnet20")
    for method in ("de", "adp", "adp_stable", "dismax-5-gradcam", "softmax"):
        ensemble(tmp_path, method, 1, 0.9)
    printed(tmp_path)
    labels = {(row[0], row[1]) for row in rows_of(tmp_path, "dismax_cifar10") if row[1].startswith("ours")}
    assert labels >= {
        ("SoftMax (baseline)", "ours, as published, n = 1/5"), ("IsoMax", "ours, release's protocol, n = 1"),
        ("SoftMax (baseline)", "ours, release's protocol, n = 1/5, SHORTENED: epochs 1 (published 300)"),
        ("mine", "ours, release's protocol, n = 1"), ("DisMax†", "ours: no run")}
    labels = {(row[0], row[1]) for row in rows_of(tmp_path, "openood_mnist") if row[1].startswith("ours")}
    assert labels == {
        ("DE", "ours, as published, n = 1/5"), ("DE", "ours, common score, n = 1/5"), ("NCL", "ours: no run"),
        ("ADP", "ours, as published, n = 1/5"), ("ADP", "ours, common score, n = 1/5"), ("DICE", "ours: no run"),
        ("ADP, stable form", "ours, release's protocol, n = 1"), ("ADP, stable form", "ours, common score, n = 1"),
        ("SDDE", "ours: no run"), ("dismax-5-gradcam", "ours, common score, n = 1"),
        ("SoftMax", "ours, common score, n = 1")}


def test_what_is_in_neither_paper_is_named_so(tmp_path):
    single(tmp_path, "softmax", 1, 0.9, model="resnet20")
    single(tmp_path, "softmax", 1, 0.956)
    single(tmp_path, "mine", 1, 0.956)
    said = printed(tmp_path)
    assert "ResNet-20 on CIFAR-10 is in neither paper." in said
    assert "Without a published row: mine. Not registered, so listed under its own name: mine." in said


def test_the_star_marks_only_what_a_release_scores(tmp_path):
    for method in ("de", "adp", "adp_stable", "softmax", "dismax-5-gradcam"):
        ensemble(tmp_path, method, 1, 0.9)
    printed(tmp_path)
    starred = {row[1]: sum("*" in cell for cell in row) for row in rows_of(tmp_path, "openood_mnist_scores")}
    assert starred == {"DE": 1, "ADP": 1, "ADP, stable form": 0, "SoftMax": 0, "dismax-5-gradcam": 0}


def test_names_of_no_registry_get_a_row_a_note_and_a_default_score(tmp_path):
    """A method, a network, a data set, an OOD set and a score that nobody knows."""
    rows = [("dismax", "mine", "id", "last", "", "accuracy", 0.9), ("dismax", "mine", "id", "last", "", "images", 10),
            ("dismax", "theirs", "near", "last", "", "images", 10),
            *(("dismax", "theirs", "near", "last", score, "aupr_out", value) for score, value in (
                ("MPS", 0.75), ("GEN", 0.5)))]
    made_up_run(tmp_path, "mine", "tiny", "new", 1, rows)
    made_up_run(tmp_path, "digits", "tiny", "de-2-new", 1, [("openood", "digits", "id", "best", "", "accuracy", 0.9)])
    said = printed(tmp_path)
    assert "near: theirs AUPR (%)" in said and "75.00" in said and "tiny on mine is in neither paper." in said
    assert "Not registered, so listed under its own name: new." in said and "tiny on digits 0–6" in said
    assert printed(tmp_path, "--dataset", "mine").count("mine, dismax, tiny") == 1


# ---- images ----

def test_300_images_are_never_judged(tmp_path):
    """The same guard and the same sentence in both benchmarks; and complete ones are judged."""
    for seed in (1, 2):
        single(tmp_path, "softmax", seed, 0.956, notes={"cifar100": "300 of its 10,000 images"})
        ensemble(tmp_path, "de", seed, 0.5, notes={"notmnist": "300 of the 17,724 images that OpenOOD lists"})
    said = printed(tmp_path)
    assert "cifar100: 300 of its 10,000 images." in said
    assert "notmnist: 300 of the 17,724 images that OpenOOD lists." in said
    verdicts = [row for row in rows_of(tmp_path, "dismax_cifar10") if row[1] == "Δ to the paper"][0]
    assert verdicts[2].endswith(" ok") and verdicts[5] == "+0.00 ?" and verdicts[6] == "+0.00 ok"
    verdicts = [row for row in rows_of(tmp_path, "openood_mnist") if row[1] == "Δ to the paper"][0]
    assert verdicts[6].endswith(" ?") and verdicts[7].endswith(OUTSIDE)


def test_images_and_their_notes_come_from_the_manifest_and_the_catalog(tmp_path, data_dir):
    """A verified whole has no note; an unverified one, or a part of it, says so."""
    data = tmp_path / "data"
    shutil.copytree(data_dir, data)

    def row(name, group, count):
        outputs = Outputs(np.zeros((1, count, 7), np.float32), np.zeros(count, np.int64), np.arange(count))
        return metric_rows.images_row(OpenSplits(data, "digits").get(name), group, outputs)

    assert row("digits", "id", 419) == ("dismax", "digits", "id", "", "images", 419, "")
    assert row("digits_789", "near", 300)[-1] == "300 of its 533 images"
    manifest = data / "digits_789/manifest.json"
    manifest.write_text(manifest.read_text().replace('"verified": true', '"verified": false'))
    assert row("digits_789", "near", 533)[-1] == "from files that no checksum covers"
    assert row("digits_789", "near", 300)[-1] == "300 of its 533 images, from files that no checksum covers"


def test_the_releases_ece_is_measured_beside_the_least_one():
    """And marks a run that the release drops: logits so large that its search ends at the bound 0.001."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 10, (400, 7))
    labels = (probabilities_of(logits, 0.1).cumsum(1) < rng.random((400, 1))).sum(1)
    found, fitted = metric_rows.quality_metrics(logits, labels)
    value, note = found["ece_as_published"]
    assert note.startswith("dropped by the release") and found["temperature_as_published"] == (0.001, note)
    assert value == pytest.approx(1 - found["accuracy"][0]) and found["ece_fitted_on_test"][0] < value
    assert fitted["temperature_as_published"] == 0.001
    found, _ = metric_rows.quality_metrics(logits / 10, labels)
    assert found["ece_as_published"][1] == ""


def test_every_single_set_with_its_images(tmp_path):
    for seed, auroc in ((1, 0.90), (2, 0.94)):
        ensemble(tmp_path, "gradcam", seed, {"minmax": auroc, "logit-average": 0.8}, notes={
            "notmnist": "300 of the 17,724 images that OpenOOD lists", "textures": ood_sets.UNVERIFIED})
    ensemble(tmp_path, "softmax", 1, 0.7, sets=NEAR[1:])
    printed(tmp_path)
    table = pd.read_csv(tmp_path / "tables/openood_mnist_sets.csv")
    table = table.set_index(["dataset", "method", "score"]).sort_index()
    row = table.loc["fashion_mnist", "gradcam", "minmax"]  # 0.02 less than the mean of the group
    assert row.auroc == pytest.approx(90) and row.auroc_std == pytest.approx(4 / 2**0.5) and row.n == 2
    assert row.fpr95 == pytest.approx(10) and row.status == "complete"
    assert table.loc["notmnist", "gradcam", "minmax"].status == "other"
    assert table.loc["textures", "gradcam", "logit-average"].status == "complete, unverified"
    assert set(table.loc["fashion_mnist", "softmax"].index) == {"average", "logit-average"}, "MPS and MDS"
    assert set(table.loc["textures"].index.get_level_values("method")) == {"gradcam"}


# ---- calibration in tables ----

def test_the_published_ece_is_the_releases_and_a_dropped_seed_is_shown(tmp_path):
    single(tmp_path, "softmax", 1, 0.956, ece=0.0050)
    single(tmp_path, "softmax", 2, 0.956, ece=0.0070)
    single(tmp_path, "softmax", 3, 0.956, ece=0.05, dropped="dropped by the release")
    single(tmp_path, "isomaxplus", 1, 0.956, ece=0.04, dropped="dropped by the release", score="MDS")
    said = printed(tmp_path)
    ours = {row[0]: row for row in rows_of(tmp_path, "dismax_cifar10") if row[1].startswith("ours, as published")}
    assert ours["SoftMax (baseline)"][3] == "0.0060 ± 0.0014 (n = 2)"
    assert ours["SoftMax (baseline)"][4] == "0.0186 ± 0.0229", "the true minimum leaves out nobody"
    assert ours["IsoMax+"][3] == "dropped"
    assert "SoftMax (baseline), ECE: 1 of 3 seeds dropped" in said and "IsoMax+, ECE: 1 of 1 seeds dropped" in said


@pytest.mark.parametrize("theirs, std", [(0.0043, 0.0008), (0.0045, 0.0021), (0.0060, 0.0013), (0.0272, 0.0032)])
@pytest.mark.parametrize("our_std", [0.0, 0.003])
def test_no_spread_makes_an_ece_pass_that_is_wrong_by_a_factor_of_two(theirs, std, our_std):
    """Even 0.0045 ± 0.0021, whose statistical tolerance is more than half of it; one that is right passes."""
    column = Column("ECE", "id", ("cifar10",), "ece", 1, 4, "ece", 4, tau=0.25, relative=True)
    paper = {"ece": theirs, "ece_std": std, "seeds": 5}
    for factor, word in ((2, OUTSIDE), (0.5, OUTSIDE), (1.2, "ok"), (0.8, "ok")):
        values = [factor * theirs + our_std * shift for shift in (-1, -1, 0, 1, 1)]
        assert verdict(column, paper, values).verdict == word, factor


def test_calibration_under_corruption(tmp_path):
    """Means over the 15 corruptions, not over the four for validation; the clean images beside them."""
    for seed, ece in ((1, 0.10), (2, 0.14)):
        rows = [("openood", "cifar10", "id", "best", "", metric, value) for metric, value in (
            ("images", 9_000), ("accuracy", 0.95), ("ece", 0.01), ("ece_uncalibrated", 0.03), ("nll", 0.2),
            ("brier", 0.1))]
        for severity, name, factor in (
                (1, "fog", 1), (1, "snow", 3), (5, "fog", 4), (5, "snow", 4), (5, "spatter", 9)):
            place = "openood", f"cifar10_c_{name}", f"corrupted_{severity}", "best", ""
            rows += [(*place, "images", 9_000, "made here" if name == "fog" else ""),
                     (*place, "accuracy", 0.9), (*place, "ece", factor * ece / 4),
                     (*place, "ece_clean_temperature", factor * ece / 2)]
        made_up_run(tmp_path, "cifar10", "resnet18_32x32", "de", seed, rows)
    said = printed(tmp_path, "--corrupted")
    assert "CIFAR-10: calibration under corruption" in said and "CIFAR-10, openood" not in said
    cells = {row[0]: row for row in rows_of(tmp_path, "corrupted_cifar10")}
    # own T: mean over fog and snow of 1 and 3 quarters; over seeds 0.05 and 0.07
    assert cells["1"][1:5] == ["DE", "2", "2", "90.00 ± 0.00"] and cells["1"][6] == "0.0600 ± 0.0141"
    assert cells["1"][7] == "0.1200 ± 0.0283" and cells["5"][6] == "0.1200 ± 0.0283" and cells["5"][3] == "2"
    assert cells["0 (clean)"][4:8] == ["95.00 ± 0.00", "0.0300 ± 0.0000", "0.0100 ± 0.0000", "0.0100 ± 0.0000"]
    assert "made here." in said and not (tmp_path / "tables/openood_cifar10.md").exists()
    assert "calibration under corruption" in printed(tmp_path)
    tidy = pd.DataFrame(corrupted.rows_of("cifar10", read_runs(tmp_path).runs))
    assert tidy[(tidy.severity == 5) & (tidy.seed == 1) & (tidy.column == "ECE, own T")].value.item() == 0.1


def test_without_corrupted_images_it_is_said_how_to_get_them(tmp_path):
    ensemble(tmp_path, "de", 1, 0.9)
    done = script("analyze.py", "--results-dir", tmp_path, "--corrupted", check=False)
    assert done.returncode == 1 and "no run was evaluated on corrupted images" in done.stderr


# ---- costs ----

def test_costs_are_medians_and_ratios_of_the_same_seed_and_device(tmp_path):
    device = {"sessions": [{"device": "another"}]}
    for seed, seconds in ((1, 100), (2, 300)):
        ensemble(tmp_path, "de", seed, 0.9, train_seconds=seconds)
    for seed, seconds, more in ((1, 300, {}), (2, 600, {}), (3, 900, {}), (4, 9_000, device)):
        ensemble(tmp_path, "gradcam", seed, 0.9, train_seconds=seconds, **more)
    printed(tmp_path)
    costs = {row[0]: row[-2:] for row in rows_of(tmp_path, "openood_mnist") if row[1].startswith("ours, as published")}
    assert costs == {"DE": ["200", "1.0"], "SDDE": ["750", "2.5"]}, "of seeds 1 and 2: 3 and 2 times"


# ---- speed ----

def test_starting_does_not_import_torch_or_pandas():
    code = "import sys, analyze; sys.exit(bool({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_many_runs_are_read_and_laid_out_quickly(tmp_path):
    """70 runs with as many rows as real ones have, a fifth of 350: far below a fifth of 8 seconds on an idle core."""
    for method in ("softmax", "isomax"):
        for seed in range(1, 36):
            rows = [("dismax", name, group, checkpoint, f"score {k}", metric, 0.5)
                    for name, group in (("cifar100", "near"), ("svhn", "very_far"), ("lsun_resize", "far"))
                    for checkpoint in ("last", "best") for k in range(20) for metric in (
                        "auroc", "aupr_in", "aupr_out", "fpr95", "tnr95", "dtacc", "auroc_published", "tnr95_published",
                        "aupr_out_published", "dtacc_published")]
            made_up_run(tmp_path, "cifar10", "resnet34", method, seed, rows)
    started = time.process_time()
    runs = read_runs(tmp_path).runs
    compare(dismax.BENCHMARK, "cifar10", runs)
    compare(openood.BENCHMARK, "cifar10", runs)
    assert len(runs) == 70 and time.process_time() - started < 4, "a machine may be slow, not twenty times"


def test_every_ood_set_of_a_group_is_in_a_column():
    found = [column for column in openood.columns("mnist", []) if column.metric == "auroc"]
    assert [column.datasets for column in found] == [NEAR, FAR] and [column.tau for column in found] == [1.0, 1.5]
