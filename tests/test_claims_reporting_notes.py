"""What is concluded from runs: which rows are judged, notes under a table, gains, selected epochs."""
import math
from pathlib import Path

import numpy as np
import pytest
from in_memory import cell, in_memory, line, mnist_run

from reporting import (
    check,
    comparison,
    epoch_selection,
    notes,
    openood,
    paired_gains,
    papers,
    softmax_gains,
)
from reporting.comparison import Column
from reporting.load import LeftOut, Results

CHANGED = "lr 1 (published 2)"


# ---- check ----

def test_why_a_row_is_not_judged():
    def judged(cells, changed="", **more):
        return check.judge([line([in_memory("de")], cells=cells, changed=changed, **more)])
    good = cell(column="near", paper=1.0, paper_n=5, ours=1.0, ours_n=5, verdict="ok")
    quoted = cell(column="own")
    assert judged([good, quoted]) == ({}, [good])
    few = good._replace(ours_n=3, dropped_n=1, column="far")
    assert judged([few, good])[0] == {"too few seeds": "n = 4, the paper has 5"}
    assert judged([few._replace(dropped_n=2), good])[0] == {}
    missing = good._replace(ours_n=0, column="ECE")
    assert judged([missing, good, few])[0] == {"too few seeds": "n = 4, the paper has 5", "sets missing": "no ECE"}
    other, another = good._replace(verdict="?", column="far"), good._replace(verdict="?", column="ACC")
    assert judged([other, good, another])[0] == {
        "other images": "missing sets or other images than the paper's in far, ACC"}
    assert check.judge([line(cells=[good])]) == ({"no run": "no run"}, [])
    both = [line([in_memory("de")], changed=change) for change in ("a", "b")]
    assert check.judge(both) == ({"changed recipe": "changed recipe, a; b"}, [])
    assert check.judge([both[0], line([in_memory("de")], cells=[good])]) == ({}, [good])


def test_a_cell_outside_is_told_with_its_numbers():
    said = check.describe(cell(column="near", ours=1.23456, ours_n=3, paper=2.34567, delta=-1.111, tolerance=0.4567))
    assert said == "near: ours 1.235 (n = 3), paper 2.346, Δ -1.11, tolerance 0.457"


def test_check_counts_rows_and_reasons():
    paper = next(row for row in papers.sdde() if (row["id_dataset"], row["method"]) == ("mnist", "de"))
    runs = [mnist_run(seed=seed, near=paper["near_auroc"] / 100 - 0.1) for seed in (1, 2)]
    said, outside = check.check(runs, "mnist")
    methods = sum(bool(row["method"]) and row["id_dataset"] == "mnist" for row in papers.sdde())
    assert outside == 0 and said[-1] == (
        f"{methods} published rows: 0 judged, 0 cells outside their tolerance; {methods} not judged ({methods - 1} no "
        "run, 1 too few seeds, 1 other images; a row can have several reasons)")
    assert said[0].startswith("not judged  mnist, LeNet, ") and "n = 2, the paper has 5; missing sets" in said[0]
    assert len(said) == 2
    every = list(check.published_rows([]))
    assert len(every) == sum(bool(row["method"]) for row in [*papers.dismax(), *papers.sdde()])
    assert all(row.why == {"no run": "no run"} and not row.cells and not row.outside for row in every)


# ---- notes ----

def test_the_note_names_runs_devices_and_what_no_paper_has():
    runs = [mnist_run(seed=1, device="B"), mnist_run(seed=2, device="A"), mnist_run("own", members=5, device="A")]
    lines = comparison.compare(openood.BENCHMARK, "mnist", runs)
    results = Results(runs, [LeftOut(Path("r/mnist/lenet/de/seed9"), "mnist", "lenet", "de", "it is cut"),
                             LeftOut(Path("r/mnist/other/de/seed9"), "mnist", "other", "de", "other"),
                             LeftOut(Path("r/digits/lenet/de/seed9"), "digits", "lenet", "de", "other")])
    columns = openood.columns("mnist", runs)
    said = notes.notes_of(openood.BENCHMARK, "mnist", "lenet", lines, columns, results)
    assert said.startswith("3 runs on A, B. Without a published row: own. Not registered, so listed under its own "
                           "name: own. ")
    assert said.endswith("Left out: mnist/lenet/de/seed9: it is cut.") and said.count("Left out") == 1
    assert "far is a mean over 1 of 4 sets: " in said and "near is a mean" not in said
    assert list(notes.left_out_notes(results, "mnist"))[1] == "Left out: mnist/other/de/seed9: other."
    assert len(list(notes.left_out_notes(results, "mnist"))) == 2
    assert "1 run on A. LeNet on" in notes.notes_of(
        openood.BENCHMARK, "digits", "lenet", [line([in_memory("de", device="A")])], [], results)


def test_dropped_seeds_are_told():
    lines = [line(cells=[cell(column="ECE", ours_n=3, dropped_n=2), cell()], title="IsoMax")]
    assert list(notes._dropped(lines)) == ["IsoMax, ECE: 2 of 5 seeds dropped, as in the release, since the "
                                           "temperature search ended at a bound."]


def test_notes_of_images_stand_once_and_missing_records_are_told():
    runs = [mnist_run(notes={"notmnist": "a part"}), mnist_run(seed=2, notes={"notmnist": "a part"}),
            in_memory("de", 3, [("openood", "fashion_mnist", "near", "best", "average", "auroc", 0.9)])]
    column = [Column("near", "near", ("notmnist", "fashion_mnist", "absent"), "auroc"),
              Column("far", "far", ("gone",), "auroc")]
    assert list(notes.image_notes(openood.BENCHMARK, runs, column)) == [
        "near is a mean over 2 of 3 sets: absent missing.", "notmnist: a part."]
    two = [Column("near", "near", ("fashion_mnist", "gone"), "auroc")]
    assert list(notes.image_notes(openood.BENCHMARK, runs, two)) == ["near is a mean over 1 of 2 sets: gone missing."]
    assert list(notes.image_notes(openood.BENCHMARK, runs[2:], column)) == [
        "near is a mean over 1 of 3 sets: notmnist, absent missing.",
        "fashion_mnist: the images that were used are not recorded."]


# ---- gains over DE and over SoftMax ----

def test_gains_over_de_need_the_same_seed_and_have_the_papers_gain_at_the_best_epoch():
    runs = [mnist_run(), mnist_run("gradcam", near=0.95), mnist_run("gradcam", 2), mnist_run("isomax"),
            mnist_run("adp", score_files=True), mnist_run("ncl", changed=CHANGED)]
    rows = paired_gains.rows_of("mnist", runs)
    assert {row["method"] for row in rows} == {"gradcam"} and {row["seeds"] for row in rows} == {"1"}
    each = [row for row in rows if row["kind"] == "each script's score"]
    assert [(row["checkpoint"], row["ood_group"]) for row in each] == [
        ("best", "near"), ("best", "far"), ("last", "near"), ("last", "far")]
    assert each[0]["mean"] == pytest.approx(9) and each[0]["score"] == "minmax" and each[0]["de_score"] == "average"
    theirs = {row["method"]: row for row in papers.sdde() if row["id_dataset"] == "mnist" and row["model"] == "lenet"}
    assert each[1]["paper"] == theirs["gradcam"]["far_auroc"] - theirs["de"]["far_auroc"]
    assert math.isnan(each[2]["paper"]) and paired_gains.rows_of("mnist", runs[1:]) == []
    assert paired_gains.rows_of("digits", runs) == []
    table, = paired_gains.sections("mnist", rows, runs)
    assert table.rows[0][4] == f"{each[0]['paper']:+.2f}" and table.rows[0][:4] == ["SDDE", "", "paper", ""]
    assert [row[1:3] for row in table.rows[1:]] == [
        ["best epoch", "each script's score: minmax, DE: average"], ["best epoch", "one score: average"],
        ["best epoch", "one score: logit-average"], ["best epoch", "one score: minmax"],
        ["last epoch", "each script's score: minmax, DE: average"], ["last epoch", "one score: logit-average"]]
    assert table.rows[1][3:7] == ["1", "+9.00", "n = 1", ""] and table.rows[2][6] == "+4.00 (44 %)"
    assert table.headers[:4] == ["method − DE", "checkpoint", "scored with", "n"]


def test_a_group_that_a_gain_has_no_sets_of_is_missing():
    row = {"checkpoint": "best", "kind": paired_gains.ONE_SCORE, "score": "MAL", "de_score": "MAL", "n": 2, "mean": 1.5,
           "std": 0.5, "low": -1.0, "high": 4.0, "due_to_score": 0.25, "share": 0.5, "ood_group": "far"}
    assert paired_gains._line([row], of_paper=True)[2:] == [
        "2", "missing", "", "", "+1.50 ± 0.50", "-1.00 to +4.00", "+0.25 (50 %)"]


def test_the_interval_of_gains():
    found = paired_gains.gain_summary(np.array([1.0, 3.0]))
    half = 12.706205 * math.sqrt(2) / math.sqrt(2)
    assert found == pytest.approx({"n": 2, "mean": 2, "std": math.sqrt(2), "low": 2 - half, "high": 2 + half}, abs=1e-5)
    assert paired_gains._signed(1.234, 0.5) == "+1.23 ± 0.50" and paired_gains._signed(-1.0) == "-1.00"
    assert paired_gains._signed(math.nan) == "–"


# ---- selected epochs ----

def test_the_selected_epoch_and_what_it_changes():
    log = [{"epoch": 1, "diversity": 0.5, "dead_maps": 0.1}, {"epoch": 2, "diversity": 0.2, "dead_maps": 0.3}]
    runs = [mnist_run("gradcam", 2, log=log, best_epoch=9), mnist_run("gradcam", 1, log=log), mnist_run(log=log[:1]),
            mnist_run("adp"), mnist_run("isomax", log=log), mnist_run("ncl", log=log, dataset="digits")]
    rows = epoch_selection.rows_of("mnist", runs)
    assert [(row["method"], row["seed"]) for row in rows] == [("gradcam", 2), ("gradcam", 1), ("de", 1)]
    row = rows[0]
    assert (row["best_epoch"], row["epochs"], row["best_accuracy"], row["last_accuracy"]) == (9, 300, 90, 80)
    assert [row[f"{group}_{when}"] for group in ("near", "far") for when in ("best", "last")] == pytest.approx(
        [92, 82, 82, 72])
    assert (row["diversity_first"], row["diversity_last"], row["dead_maps_first"], row["dead_maps_last"]) == (
        0.5, 0.2, 0.1, 0.3)
    table, = epoch_selection.sections(rows)
    assert [one[:3] for one in table.rows] == [["DE", "1", "7 of 300"], ["SDDE", "2", "7, 9 of 300"]]
    assert table.rows[1][3:] == ["90.00 ± 0.00", "80.00 ± 0.00", "92.00 ± 0.00", "82.00 ± 0.00", "82.00 ± 0.00",
                                 "72.00 ± 0.00", "0.500 ± 0.000", "0.200 ± 0.000", "10.00 ± 0.00", "30.00 ± 0.00"]
    assert table.name == "LeNet" and table.note == "" and len(table.headers) == len(table.rows[0])
    bare = epoch_selection.row_of(in_memory("de", log=[{"epoch": 1}]))
    assert math.isnan(bare["near_best"]) and math.isnan(bare["diversity_first"])


# ---- gains over SoftMax ----

def single_run(method, seed=1, scores=None, accuracy=0.9, near=None, images=100, **more):
    """A run on CIFAR-10: scores of SVHN (very far), and near sets of the openood benchmark."""
    rows = [("dismax", "cifar10", "id", "last", "", "accuracy", accuracy),
            ("dismax", "cifar10", "id", "last", "", "images", 9)]
    rows += [("dismax", "svhn", "very_far", "last", "", "images", images)] * (scores is not None)
    rows += [("dismax", "svhn", "very_far", "last", name, "auroc", value) for name, value in (scores or {}).items()]
    for name in ("cifar100", "tinyimagenet") if near is not None else ():
        rows += [("openood", name, "near", "last", "", "images", 9), ("openood", name, "near", "last", "average",
                                                                      "auroc", near),
                 ("openood", name, "near", "last", "logit-average", "auroc", near + 0.01)]
    return in_memory(method, seed, rows, "cifar10", "resnet20", **more)


def test_gains_over_softmax_are_laid_out_by_method_and_score():
    runs = [single_run("softmax", 1, {"MPS": 0.80, "MDS": 0.82}, 0.90, 0.7),
            single_run("softmax", 2, {"MPS": 0.80, "MDS": 0.82}, 0.92),
            single_run("dismax", 1, {"MMLES": 0.90, "MPS": 0.85, "MDS": 0.86}, 0.91, 0.75),
            single_run("dismax", 2, {"MMLES": 0.94, "MPS": 0.85, "MDS": 0.86}, 0.93),
            single_run("isomax", 1, {"ES": 0.5}, images=7),
            single_run("de", 1), single_run("isomaxplus", 1, score_files=True), single_run("dismax", 3, {"MMLES": 0.1})]
    rows = softmax_gains.rows_of("cifar10", runs)
    table, = softmax_gains.sections(rows)
    assert table.rows == [
        ["IsoMax", "ACC", "", "1", "+0.00", "n = 1", ""],
        ["DisMax", "ACC", "", "2", "+1.00 ± 0.00", "+1.00 to +1.00", ""],
        ["", "SVHN AUROC", "MMLES, SoftMax: MPS", "2", "+12.00 ± 2.83", "-13.41 to +37.41", ""],
        ["", "SVHN AUROC", "MPS", "2", "+5.00 ± 0.00", "+5.00 to +5.00", "+7.00"],
        ["", "SVHN AUROC", "MDS", "2", "+4.00 ± 0.00", "+4.00 to +4.00", "+8.00"],
        ["", "near sets AUROC", "average", "1", "+5.00", "n = 1", ""],
        ["", "near sets AUROC", "logit-average", "1", "+5.00", "n = 1", ""]]
    assert table.name == "ResNet-20" and table.note == ""
    assert rows[1]["seeds"] == "1 2" and rows[-1]["ood_group"] == "near"
    assert softmax_gains.rows_of("cifar10", runs[2:]) == [] == softmax_gains.rows_of("cifar100", runs)
    changed = [single_run(method, changed=CHANGED) for method in ("softmax", "dismax")]
    assert [one.note for one in softmax_gains.sections(softmax_gains.rows_of("cifar10", [*changed, *runs[:3]]))] == [
        f"CHANGED RECIPE: {CHANGED}.", ""]
