"""What the figures draw: positions, shares, labels, colours."""
import hashlib
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex

from metrics.calibration import expected_calibration_error
from reporting import plots

NAN = float("nan")
COLOURS = plots.COLOURS


def curve(line):
    """(x, y, colour, style) of a line of a plot."""
    return list(line.get_xdata()), list(line.get_ydata()), to_hex(line.get_color()), line.get_linestyle()


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


# ---- plots ----

@pytest.mark.parametrize("count, rows, columns", [(1, 1, 1), (3, 1, 3), (4, 2, 3), (7, 3, 3)])
def test_panels_are_three_in_a_row(count, rows, columns):
    figure, found = plots.panels([f"n{k}" for k in range(count)], width=2, height=1.5)
    assert [name for name, _ in found] == [f"n{k}" for k in range(count)] and len(figure.axes) == count
    assert figure.get_size_inches().tolist() == [2 * columns, 1.5 * rows]
    assert found[0][1].get_subplotspec().get_gridspec().get_geometry() == (rows, columns)


def test_a_picture_is_saved_for_light_and_for_dark_pages(tmp_path):
    drawn = []
    def draw():
        drawn.append((plots.matplotlib.rcParams["figure.facecolor"], plots.matplotlib.rcParams["font.size"]))
        return plots.panels(["a"])[0]
    plots.save(tmp_path / "a.b.png", draw)
    assert drawn == [("white", 9), ("#16181c", 9)]
    assert plots.dark(tmp_path / "a.b.png") == tmp_path / "a.b_dark.png"
    light, dark = ((tmp_path / name).read_bytes() for name in ("a.b.png", "a.b_dark.png"))
    assert light[:4] == dark[:4] == b"\x89PNG" and hashlib.md5(light).digest() != hashlib.md5(dark).digest()


def test_ours_and_the_papers_stand_a_little_apart():
    columns = {"near": [("DE", 1.0, 0.5, 2.0, 0.25), ("SDDE", NAN, NAN, 3.0, NAN)],
               **{f"c{k}": [("DE", NAN, NAN, 5.0, NAN), ("SDDE", 4.0, NAN, NAN, NAN)] for k in range(3)}}
    figure = plots.ours_beside_paper(columns)
    first = figure.axes[0]
    points = [(line.get_xdata()[0], round(line.get_ydata()[0], 2), line.get_marker()) for line in first.lines
              if line.get_marker() in "oD" and len(line.get_xdata())]
    assert points == [(1.0, -0.14, "D"), (2.0, 0.14, "o"), (3.0, 1.14, "o")]
    widths = [segment[:, 0].tolist() for part in first.collections for segment in part.get_segments()]
    assert widths == [[0.5, 1.5], [1.75, 2.25]], "one standard deviation to both sides"
    assert [label.get_text() for label in first.get_yticklabels()] == ["DE", "SDDE"] and first.get_title() == "near"
    assert [len([text for text in axis.get_yticklabels() if text.get_text()]) for axis in figure.axes] == [2, 0, 0, 2]
    assert first.get_ylim() == (1.6, -0.6) and texts(figure.legends[0]) == ["ours", "paper"]
    assert figure.get_size_inches()[1] == pytest.approx(2 * (1.3 + 0.6))
    assert not plots.ours_beside_paper({"near": [("DE", NAN, NAN, 2.0, NAN)]}).legends


def test_histograms_are_clipped_where_almost_nothing_is():
    inside = np.linspace(0, 10, 1001)
    outside = {"SVHN": ("far", np.linspace(-5, 5, 1001), 0.75), "own": ("", np.full(5, 1e9), 0.5)}
    figure = plots.score_histograms({"DE": ("average", inside, outside)})
    axis, = figure.axes
    low, high = np.percentile(np.concatenate([inside, *(v for _, v, _ in outside.values())]), [0.5, 99.5])
    edges = [axis.patches[0].get_x(), axis.patches[48].get_x() + axis.patches[48].get_width()]
    assert edges == pytest.approx([low, high]) and len(axis.patches) == 49 + 2
    assert sum(patch.get_height() * patch.get_width() for patch in axis.patches[:49]) == pytest.approx(1), "a density"
    assert to_hex(axis.patches[0].get_facecolor()) == plots.GREY
    assert [curve(line)[2:] for line in axis.lines] == [(COLOURS[0], "--"), (COLOURS[1], "-")]
    assert [to_hex(patch.get_edgecolor()) for patch in axis.patches[49:]] == list(COLOURS[:2])
    assert texts(axis.get_legend()) == ["in-distribution (1,001)", "far: SVHN (1,001), AUROC 75.00 %",
                                        "own (5), AUROC 50.00 %"]
    assert axis.get_title() == "DE" and axis.get_xlabel() == "average; larger: more in-distribution"
    assert not len(axis.get_yticks())
    assert plots.score_histograms({"DE": ("s", np.ones(3), {"x": ("near", np.ones(3), 0.5)})}).axes


def test_a_roc_curve_is_drawn_for_each_set():
    inside, far = np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 2, 2.5])
    figure = plots.roc_curves({"DE": ("s", inside, {"SVHN": ("very_far", far, 0.75), "own": ("near", far + 1, 0.5)})})
    axis, = figure.axes
    assert curve(axis.lines[0])[:3] == ([0, 100], [0, 100], plots.GREY)
    x, y = plots.roc_points(inside, far)
    assert curve(axis.lines[1]) == (list(x), list(y), COLOURS[0], ":")
    assert curve(axis.lines[2])[2:] == (COLOURS[1], "-")
    assert texts(axis.get_legend()) == ["very far: SVHN, AUROC 75.00 %", "near: own, AUROC 50.00 %"]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == (
        "OOD images accepted (%)", "in-distribution images accepted (%)", "DE")
    assert axis.get_xlim() == axis.get_ylim() == (-1, 101) and axis.get_aspect() == 1


def test_points_of_the_roc_are_shares_at_or_above_each_threshold():
    x, y = plots.roc_points(np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 2, 2]))
    assert x.tolist() == [0, 0, 0, 50, 75, 100] and y.tolist() == [0, 25, 50, 75, 100, 100]
    assert len(plots.roc_points(np.arange(1000.0), np.arange(1000.0))[0]) == 1001
    x, y = plots.roc_points(np.arange(5000.0), np.arange(-100, 4900.0), most=11)
    assert len(x) == 12 and (x[1], y[1]) == (0, pytest.approx(0.02)) and (x[-1], y[-1]) == (100, 100)


def test_the_reliability_of_each_bin():
    edges = np.linspace(0, 1, 16)
    top = np.array([0.95] * 12 + [0.62] * 3 + [1.0, edges[9]])
    probabilities = np.stack([1 - top, top], 1)
    labels = np.array([1] * 9 + [0] * 3 + [1, 1, 0] + [1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of 0/0 in an empty bin
        means, accuracies, counts, ece = plots.reliability(probabilities, labels)
    assert counts.tolist() == [0] * 8 + [1, 3, 0, 0, 0, 0, 13]
    assert means[[8, 9, 14]] == pytest.approx([0.6, 0.62, (12 * 0.95 + 1) / 13]) and np.isnan(means[:8]).all()
    assert accuracies[[8, 9, 14]] == pytest.approx([1, 2 / 3, 10 / 13])
    assert ece == pytest.approx(expected_calibration_error(probabilities, labels))
    assert plots.reliability(np.array([[0.0, 0.0]]), np.array([0]))[2].tolist() == [1] + [0] * 14
    figure = plots.reliability_diagrams({"DE": {"T = 1": (probabilities, labels),
                                                "T": (probabilities[:9], labels[:9])}})
    upper, lower = figure.axes
    assert curve(upper.lines[0])[:3] == ([0, 1], [0, 1], plots.GREY)
    hollow = [(len(line.get_xdata()), to_hex(line.get_color()), line.get_markerfacecolor()) for line in upper.lines
              if line.get_marker() == "o"]
    assert hollow == [(1, COLOURS[0], COLOURS[0]), (2, COLOURS[0], "none"), (0, COLOURS[1], COLOURS[1]),
                      (1, COLOURS[1], "none")]
    assert texts(lower.get_legend())[0] == f"T = 1, ECE {ece:.4f}" and len(texts(lower.get_legend())) == 2
    stairs = lower.patches[0].get_data()
    assert stairs.values.tolist() == counts.tolist() and stairs.edges == pytest.approx(edges)
    assert to_hex(lower.patches[1].get_edgecolor()) == COLOURS[1] and lower.get_yscale() == "symlog"
    assert (upper.get_title(), upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == (
        "DE", "accuracy", "samples", "confidence") and lower.get_ylim()[0] == 0
    assert upper.get_xlim() == upper.get_ylim() == (-0.02, 1.02)
    many = plots.reliability_diagrams({f"{k}": {} for k in range(4)})
    assert many.get_size_inches() == pytest.approx([3 * 3.9, 2 * 4.8]) and len(many.axes) == 8


def test_ten_samples_are_not_few():
    for count, full in ((9, 0), (10, 1)):
        figure = plots.reliability_diagrams({"DE": {"T": (np.full((count, 1), 1.0), np.zeros(count, int))}})
        assert [len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o"] == [full, 1 - full]


def test_training_curves_are_errors_in_per_cent():
    runs = {"DE": [([1, 2], [0.5, 1.0]), ([1, 2], [0.5, 0.75])], "SDDE": [([1], [0.9])],
            **{f"m{k}": [([1, 2], [0.5, 0.6])] for k in range(8)}}
    axis, = plots.training_curves({"test images": runs}).axes
    assert [curve(line) for line in axis.lines[:2]] == [([1, 2], [50, 0], COLOURS[0], "-"),
                                                        ([1, 2], [50, 25], COLOURS[0], "-")]
    assert axis.lines[2].get_marker() == "o" and axis.lines[0].get_marker() == "None"
    assert curve(axis.lines[2])[2:] == (COLOURS[1], "-")
    assert [curve(line)[2:] for line in axis.lines[-2:]] == [(COLOURS[8], "-"), (COLOURS[0], "--")]
    assert texts(axis.get_legend()) == ["DE", "SDDE", *(f"m{k}" for k in range(8))]
    assert axis.yaxis.get_transform().linthresh == pytest.approx(10) and axis.get_ylim()[0] == pytest.approx(-0.5)
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("test images", "epoch", "error (%)")
    assert axis.yaxis.get_major_formatter()(0.50, None) == "0.5"


def test_saliency_maps_stand_beside_their_image():
    image, maps = np.zeros((4, 4, 3), np.uint8), np.random.default_rng(0).random((3, 2, 2))
    correlations = np.array([[1, 0.5, 0.2], [0.5, 1, 0.1], [0.2, 0.1, 1]])
    methods = {"DE": [(maps, correlations, 7), (maps, correlations, 8)],
               "SDDE": [(maps[:2], correlations[:2, :2], 9)] * 2}
    axis, = plots.saliency_maps([("a", image), ("b", image)], methods).axes
    assert len(axis.images) == 2 * (1 + 2 * 3 + 1 + 2 * 2 + 1)
    said = {text.get_text(): text.get_position() for text in axis.texts}
    assert {"predicts 7", "predicts 8", "predicts 9", "mean r = +0.27", "mean r = +0.50", "DE: maps of 3 members",
            "SDDE: maps of 2 members", "a", "b", "correlation"} == set(said)
    assert said["a"] == pytest.approx((1.6, 0.9)) and said["b"] == pytest.approx((1.6, 0.9 + 1.32))
    extents = [tuple(np.round(picture.get_extent(), 2)) for picture in axis.images]
    assert extents[0] == (1.7, 2.7, 1.4, 0.4) and extents[1] == extents[2] == (2.96, 3.96, 1.4, 0.4)
    assert extents[7] == (6.14, 7.14, 1.4, 0.4) and extents[8] == (7.64, 8.64, 1.4, 0.4)
    assert (axis.images[7].get_clim(), axis.images[7].get_cmap().name) == ((-1, 1), "RdBu_r")
    assert axis.images[2].get_array().tolist() == maps[0].tolist() and axis.images[2].get_cmap().name == "magma"
    right = 1.7 + 1.06 + (3 * 1.06 + 1.5) + (2 * 1.06 + 1.5)
    assert axis.get_position().bounds == (0, 0, 1, 1)
    assert axis.figure.get_size_inches() == pytest.approx((right, 0.4 + 1.32 * 2))
    assert axis.get_xlim() == pytest.approx((0, right)) and axis.get_ylim() == pytest.approx((0.4 + 1.32 * 2, 0))
    assert said["DE: maps of 3 members"] == pytest.approx((2.96 + 1.59, 0.2)) and not axis.axison


def test_correlations_are_points_around_their_mean():
    values = np.array([[0.1, 0.3, NAN], [0.5, 0.5, 0.8]])
    axis, = plots.saliency_correlations(["in", "out"], {"DE": values, "SDDE": values + 0.1}).axes
    means = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() == "o"]
    assert np.array(means) == pytest.approx(np.array([(0.2, -0.15), (0.6, 0.85), (0.3, 0.15), (0.7, 1.15)]))
    bars = [segment[:, 0] for part in axis.collections for segment in part.get_segments()]
    assert np.ptp(bars[0]) == pytest.approx(0.2) and texts(axis.get_legend()) == ["DE", "SDDE"]
    dots = [line for line in axis.lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [2, 3, 2, 3] and dots[0].get_xdata().tolist() == [0.1, 0.3]
    assert all(abs(y + 0.15) <= 0.08 for y in dots[0].get_ydata()) and to_hex(dots[2].get_color()) == COLOURS[1]
    assert axis.get_ylim() == (1.6, -0.6) and [text.get_text() for text in axis.get_yticklabels()] == ["in", "out"]
    assert list(axis.lines[-1].get_xdata()) == [0, 0] and axis.get_xlabel() == "mean correlation of two members' maps"
