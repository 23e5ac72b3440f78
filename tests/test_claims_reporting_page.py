"""The data of the figures, and the page around them."""
from pathlib import Path

import numpy as np
import pytest
from in_memory import in_memory

from metrics.detection import detection_metrics
from reporting import figures, html, plots
from reporting.comparison import Line
from reporting.figures import Picture
from reporting.openood import BENCHMARK
from reporting.verdicts import Cell

NAN = float("nan")


# ---- data of the figures ----

def cell(column, paper=NAN, ours=NAN):
    return Cell(column, paper, 0.5, 5, ours, 0.25, 3, 0, NAN, NAN, "")


def test_the_first_picture_has_each_method_once_by_its_first_protocol():
    published, common = BENCHMARK.protocols
    def line(title, runs, near, far, protocol=published, changed=""):
        return Line("lenet", "x", title, changed, protocol, [None] * runs, None, [cell("ACC"), near, far])
    near, far = (lambda *n: cell("near AUROC", *n)), (lambda *n: cell("far AUPR", *n))
    found = figures.summary_columns([
        line("DE", 3, near(90.0, 91.0), far(80.0)), line("DE", 3, near(1.0, 1.0), far(1.0), common),
        line("quoted", 0, near(92.0), far()), line("none", 0, near(), far()),
        line("DE", 1, near(NAN, 70.0), far(), published, "lr 1 (published 2)")])
    assert list(found) == ["near AUROC"], "nothing of ours is in the other column"
    assert [row[0] for row in found["near AUROC"]] == ["DE, n = 3", "quoted", "DE, changed recipe, n = 1"]
    assert found["near AUROC"][0][1:] == (90.0, 0.5, 91.0, 0.25) and found["near AUROC"][1][1] == 92.0


def dump(folder, dataset, score, **scores):
    (folder / "scores" / score).mkdir(parents=True, exist_ok=True)
    for name, conf in scores.items():
        np.savez(folder / "scores" / score / f"{name}.npz", conf=np.asarray(conf))


def test_dumped_scores_are_in_the_order_of_their_groups(tmp_path):
    rows = [("dismax", name, group, "last", "", "images", 3) for name, group in (
        ("textures", "far"), ("notmnist", "near"), ("own", "ood"))]
    run = in_memory("gradcam", rows=rows, folder=tmp_path)
    dump(tmp_path, "mnist", "minmax", mnist=[1.0, 2], textures=[0.0, 1.5], notmnist=[0.5], own=[3.0], unknown=[9.0],
         bad=[NAN])
    score, inside, outside = figures.dumped_scores("mnist", run)
    assert score == "minmax" and inside.tolist() == [1, 2]
    assert [(name, group) for name, (group, _, _) in outside.items()] == [
        ("notMNIST", "near"), ("Textures", "far"), ("own", "ood"), ("unknown", "")]
    assert outside["Textures"][2] == detection_metrics([1, 2], [0, 1.5])["auroc"] == 0.75
    single = in_memory("dismax", rows=rows, folder=tmp_path)
    assert figures.dumped_scores("mnist", single) is None
    dump(tmp_path, "mnist", "MMLES", mnist=[1.0])
    assert figures.dumped_scores("mnist", single) is None
    dump(tmp_path, "mnist", "MMLES", textures=[1.0])
    assert figures.dumped_scores("mnist", single)[0] == "MMLES"
    dump(tmp_path, "mnist", "logit-average", mnist=[1.0], textures=[1.0])
    assert figures.dumped_scores("mnist", in_memory("own", members=5, folder=tmp_path))[0] == "logit-average"


def test_numbers_are_finite_and_there():
    good = figures.are_numbers
    assert good(np.zeros(2), 1) and good(np.zeros((1, 2), int), 2) and not good(None, 1) and not good(np.zeros(2), 2)
    assert not good(np.array([]), 1) and not good(np.array([np.inf]), 1) and not good(np.array(["a"]), 1)


def test_calibration_is_that_of_the_mean_logits(tmp_path):
    (tmp_path / "logits").mkdir()
    run = in_memory("de", folder=tmp_path)
    def found(logits, labels):
        np.savez(tmp_path / "logits/mnist.npz", logits=np.asarray(logits, np.float32), labels=np.asarray(labels))
        return figures.calibration_of(run)
    two = found([[[2.0, 0], [0, 4]], [[4.0, 0], [0, 2]]], [0, 1])
    assert list(two) == ["T = 1", "T cross-fitted"] and two["T = 1"][0][:, 0] == pytest.approx(
        [1 / (1 + np.exp(-3)), 1 - 1 / (1 + np.exp(-3))])
    assert two["T = 1"][1].tolist() == [0, 1] and (two["T cross-fitted"][0] != two["T = 1"][0]).any()
    assert found([[[2.0, 0]]], [0]) == {} and found([[[2.0, 0], [0, 1]]], [0]) == {} and found([[2.0, 0]], [0, 1]) == {}


def test_curves_are_by_the_images_that_select():
    log = [{"epoch": 1, "selection_acc": 0.5}, {"epoch": 2, "selection_acc": 0.75}]
    runs = [in_memory("gradcam", log=log, selection_split="validation"), in_memory("de", log=log),
            in_memory("de", 2, log=log[:1]), in_memory("adp")]
    assert figures.curves_of(runs) == {"test images": {"DE": [([1, 2], [0.5, 0.75]), ([1], [0.5])]},
                                       "validation images": {"SDDE": [([1, 2], [0.5, 0.75])]}}


# ---- the page ----

def test_the_page_shows_verdicts_of_rows_with_runs(monkeypatch):
    from reporting.check import Row
    rows = [Row("A <b>", {}, [cell("x", 1.0, 1.0)] * 2, []), Row("B", {}, [], ["B, near: 1", "B, far: 2"]),
            Row("C", {"few": "n = 1", "other": "more"}, [], []), Row("D", {"no run": "no run"}, [], [])]
    monkeypatch.setattr(html, "published_rows", lambda runs, dataset: iter(rows if dataset == "mnist" else []))
    assert html.verdicts([], "mnist") == (
        '<ul><li><span class="good">within tolerance</span>: A &lt;b&gt;, all 2 published columns, n = 3</li>'
        '<li><span class="bad">outside tolerance</span>: B, near: 1</li>'
        '<li><span class="bad">outside tolerance</span>: B, far: 2</li><li>not judged: C: n = 1; more</li></ul>'
        '<p class="soft">1 of the 4 published rows have no run.</p>')
    assert html.verdicts([], "digits") == '<p class="soft">Neither paper has numbers for this data set.</p>'
    del rows[3]
    assert html.verdicts([], "mnist").endswith("</ul>")


def test_a_figure_on_the_page_has_both_pictures(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(plots, "save", lambda path, draw: saved.append((path, draw)))
    picture = Picture("a/b c", "Title", "Caption.", "draw")
    said = html.figure(tmp_path, picture)
    assert saved == [(tmp_path / "figures/a-b-c.png", "draw")]
    assert "<figcaption>Title. Caption.</figcaption>" in said and 'srcset="figures/a-b-c_dark.png"' in said
    assert 'src="figures/a-b-c.png" alt="Title"' in said
    assert "<figcaption>Caption.</figcaption>" in html.figure(tmp_path, picture, titled=False)
    assert html.anchor("a_b-c.1") == "a_b-c-1" and html.text('a\n"<') == "a &quot;&lt;"


def test_the_page_counts_runs_and_lists_what_is_left_out(tmp_path):
    from reporting.load import LeftOut, Results
    for runs, said in ((1, "shows 1 run."), (2, "shows 2 runs."), (0, "shows 0 runs.")):
        results = Results([in_memory("de", seed + 1) for seed in range(runs)],
                          [LeftOut(Path("a<"), "", "", "", "cut")] * runs)
        html.write_report(tmp_path, [("other", [("heading", "name", "<table>")])], results)
        page = (tmp_path / "report.html").read_text()
        assert said in page and ("<h2>Left out</h2><ul><li>a&lt;: cut</li>" in page) == bool(runs)
    assert ('<h4>other</h4><ul><li><a href="#other-overview">overview and verdicts</a></li><li><a href="#name">heading'
            '</a></li></ul>') in page and "<table>" in page and '<h3 id="other-overview">' in page
