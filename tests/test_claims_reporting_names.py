"""Columns of the benchmarks, names and their order, and the forms of a table."""
import math

from in_memory import in_memory

from reporting import dismax, names, openood, papers, tables
from reporting.tables import Section, Table

# ---- columns and names ----

def test_the_columns_of_both_benchmarks():
    run = in_memory("dismax", 1, [("dismax", "mine", "ood", "last", "", "images", 9),
                                  ("dismax", "svhn", "far", "last", "", "images", 9),
                                  ("openood", "mine", "ood", "last", "", "images", 9),
                                  ("openood", "other", "far", "best", "", "images", 9)])
    found = {column.title: column for column in dismax.columns("cifar10", [run])}
    assert [(c.tau, c.scale, c.digits, c.paper, c.paper_digits, c.relative) for c in list(found.values())[:3]] == [
        (0.3, 100, 2, "acc", 1, False), (0.25, 1, 4, "ece", 4, True), (0, 1, 4, "", 1, False)]
    near, own = found["near: CIFAR-100 AUPR (%)"], found["ood: mine AUROC (%)"]
    assert (near.metric, near.tau, near.paper) == ("aupr_out", 1.0, "near_aupr") and (own.metric, own.tau,
                                                                                      own.paper) == ("auroc", 1.5, "")
    assert not any(c.datasets == ("svhn",) and c.group == "far" for c in found.values())
    assert {c.metric for c in dismax.columns("imagenet1k", [])[3:]} == {"auroc"}
    assert dismax.ood_sets([run, run], "dismax", ("far",)) == {"far": ["svhn"]}
    assert [c.datasets for c in dismax.columns("unknown", [run])[3:]] == [("mine",), ("svhn",)]
    sdde = openood.columns("mnist", [run])
    assert [(c.title, c.tau, c.paper) for c in sdde[4:7]] == [
        ("near AUROC (%)", 1.0, "near_auroc"), ("far AUROC (%)", 1.5, "far_auroc"),
        ("own sets AUROC (%)", 0.0, "ood_auroc")]
    assert [(c.title, c.tau, c.paper, c.paper_digits) for c in sdde[7:]][0] == ("near FPR95 (%)", 0.0, "", 2)
    assert [(c.metric, c.scale, c.digits) for c in sdde[:4]] == [("accuracy", 100, 2), ("ece", 1, 4), ("nll", 1, 4),
                                                                 ("brier", 1, 4)]


def test_which_runs_and_metrics_belong_to_a_benchmark():
    assert [openood.includes(in_memory(m)) for m in ("de", "softmax", "isomax")] == [True, True, False]
    assert openood.includes(in_memory("isomax", score_files=True)) and dismax.is_single(in_memory("isomax"))
    assert not dismax.is_single(in_memory("de")) and openood.BENCHMARK.scores_include(in_memory("isomax"))
    assert [openood._published_metric(m) for m in ("ece", "nll", "brier")] == ["ece_published", "nll_published",
                                                                               "brier"]
    assert [dismax._published_metric(m) for m in ("accuracy", "ece", "least_ece", "auroc")] == [
        "accuracy", "ece_as_published", "ece_fitted_on_test", "auroc_published"]
    assert [dismax._held_out_metric(m) for m in ("accuracy", "ece", "least_ece")] == ["accuracy", "ece_cross_fitted",
                                                                                      None]
    assert openood.BENCHMARK.own_score("mnist", "adp_stable", "near") is None
    assert openood.BENCHMARK.own_score("mnist", "adp", "near") == "average"
    assert dismax.BENCHMARK.own_score("cifar10", "mine", "far") is None and dismax.BENCHMARK.own_score("cifar10",
                                                                                                       "dismax",
                                                                                                       "far") == "MMLES"


def test_names_are_in_the_order_of_the_registry():
    assert names.in_order({"zz", "softmax", "de", "own", "gradcam", "dismax"}) == ["de", "gradcam", "softmax", "dismax",
                                                                                   "own", "zz"]
    assert names.in_order({"lenet", "resnet34"}) == ["resnet34", "lenet"]
    assert [names.title_of(n) for n in ("de", "lenet", "cifar10", "own")] == ["DE", "LeNet", "CIFAR-10", "own"]
    assert names.is_known("dismax-5-gradcam") and not names.is_known("own") and not names.is_dismax_method("own")
    assert names.is_dismax_method("softmax") and not names.is_dismax_method("de")
    assert names.sdde_script_score("mnist", "adp_stable") == "average" and names.sdde_script_score("mnist",
                                                                                                   "softmax") is None


def test_published_rows_have_numbers_where_the_paper_has_them():
    row = papers.dismax()[0]
    assert isinstance(row["seeds"], float) and isinstance(row["source"], str)
    assert {row["id_dataset"] for row in papers.dismax()} == {"cifar10", "cifar100", "imagenet1k"}


# ---- forms of a table ----

def test_a_table_is_published_in_all_its_forms(tmp_path, capsys):
    table = Table("t", "Title", [Section("LeNet", ["a", "b"], [["1", "x|y"]], "note")], "one\n  more\ntwo",
                  [{"a": 1.5, "b": math.nan, "c": "x"}])
    html = tables.publish(table, tmp_path)
    assert "Title, LeNet" in capsys.readouterr().out
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n1.5,,x\n" and tables.as_csv([]) == ""
    said = (tmp_path / "t.md").read_text()
    assert said.startswith("# Title\n\n## LeNet\n\n| a") and "x\\|y" in said
    assert said.endswith("\n\nnote\n\none more\n\ntwo\n")
    assert (tmp_path / "t.tex").read_text().startswith("% Title, LeNet. note\n\\begin{tabular}")
    assert '<h3 id="t">Title</h3>' in html and "<p>note</p>" in html
    assert html.endswith("<p>one more</p><p>two</p></details>")
    table.shown = False
    tables.publish(table, tmp_path)
    assert capsys.readouterr().out == ""


def test_pieces_have_as_many_columns_as_fit():
    headers, rows = ["n", "m", "aaaa", "bbbb", "cccc"], [["1", "2", "3", "4", "5"]]
    whole, = tables.pieces_of(headers, rows, None)
    assert whole.splitlines()[0].split() == headers
    width = max(map(len, whole.splitlines()))
    assert len(list(tables.pieces_of(headers, rows, width))) == 1
    pieces = [piece.splitlines()[0].split() for piece in tables.pieces_of(headers, rows, width - 1)]
    assert pieces == [["n", "m", "aaaa", "bbbb"], ["n", "m", "cccc"]]
    assert len(list(tables.pieces_of(headers, rows, 1))) == 3, "one column at least"
    assert tables.wrapped("a b c", 3) == "a b\n  c" and tables.wrapped("a b c", None) == "a b c"
    assert tables.one_line("a\n\tb\x07 ") == "a b"


def test_the_width_is_that_of_the_terminal_or_of_the_environment(monkeypatch):
    monkeypatch.setattr(tables.sys, "stdout", open("/dev/null", "w"))  # noqa: SIM115
    for columns, width in (("", None), ("no", None), ("77", 77)):
        monkeypatch.setenv("COLUMNS", columns)
        assert tables.terminal_width() == width
