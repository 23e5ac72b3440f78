"""results/report.html and its figures: what they show, that nothing is hidden, and how a browser lays the page out."""
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from conftest import ROOT, script
from made_up import ensemble, single
from scipy.integrate import trapezoid

from metrics.calibration import expected_calibration_error
from metrics.detection import detection_metrics
from reporting import figures, plots
from reporting.load import read_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(autouse=True)
def as_saved():
    with matplotlib.rc_context(plots.COMMON_STYLE):
        yield


def drawn(figure):
    """The figure after a layout pass, as it would be saved."""
    figure.savefig("/dev/null", format="png")
    return figure


def scores(seed=0, count=400):
    rng = np.random.default_rng(seed)
    return "MPS", rng.normal(2, 1, count), {name: (group, rng.normal(shift, 1, 300), 0.9) for name, group, shift in (
        ("one", "near", 1), ("another", "far", 0), ("a set with a long name", "far", -1))}


# ---- figures ----

def test_legends_hide_nothing():
    """They lie outside of every axes, and inside of the figure."""
    figure = drawn(plots.score_histograms({name: scores(k) for k, name in enumerate(["A", "B", "C", "D"])}))
    boxes = [axis.get_window_extent() for axis in figure.axes]
    legends = [axis.get_legend().get_window_extent() for axis in figure.axes]
    assert len(legends) == 4 and not any(box.overlaps(legend) for box in boxes for legend in legends)
    assert all(figure.bbox.padded(1).containsx(legend.x0) and figure.bbox.padded(1).containsy(legend.y0)
               for legend in legends)
    assert figure.axes[0].get_legend().get_texts()[1].get_text() == "near: one (300), AUROC 90.00 %"


def test_sets_stand_below_each_other_in_their_order():
    """The first at the top, and none at or beyond the edge."""
    sets = ["in-distribution", "near", "far"]
    axis = drawn(plots.saliency_correlations(sets, {"DE": np.full((3, 4), 0.1), "SDDE": np.zeros((3, 4))})).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == sets
    heights = [axis.transAxes.inverted().transform(axis.transData.transform((0, y)))[1] for y in axis.get_yticks()]
    assert heights == sorted(heights, reverse=True) and min(heights) > 0.05 and max(heights) < 0.95


def test_the_roc_is_the_curve_whose_area_is_the_auroc():
    _, inside, outside = scores()
    for most in (10_000, 200):
        x, y = plots.roc_points(inside, outside["one"][1], most)
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 100, 100) and (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
        area = trapezoid(y, x) / 1e4
        assert area == pytest.approx(detection_metrics(inside, outside["one"][1])["auroc"], abs=1e-9 if most > 700 else
                                     2e-3)


def test_bins_without_samples_have_no_point_and_no_line_crosses_them():
    confidence = np.repeat([0.55, 0.75, 0.97], [20, 5, 50])
    probabilities, labels = np.stack([confidence, 1 - confidence], 1), np.arange(75) % 2
    means, accuracies, counts, ece = plots.reliability(probabilities, labels)
    assert counts.sum() == 75 and sorted(counts[counts > 0]) == [5, 20, 50]
    assert np.isnan(means[counts == 0]).all() and np.isnan(accuracies[counts == 0]).all()
    assert means[14] == pytest.approx(0.97) and accuracies[14] == 0.5
    assert ece == pytest.approx(expected_calibration_error(probabilities, labels))
    figure = plots.reliability_diagrams({"A": {"T = 1": (probabilities, labels)}})
    top, bottom = figure.subfigs[0].axes if hasattr(figure, "subfigs") else figure.axes
    line = next(line for line in top.get_lines() if "ECE" in str(line.get_label()))
    assert np.isfinite(line.get_ydata()).sum() == 3 and len(line.get_ydata()) == plots.BINS
    hollow = [line for line in top.get_lines() if line.get_markerfacecolor() == "none" and line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in hollow] == [1], "the bin with five samples"
    assert max(bottom.patches[0].get_data().values) == 50


def test_an_error_of_zero_is_drawn_and_epochs_are_whole():
    figure = drawn(plots.training_curves({"test images": {"A": [([1, 2, 3], [0.5, 0.99, 1.0])], "B": [([1], [0.9])]}}))
    axis, = figure.axes
    line = axis.get_lines()[0]
    assert line.get_ydata()[-1] == 0 and axis.get_ylim()[0] < 0 < axis.get_ylim()[1]
    assert axis.transData.transform((3, 0))[1] > axis.bbox.y0, "0 lies inside of the axes"
    assert all(tick == round(tick) for tick in axis.get_xticks())
    assert axis.get_lines()[1].get_marker() == "o", "a single epoch is a point"
    assert not axis.bbox.overlaps(axis.get_legend().get_window_extent())


def test_ours_stands_beside_the_papers(tmp_path):
    for seed in (1, 2):
        ensemble(tmp_path, "de", seed, 0.9 + seed / 100, 0.98)
    ensemble(tmp_path, "gradcam", 1, 0.95, overrides={"lr": {"published": 1, "used": 2}})
    picture, = figures.summaries("mnist", read_runs(tmp_path).runs)
    columns = picture.draw.args[0]
    assert list(columns) == ["near AUROC (%)", "far AUROC (%)"]
    rows = {row[0]: row[1:] for row in columns["near AUROC (%)"]}
    assert rows["DE, n = 2"] == pytest.approx((92.45, 0.6, 91.5, 0.5**0.5), abs=0.05)
    assert np.isnan(rows["NCL"][2]) and rows["SDDE, changed recipe, n = 1"][2] == pytest.approx(95)
    assert picture.title == "LeNet, openood benchmark: ours and the paper"
    drawn(picture.draw())


def dump(folder, name, inside, outside):
    for dataset, conf in (("mnist", inside), *outside.items()):
        path = folder / "scores" / name / f"{dataset}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, pred=np.zeros(len(conf), int), conf=conf, label=np.zeros(len(conf), int))


def test_scores_come_from_dumps_and_damaged_ones_are_left_out(tmp_path):
    folder = ensemble(tmp_path, "de", 1, 0.9)
    run, = read_runs(tmp_path).runs
    assert figures.dumped_scores("mnist", run) is None
    dump(folder, "average", np.array([3.0, 4.0]), {
        "cifar10": np.array([1.0, 3.5]), "notmnist": np.array([0.0, 1.0]), "textures": np.array([np.nan, 1.0])})
    (folder / "scores/average/places365.npz").write_bytes(b"PK\x03\x04 no archive")
    score, inside, outside = figures.dumped_scores("mnist", run)
    assert score == "average" and inside.tolist() == [3, 4]
    assert [(name, group, auroc) for name, (group, _, auroc) in outside.items()] == [
        ("notMNIST", "near", 1.0), ("CIFAR-10", "far", 0.75)]


# ---- the page ----

class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.links, self.ids, self.boxes, self.tables, self.images, self.tags, self.metas = [], [], 0, 0, [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found["href"]] if tag == "a" else []
        self.ids += [found["id"]] if "id" in found else []
        self.metas += [found.get("name")] if tag == "meta" else []
        self.images += [found.get("src") or found.get("srcset")] if tag in ("img", "source") else []
        self.boxes += found.get("class") == "table"
        self.tables += tag == "table"
        self.tags.append(tag)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for seed in range(1, 6):
        single(folder, "softmax", seed, 0.90)
        ensemble(folder, "de", seed, 0.9245, 0.9834)
    ensemble(folder, "gradcam", 1, 0.9)
    single(folder, "dismax", 1, 0.9)
    (folder / "cifar10/resnet34/dismax/seed1/config.json").write_text("{")
    script("analyze.py", "--results-dir", folder, "--report")
    return folder


def test_the_page_has_contents_the_picture_the_verdicts_and_then_the_tables(report):
    page = (report / "report.html").read_text()
    reader = Reader(page)
    assert reader.links == [f"#{name}" for name in reader.ids] and "viewport" in reader.metas
    assert reader.tags.count("h1") == 1 and re.search("<title>.+</title>", page)
    assert reader.boxes == reader.tables > 5
    assert reader.images and all((report / name).stat().st_size > 1000 for name in reader.images)
    mnist = page[page.index('<h3 id="mnist-overview">'):]
    places = [mnist.index(part) for part in ("mnist_lenet_openood_summary.png", "within tolerance", "<table>",
                                             "mnist_lenet_training.png")]
    assert places == sorted(places)
    assert "mnist, LeNet, DE, all 2 published columns, n = 5" in page
    assert "not judged: mnist, LeNet, SDDE: n = 1, the paper has 5" in page
    assert "outside tolerance</span>: cifar10, ResNet34, SoftMax (baseline), ACC (%): ours 90 (n = 5)" in page
    assert "dismax/seed1: config.json is damaged" in page[page.index("<h2>Left out"):]


def test_the_report_does_not_load_torch():
    code = "import sys, reporting.html; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


SPY = """<script>addEventListener("load", () => { const style = getComputedStyle(document.body); parent.postMessage([
  document.documentElement.scrollWidth, innerWidth, [...document.querySelectorAll(".table, .picture")].filter(
    box => box.scrollWidth > box.clientWidth).length, style.backgroundColor, style.color,
  document.querySelector("picture img").currentSrc, [...document.images].filter(image => !image.naturalWidth).length
  ].join(" | "), "*") })</script>"""
FRAME = """<body><iframe src="spied.html" width={width} height=900></iframe><script>
  addEventListener("message", event => document.body.append("SEEN " + event.data + " END"))</script></body>"""


def seen(folder, width, *options):
    """What a browser computes in a page of this width: [scroll width, width, boxes that scroll, background, text
    colour, source of the first picture, broken pictures]."""
    (folder / "spied.html").write_text((folder / "report.html").read_text().replace("</body>", SPY + "</body>"))
    (folder / "frame.html").write_text(FRAME.format(width=width))
    page = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom",
         "--virtual-time-budget=5000", f"--user-data-dir={folder / 'profile'}", *options,
         f"file://{folder / 'frame.html'}"], capture_output=True, text=True, timeout=120).stdout
    return re.search("SEEN (.*) END", page.split("</script>")[-1])[1].replace("&amp;", "&").split(" | ")


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_the_page_never_scrolls_sideways_but_tables_do(report, width):
    scroll_width, inner_width, scrolling, background, colour, source, broken = seen(report, width)
    assert int(scroll_width) <= int(inner_width) == width and int(scrolling) > 0 and broken == "0"
    assert (background, colour) == ("rgb(255, 255, 255)", "rgb(27, 29, 33)") and not source.endswith("_dark.png")


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium")
def test_a_dark_browser_gets_a_dark_page_with_dark_figures(report):
    _, _, _, background, colour, source, broken = seen(report, 1280, "--blink-settings=preferredColorScheme=0")
    assert (background, colour) == ("rgb(22, 24, 28)", "rgb(227, 229, 232)") and source.endswith("_dark.png")
    assert broken == "0"
