"""The data of the figures, and the page around them."""
from pathlib import Path

import numpy as np
import pytest
from in_memory import in_memory, mnist_run

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


# ---- all pictures of a network ----

def with_maps(folder, shift=0.0, members=2, count=3, sets=("mnist", "own_set")):
    """A saliency.npz as engine/saliency.py writes it, of two sets."""
    folder.mkdir(parents=True, exist_ok=True)
    s, rng = len(sets), np.random.default_rng(0)
    np.savez(folder / "saliency.npz", sets=np.array(sets), groups=np.array(["id", *["very_far"] * (s - 1)]),
             images=rng.integers(0, 255, (s, 2, 4, 4, 3)).astype(np.uint8),
             maps=rng.random((s, 2, members, 3, 3)) + shift,
             predicted=np.arange(2 * s).reshape(s, 2), correlations=rng.random((s, 2, members, members)) + shift,
             mean_correlations=rng.random((s, count)) + shift)


def test_all_pictures_of_a_network_by_its_first_seeds(tmp_path):
    log = [{"epoch": 1, "selection_acc": 0.5}]
    runs = [in_memory("gradcam", 3, folder=tmp_path / "g3"), in_memory("de", 2, folder=tmp_path / "d2", log=log),
            in_memory("de", 1, folder=tmp_path / "d1")]
    for name, score in (("d1", "average"), ("d2", "average"), ("g3", "minmax")):
        dump(tmp_path / name, "mnist", score, mnist=[1.0, 2], textures=[float(name == "d2")])
        (tmp_path / name / "logits").mkdir()
        np.savez(tmp_path / name / "logits/mnist.npz", logits=np.eye(2)[None] + (name == "d2"), labels=np.arange(2))
        with_maps(tmp_path / name, shift=float(name == "d2"))
    found = {picture.name: picture for picture in figures.pictures("mnist", "lenet", runs)}
    assert list(found) == [f"mnist_lenet_{word}" for word in (
        "scores", "roc", "reliability", "training", "saliency", "saliency_correlation")]
    assert found["mnist_lenet_scores"].title == "LeNet: scores of test images"
    assert found["mnist_lenet_roc"].caption == "First seed, last epoch, whole test sets, temperature 1."
    draw = {name.removeprefix("mnist_lenet_"): picture.draw for name, picture in found.items()}
    assert [one.func for one in draw.values()] == [
        plots.score_histograms, plots.roc_curves, plots.reliability_diagrams, plots.training_curves,
        plots.saliency_maps,
        plots.saliency_correlations]
    assert list(draw["scores"].args[0]) == list(draw["reliability"].args[0]) == ["DE", "SDDE"]
    assert draw["scores"].args[0]["DE"][2]["Textures"][1].tolist() == [0], "of seed 1"
    assert draw["roc"].args == draw["scores"].args and draw["training"].args[0] == {"test images": {"DE": [([1],
                                                                                                            [0.5])]}}
    rows, maps = draw["saliency"].args
    assert [label for label, _ in rows] == ["in-distribution:\nMNIST"] * 2 + ["very far:\nown_set"] * 2
    assert list(maps) == ["DE", "SDDE"] and [one[2] for one in maps["DE"]] == [0, 1, 2,
                                                                               3] and maps["DE"][0][0].max() < 1
    assert maps["DE"][0][0].shape == (2, 3, 3) and maps["DE"][0][1].shape == (2, 2)
    sets, correlations = draw["saliency_correlation"].args
    assert sets == ["in-distribution: MNIST", "very far: own_set"] and list(correlations) == ["DE", "SDDE"]
    assert "at most 3 images per set" in found["mnist_lenet_saliency_correlation"].caption
    assert figures.arrays_if_there(tmp_path / "none.npz") == {}
    changed = in_memory("de", 1, folder=tmp_path / "d1", changed="lr 1 (published 2)")
    assert [picture.name for picture in figures.pictures("mnist", "lenet",
                                                         [changed])][0] == "mnist_lenet_changed_scores"
    captions = [picture.caption for picture in html.figures("mnist", [changed, runs[2]])]
    assert captions[0].endswith("temperature 1. CHANGED RECIPE: lr 1 (published 2).")
    assert captions[-1].endswith("over images.")
    assert list(figures.pictures("mnist", "lenet", [in_memory("de", folder=tmp_path)])) == []


def test_maps_of_other_images_or_of_one_network_are_not_shown(tmp_path):
    first = {method: in_memory(method, folder=tmp_path / method, members=members) for method, members in (
        ("softmax", 1), ("adp", 5), ("ncl", 5), ("gradcam", 5))}
    for method in first:
        with_maps(tmp_path / method)
    shown, all_of_them = figures.saliency("n", "LeNet", first)
    assert list(shown.draw.args[1]) == ["ADP", "NCL"] and list(all_of_them.draw.args[1]) == ["ADP", "NCL", "SDDE"]
    with_maps(tmp_path / "ncl", sets=("mnist", "a", "b", "c", "d"))
    shown, all_of_them = figures.saliency("n", "LeNet", first)
    assert list(shown.draw.args[1]) == list(all_of_them.draw.args[1]) == ["ADP", "SDDE"]
    shown, _ = figures.saliency("n", "LeNet", {"ncl": first["ncl"]})
    assert len(shown.draw.args[0]) == 5, "one image of each of five sets"
    assert list(figures.saliency("n", "LeNet", {"softmax": first["softmax"]})) == []
    content = dict(np.load(tmp_path / "adp/saliency.npz"))
    assert figures.are_maps(content)
    for key, wrong in (("images", content["images"].astype(int)), ("images", content["images"][..., :2]),
                       ("images", content["images"][:1]), ("predicted", content["predicted"][:, :1]),
                       ("correlations", content["correlations"][..., :1]), ("mean_correlations", np.ones((1, 3))),
                       ("mean_correlations", np.ones((2, 3), int)), ("mean_correlations", np.ones(2)),
                       ("sets", content["sets"][:1]), ("groups", np.ones(2)), ("maps", content["maps"][0]),
                       ("maps", content["maps"] * np.inf)):
        assert not figures.are_maps({**content, key: wrong}), key
    del content["groups"]
    assert not figures.are_maps(content)


def test_the_summary_is_of_ensembles_in_the_openood_benchmark():
    def titles(*runs):
        return {picture.name: picture.title for picture in figures.summaries("mnist", list(runs))}
    single, ensemble = mnist_run("softmax"), mnist_run()
    assert "mnist_lenet_openood_summary" not in titles(single)
    assert titles(ensemble) == {"mnist_lenet_openood_summary": "LeNet, openood benchmark: ours and the paper"}
    assert titles(mnist_run(model="own")) == {"mnist_own_openood_summary": "own, openood benchmark"}
    picture, = figures.summaries("mnist", [ensemble])
    assert picture.draw.func is plots.ours_beside_paper and "near AUROC (%)" in picture.draw.args[0]


def test_a_section_has_overview_tables_and_figures_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "figures", lambda dataset, runs: iter([Picture(f"{dataset} a", "A", "C.", None)]))
    monkeypatch.setattr(html, "summaries", lambda dataset, runs: iter([Picture("s", "S", f"{len(runs)}", None)]))
    monkeypatch.setattr(html, "figure", lambda folder, picture, titled=True: f"<{picture.name} {folder.name} {titled}>")
    monkeypatch.setattr(html, "verdicts", lambda runs, dataset: f"<{len(runs)} {dataset}>")
    links, parts = html.section(tmp_path, "mnist", [("Heading", "name", "<table>")], [1, 2])
    assert links == [("mnist-overview", "overview and verdicts"), ("name", "Heading"), ("mnist-a", "A")]
    assert parts == ["<h2>MNIST</h2>", '<h3 id="mnist-overview">Overview and verdicts</h3>',
                     f"<s {tmp_path.name} True>",
                     "<2 mnist>", "<table>", f'<h3 id="mnist-a">A</h3><mnist a {tmp_path.name} False>']
