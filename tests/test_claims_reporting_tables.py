"""What the tables of comparison say of runs: labels, cells, costs, scores, verdicts."""
import math
from dataclasses import replace

import pytest
from in_memory import COMMON, PUBLISHED, cell, in_memory, line, mnist_run

from reporting import (
    comparison,
    dismax,
    openood,
    verdicts,
)
from reporting.comparison import Column
from reporting.load import Results
from reporting.verdicts import OUTSIDE, number, verdict

CHANGED = "lr 1 (published 2)"


# ---- costs ----

def test_costs_are_medians_of_seconds_and_of_ratios_on_the_same_seed_and_device():
    des = [in_memory("de", 1, seconds=100), in_memory("de", 2, seconds=200),
           in_memory("de", 3, seconds=50, device="GPU")]
    ours = [in_memory("ncl", 1, seconds=1250), in_memory("ncl", 2, seconds=3000), in_memory("ncl", 3, seconds=9000),
            in_memory("ncl", 4, seconds=None)]
    of_model = [line(des), line(ours, "ncl"), line([in_memory("de", 1, seconds=1)], changed=CHANGED),
                line([in_memory("adp", 1, seconds=1)], "adp")]
    assert comparison.costs_of(of_model[1], of_model, "de") == ["3,000", "13.8"]  # of 12.5 and 15; seed 3 has no pair
    assert comparison.costs_of(of_model[0], of_model, "de") == ["100", "1.0"]
    assert comparison.costs_of(of_model[1], of_model[1:], "de") == ["3,000", ""], "a changed DE is another recipe"
    assert comparison.costs_of(line([in_memory("ncl", 1, seconds=None)], "ncl"), of_model, "de") == ["", ""]
    assert comparison.costs_of(line([in_memory("adp", 1, seconds=70)], "adp"),
                               [line([in_memory("de", 1, seconds=None)])],
                               "de") == ["70", ""]


# ---- lines and cells ----

@pytest.mark.parametrize("changes, seeds, said", [
    ({"paper": {"seeds": 5.0}}, 3, "ours, as published, n = 3/5"),
    ({}, 2, "ours, release's protocol, n = 2"),
    ({"protocol": COMMON}, 2, "ours, common score, n = 2"),
    ({"paper": {"seeds": 5.0}, "changed": "epochs 1 (published 9)"}, 1,
     "ours, release's protocol, n = 1/5, SHORTENED: epochs 1 (published 9)"),
    ({"changed": CHANGED}, 1, f"ours, release's protocol, n = 1, CHANGED: {CHANGED}"),
    ({"method": "", "paper": {"seeds": 5.0}}, 0, "ours, release's protocol, n = 0/5"),
    ({"runs": [in_memory("a"), in_memory("a", score_files=True)]}, 2, "scores from files, release's protocol, n = 2")])
def test_labels_say_protocol_seeds_and_changes(changes, seeds, said):
    assert comparison.label_of(line(**changes), seeds) == said


def test_a_cell_is_the_mean_over_the_columns_sets_of_each_seed():
    column = Column("near", "near", ("notmnist", "fashion_mnist"), "auroc", paper="near_auroc", tau=1.0)
    runs = [mnist_run(seed=1, near=0.90), mnist_run(seed=2, near=0.94), in_memory("de", 3)]
    paper = {"seeds": 5.0, "near_auroc": 92.4, "near_auroc_std": 0.1}
    found = comparison.cell_of(openood.BENCHMARK, column, PUBLISHED, runs, paper)
    assert found.ours == pytest.approx(92) and found.ours_n == 2 and found.dropped_n == 0 and found.column == "near"
    assert found.delta == pytest.approx(-0.4) and found.verdict == "?", "the third run has no images"
    found = comparison.cell_of(openood.BENCHMARK, column, PUBLISHED, runs[:2], paper)
    assert found.verdict == "ok"
    common = comparison.cell_of(openood.BENCHMARK, column, COMMON, runs[:2], paper)
    assert common.ours == pytest.approx(94)
    other = comparison.cell_of(openood.BENCHMARK, column, PUBLISHED, [mnist_run(changed=CHANGED)], paper)
    assert other.verdict == "" and other.ours == pytest.approx(90)
    assert comparison.cell_of(openood.BENCHMARK, column, PUBLISHED, [], paper).verdict == ""


def test_what_the_release_drops_is_counted_and_not_averaged():
    column = Column("ECE", "id", ("mnist",), "ece", 1, 4)
    runs = [in_memory("de", seed, [("openood", "mnist", "id", "best", "", "ece_published", value, note)])
            for seed, value, note in ((1, 0.1, ""), (2, 0.9, "dropped"), (3, 0.3, ""))]
    found = comparison.cell_of(openood.BENCHMARK, column, PUBLISHED, runs, None)
    assert (found.ours, found.ours_n, found.dropped_n) == (pytest.approx(0.2), 2, 1)
    assert math.isnan(found.paper) and found.verdict == ""


def test_images_are_complete_where_each_set_is_recorded_without_a_note():
    column = Column("near", "near", ("notmnist", "fashion_mnist"), "auroc")
    def complete(run):
        return comparison.is_complete(run, openood.BENCHMARK, PUBLISHED, column)
    assert complete(mnist_run()) and not complete(mnist_run(notes={"fashion_mnist": "a part"}))
    assert complete(mnist_run(notes={"textures": "a part"})) and not complete(in_memory("de"))


def test_a_table_shows_what_is_missing_dropped_and_of_fewer_seeds():
    column = Column("ECE", "id", ("mnist",), "ece", 1, 4)
    def shown(protocol=PUBLISHED, seeds=2, column=column, **changes):
        return comparison._our_number(cell(**changes), column, line(protocol=protocol), seeds)
    assert shown() == "missing" and shown(dropped_n=1) == "dropped"
    assert shown(ours=0.5, ours_std=0.25, ours_n=2) == "0.5000 ± 0.2500"
    assert shown(ours=0.5, ours_n=1) == "0.5000 (n = 1)"
    least = Column("least ECE", "id", ("cifar10",), "least_ece", 1, 4)
    assert shown(dismax.HELD_OUT, column=least, ours_n=2, ours=0.1) == ""


def test_methods_are_ours_then_those_that_the_paper_quotes():
    theirs = [{"method": "", "title": "quoted"}, {"method": "adp", "title": "ADP of the paper"}]
    assert list(comparison._methods([in_memory("ncl"), in_memory("own")], theirs)) == [
        ("ncl", "NCL", None), ("adp", "ADP of the paper", theirs[1]), ("own", "own", None), ("", "quoted", theirs[0])]


def test_comparison_takes_the_runs_of_the_data_set_and_the_benchmark():
    runs = [mnist_run(), mnist_run(changed=CHANGED), in_memory("isomax"), in_memory("de", dataset="digits")]
    lines = comparison.compare(openood.BENCHMARK, "mnist", runs)
    ours = [(one.method, one.changed, one.protocol.name, len(one.runs)) for one in lines if one.runs]
    assert ours == [("de", "", "as published", 1), ("de", "", "common score", 1),
                    ("de", CHANGED, "as published", 1), ("de", CHANGED, "common score", 1)]
    assert {one.model for one in lines} == {"lenet"} and "isomax" not in {one.method for one in lines}
    assert [one.is_published for one in lines if one.runs] == [True, True, False, False]
    tidy = comparison.tidy("mnist", lines[:1])
    assert len(tidy) == len(lines[0].cells) and tidy[0]["column"] == "ACC (%)" and tidy[0]["id_dataset"] == "mnist"
    assert {tidy[0][key] for key in ("model", "method", "title", "changed", "protocol")} == {
        "lenet", lines[0].method, lines[0].title, "", "as published"}


def test_every_score_is_shown_and_the_papers_is_marked():
    runs = [mnist_run(seed=1), mnist_run(seed=2, near=0.92), mnist_run("gradcam"), mnist_run("own", members=5),
            mnist_run(seed=9, near=0.1, dataset="digits")]
    rows = comparison.score_rows(openood.BENCHMARK, "mnist", runs)
    assert [(row["ood_group"], row["method"], row["score"]) for row in rows][:4] == [
        ("near", "de", "average"), ("near", "de", "logit-average"), ("near", "de", "minmax"),
        ("near", "gradcam", "average")]
    assert rows[0]["mean"] == pytest.approx(91) and rows[0]["std"] == pytest.approx(math.sqrt(2)) and rows[0]["n"] == 2
    assert math.isnan(rows[3]["std"]) and [row["ood_group"] for row in rows] == ["near"] * 9 + ["far"] * 9
    only = replace(openood.BENCHMARK, scores_include=lambda run: run.method == "gradcam")
    assert {row["method"] for row in comparison.score_rows(only, "mnist", runs)} == {"gradcam"}
    table, = comparison.score_sections(openood.BENCHMARK, "mnist", rows)
    assert table.headers == ["OOD sets", "method", "average", "logit-average", "minmax"]
    assert table.rows[:3] == [["near", "DE", "91.00 ± 1.41 *", "93.00 ± 1.41", "95.00 ± 1.41"],
                              ["near", "SDDE", "90.00", "92.00", "94.00 *"], ["near", "own", "90.00", "92.00", "94.00"]]
    assert table.note == "Not registered: own."
    rows = comparison.score_rows(openood.BENCHMARK, "mnist", [mnist_run(changed=CHANGED)])
    table, = comparison.score_sections(openood.BENCHMARK, "mnist", rows)
    assert table.note == f"CHANGED RECIPE: {CHANGED}."
    assert comparison._marked(None, True) == "–"


# ---- verdicts ----

def test_one_of_our_seeds_has_the_papers_spread():
    column = Column("c", "id", ("d",), "accuracy", paper="acc", tau=0.0)
    paper = {"acc": 10.0, "acc_std": 3.0, "seeds": 9.0}
    one = verdict(column, paper, [12.0])
    assert one.tolerance == pytest.approx(2 * math.sqrt(3**2 / 9 + 3**2 / 1)) and one.verdict == "ok"
    two = verdict(column, paper, [12.0, 14.0])
    assert two.tolerance == pytest.approx(2 * math.sqrt(3**2 / 9 + 2 / 2)) and two.delta == 3 and two.verdict == OUTSIDE
    none = verdict(column, {"acc": 10.0, "seeds": 1.0}, [10.0])
    assert none.tolerance == 0 and none.verdict == "ok" and none.paper_n == 1


def test_the_tolerance_itself_is_within_it():
    column = Column("c", "id", ("d",), "accuracy", paper="acc", tau=0.5)
    def word(ours, **options):
        return verdict(column, {"acc": 10.0, "seeds": 1.0}, [ours], **options).verdict
    assert word(10.5) == word(9.5) == "ok" and word(10.5625) == word(9.4375) == OUTSIDE
    assert word(99.0, complete=False) == "?" and word(10.0, comparable=False) == ""
    assert verdict(column, None, [1.0]).verdict == ""
    assert verdict(column, None, [1.0]).paper_n == verdict(column, None, [1.0]).dropped_n == 0
    relative = Column("ECE", "id", ("d",), "ece", paper="acc", tau=0.25, relative=True)
    assert verdict(relative, {"acc": 0.02, "acc_std": 0.0, "seeds": 1.0}, [0.02]).tolerance == pytest.approx(0.005)
    assert verdict(relative, {"acc": 0.02, "acc_std": 9.0, "seeds": 1.0}, [0.02]).tolerance == pytest.approx(0.009)
    assert verdict(relative, {"acc": -0.02, "seeds": 1.0}, [0.0], dropped_n=3)[7:10] == pytest.approx((3, 0.02, 0.005))


def test_numbers_have_their_spread_where_there_is_one():
    assert number(1.234, 0.567, 2) == "1.23 ± 0.57" and number(1.234, math.nan, 1) == "1.2"
    assert number(math.nan, 0.1, 2) == "–" == number(math.inf, 0.1, 2)
    assert verdicts.WIDEST == 0.45


def test_each_network_has_its_own_runs_and_rows_of_its_data_set():
    rows = [{"id_dataset": dataset, "model": model, "method": method, "title": f"{dataset} {model} {method}",
             "seeds": 5.0}
            for dataset, model, method in (("digits", "lenet", "adp"), ("mnist", "other", "ncl"),
                                           ("mnist", "lenet", "de"))]
    benchmark = replace(openood.BENCHMARK, papers=lambda: rows)
    lines = comparison.compare(benchmark, "mnist", [mnist_run(), mnist_run(model="other"),
                                                    mnist_run(seed=2, model="other")])
    assert [(one.model, one.title, len(one.runs)) for one in lines[::2]] == [
        ("lenet", "mnist lenet de", 1), ("other", "DE", 2), ("other", "mnist other ncl", 0)]
    sections = list(comparison.sections(benchmark, "mnist", lines, Results([], [])))
    assert [section.name for section in sections] == ["LeNet", "other"]
    assert sections[0].headers[:3] == ["method", "", "ACC (%)"] and sections[0].headers[-2:] == ["train (s)", "× DE"]
    assert [row[:3] + row[-2:] for row in sections[1].rows] == [
        ["DE", "ours, release's protocol, n = 2", "99.00 ± 0.00", "100", "1.0"],
        ["", "ours, common score, n = 2", "99.00 ± 0.00", "", ""], ["mnist other ncl", "ours: no run", "", "", ""]]
    assert sections[1].note.startswith("2 runs on CPU.")
