"""Plots of runs. Each function returns a matplotlib Figure; `save` writes it for a light and for a dark page."""
import io
import textwrap

import matplotlib

matplotlib.use("Agg")  # there may be no screen
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metrics.calibration import binned_gap
from utils.io import atomic_write

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c564b", "#7f7f7f", "#bcbd22")
LINES = {"near": "-", "far": "--", "very_far": ":"}
LIGHT = {"figure.facecolor": "white", "savefig.facecolor": "white"}
PALE = "#d8d8d8"
DARK = {"figure.facecolor": "#16181c", "savefig.facecolor": "#16181c", "axes.facecolor": "#16181c", "text.color": PALE,
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), PALE)}
COMMON_STYLE = {
    "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8, "legend.frameon": False, "axes.grid": True,
    "grid.alpha": 0.25, "figure.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False,
    "text.parse_math": False}  # a $ in a name is no formula
GREY = "#888888"
OURS = {"marker": "o", "color": COLOURS[0]}
THEIRS = {"marker": "D", "color": GREY, "markerfacecolor": "none"}
BINS = 15
FEW = 10  # samples in a bin, below which its accuracy says little


def save(path, draw):
    """Write draw() to path, and for dark pages to <name>_dark.png beside it."""
    for style, target in ((LIGHT, path), (DARK, dark(path))):
        with matplotlib.rc_context({**COMMON_STYLE, **style}):
            buffer = io.BytesIO()
            draw().savefig(buffer, format="png", dpi=110)
        with atomic_write(target) as file:
            file.write(buffer.getvalue())


def dark(path):
    return path.with_name(f"{path.stem}_dark{path.suffix}")


def panels(names, width=3.9, height=3.2):
    """A Figure and (name, axes) of panels, three in a row at most."""
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.08)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for empty in axes[len(names):]:
        empty.remove()
    return figure, list(zip(names, axes))


def legend_below(axis):
    """Under the axes, where it hides nothing."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1, borderaxespad=0)


# ---- the picture that comes first ----

def ours_beside_paper(columns):
    """Ours beside the paper's, a panel per column of a table.

    columns: {title: [(method, paper's mean, std, our mean, std)]}, the same methods in each; NaN for what there is none
    of.
    """
    names = list(columns)
    methods = [row[0] for row in columns[names[0]]]
    figure, axes = panels(names, height=1.3 + 0.3 * len(methods))
    for k, (name, axis) in enumerate(axes):
        for y, (_, paper, paper_std, ours, ours_std) in enumerate(columns[name]):
            for value, std, shift, style in ((paper, paper_std, -0.14, THEIRS), (ours, ours_std, 0.14, OURS)):
                if np.isfinite(value):
                    axis.errorbar(value, y + shift, xerr=std if np.isfinite(std) else None, markersize=5, capsize=2,
                                  linestyle="none", **style)
        axis.set_title(textwrap.fill(name, 34), fontsize=9)
        axis.set(yticks=range(len(methods)), ylim=(len(methods) - 0.4, -0.6))
        axis.set_yticklabels(methods if k % 3 == 0 else [])
    if np.isfinite([row[1] for rows in columns.values() for row in rows]).any():
        handles = [axes[0][1].plot([], [], linestyle="none", label=label, **style)[0]
                   for label, style in (("ours", OURS), ("paper", THEIRS))]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


# ---- detection ----

def score_histograms(methods):
    """A panel per method. methods: name → (score's name, in-distribution scores, {set: (group, scores, AUROC)})."""
    figure, axes = panels(methods, height=4)
    for name, axis in axes:
        score, id_scores, ood_sets = methods[name]
        everything = np.concatenate([id_scores, *(values for _, values, _ in ood_sets.values())])
        low, high = np.percentile(everything, [0.5, 99.5])  # a few far ones would squeeze the rest
        style = {"bins": np.linspace(low, max(high, low + 1e-6), 50), "density": True}
        axis.hist(np.clip(id_scores, low, high), color=GREY, alpha=0.5, label=f"in-distribution ({len(id_scores):,})",
                  **style)
        for (out, (group, values, auroc)), colour in zip(ood_sets.items(), COLOURS):
            axis.hist(np.clip(values, low, high), histtype="step", linewidth=1.5, color=colour,
                      linestyle=LINES.get(group, "-"), **style)
            axis.plot([], [], color=colour, linestyle=LINES.get(group, "-"),
                      label=curve_label(group, f"{out} ({len(values):,})", auroc))
        axis.set(title=name, xlabel=f"{score}; larger: more in-distribution", yticks=[])
        legend_below(axis)
    return figure


def roc_curves(methods):
    """A panel per method; see score_histograms."""
    figure, axes = panels(methods, height=4.4)
    for name, axis in axes:
        _, id_scores, ood_sets = methods[name]
        axis.plot([0, 100], [0, 100], color=GREY, linewidth=0.8)
        for (out, (group, values, auroc)), colour in zip(ood_sets.items(), COLOURS):
            axis.plot(*roc_points(id_scores, values), color=colour, linestyle=LINES.get(group, "-"), linewidth=1.4,
                      label=curve_label(group, out, auroc))
        axis.set(title=name, xlabel="OOD images accepted (%)", ylabel="in-distribution images accepted (%)",
                 xlim=(-1, 101), ylim=(-1, 101), aspect="equal")
        legend_below(axis)
    return figure


def roc_points(id_scores, ood_scores, most=1000):
    """Per cent of OOD and of in-distribution scores at or above each threshold, from (0, 0) to (100, 100)."""
    thresholds = np.unique(np.concatenate([id_scores, ood_scores]))[::-1]
    if len(thresholds) > most:
        thresholds = thresholds[np.linspace(0, len(thresholds) - 1, most).round().astype(int)]
    accepted = [100 * (1 - np.searchsorted(np.sort(scores), thresholds) / len(scores))
                for scores in (ood_scores, id_scores)]
    return tuple(np.concatenate([[0], shares]) for shares in accepted)


def curve_label(group, name, auroc):
    place = f"{group.replace('_', ' ')}: {name}" if group else name
    return textwrap.fill(f"{place}, AUROC {100 * auroc:.2f} %", 50)


# ---- calibration and training ----

def reliability_diagrams(methods):
    """A panel per method: accuracy of each bin of confidence, and how many samples each bin has.

    methods: name → {label: (probabilities (n, C), labels (n))}. Bins are those of the ECE. A bin without samples has no
    point, and no line crosses it; one with fewer than ten has a hollow point.
    """
    columns = min(len(methods), 3)
    rows = -(-len(methods) // columns)
    figure = Figure(figsize=(3.9 * columns, 4.8 * rows), layout="constrained")
    parts = figure.subfigures(rows, columns, squeeze=False).flatten()
    for part, (name, curves) in zip(parts, methods.items()):
        top, bottom = part.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        for (label, (probabilities, labels)), colour in zip(curves.items(), COLOURS):
            centres, accuracies, counts, ece = reliability(probabilities, labels)
            top.plot(centres, accuracies, color=colour, linewidth=1, label=f"{label}, ECE {ece:.4f}")
            for few, face in ((False, colour), (True, "none")):
                chosen = (counts > 0) & ((counts < FEW) == few)
                top.plot(centres[chosen], accuracies[chosen], "o", markersize=4, color=colour, markerfacecolor=face)
            bottom.stairs(counts, np.linspace(0, 1, BINS + 1), color=colour)
        top.set(title=name, ylabel="accuracy", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        bottom.set(ylabel="samples", xlabel="confidence", yscale="symlog", ylim=(0, None))
        bottom.legend(*top.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, -0.6))
    return figure


def reliability(probabilities, labels):
    """(mean confidence, accuracy, count) of each bin, NaN where it is empty, and the ECE as a fraction."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    index = np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), confidence) - 1, 0, BINS - 1)
    counts = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, values, BINS) / counts for values in (confidence, correct)]
    return *means, counts, float(binned_gap(confidence, correct, BINS))


def training_curves(panels_of):
    """Error over epochs, a thin line a seed, a panel for each choice of images that it was measured on.

    panels_of: title → {method: [(epochs, accuracies)]}. The axis is logarithmic down to the least error that is not 0,
    and linear below, so that an error of 0 is drawn at 0.
    """
    figure, axes = panels(panels_of, width=6, height=3.8)
    for name, axis in axes:
        least = 100.0
        for (method, runs), k in zip(panels_of[name].items(), range(100)):
            for j, (epochs, accuracies) in enumerate(runs):
                errors = 100 * (1 - np.asarray(accuracies))
                errors[errors < 1e-9] = 0
                least = min([least, *errors[errors > 0]])
                axis.plot(epochs, errors, color=COLOURS[k % len(COLOURS)], linewidth=1,
                          linestyle=("-", "--", ":")[k // len(COLOURS) % 3], marker="o" if len(epochs) == 1 else None,
                          markersize=3, label=None if j else method)
        axis.set_yscale("symlog", linthresh=least)
        axis.set(title=name, xlabel="epoch", ylabel="error (%)")
        axis.set_ylim(bottom=-0.05 * least)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return figure


# ---- saliency ----

def saliency_maps(rows, methods):
    """A row per image: the image, and of each method the members' maps and their correlations.

    All of it is drawn into one axes, whose unit is the side of an image, since a hundred axes take ten times as long.

    Args:
        rows: [(label, image (H, W, 3) uint8)].
        methods: name → [(maps (N, h, w), correlations (N, N), class)], one a row.
    """
    step, left = 1.06, 1.7  # from image to image; room for labels
    widths = {name: len(of_method[0][0]) * step + 1.5 for name, of_method in methods.items()}
    right, bottom = left + step + sum(widths.values()), 0.4 + 1.32 * len(rows)
    figure = Figure(figsize=(right, bottom))
    axis = figure.add_axes((0, 0, 1, 1))
    for k, (label, image) in enumerate(rows):
        top, x = 0.4 + 1.32 * k, left + step + 0.2
        _tile(axis, image, left, top)
        axis.text(left - 0.1, top + 0.5, label, ha="right", va="center", fontsize=10)
        for name, of_method in methods.items():
            maps, correlations, predicted = of_method[k]
            n = len(maps)
            for m in range(n):
                _tile(axis, image, x + m * step, top, alpha=0.35)
                _tile(axis, maps[m], x + m * step, top, cmap="magma", alpha=0.8, interpolation="bilinear")
            _tile(axis, correlations, x + n * step, top, cmap="RdBu_r", vmin=-1, vmax=1)
            mean = (correlations.sum() - np.trace(correlations)) / (n * (n - 1))
            axis.text(x, top + 1.15, f"predicts {predicted}", va="center", fontsize=9)
            axis.text(x + n * step + 0.5, top + 1.15, f"mean r = {mean:+.2f}", ha="center", va="center", fontsize=10)
            if not k:
                axis.text(x + n * step / 2, 0.2, f"{name}: maps of {n} members", ha="center", va="center", fontsize=13)
                axis.text(x + n * step + 0.5, 0.2, "correlation", ha="center", va="center", fontsize=10)
            x += widths[name]
    axis.set(xlim=(0, right), ylim=(bottom, 0))
    axis.set_axis_off()
    return figure


def _tile(axis, image, left, top, **options):
    axis.imshow(image, extent=(left, left + 1, top + 1, top), aspect="auto", **{"interpolation": "nearest", **options})


def saliency_correlations(sets, methods):
    """The mean correlation over pairs of members' maps, a point per image and a mean with its standard deviation.

    Args:
        sets: titles. methods: name → (sets, images) values, NaN where there are fewer images.
    """
    figure = Figure(figsize=(7.5, 1.2 + 0.5 * len(sets)), layout="constrained")
    axis = figure.subplots()
    for k, (name, values) in enumerate(methods.items()):
        shift = (k - (len(methods) - 1) / 2) * 0.6 / len(methods)
        for y, of_set in enumerate(values):
            found = of_set[np.isfinite(of_set)]
            jitter = np.random.default_rng(y).uniform(-0.08, 0.08, len(found))
            axis.plot(found, y + shift + jitter, ".", color=COLOURS[k], alpha=0.15, markersize=3)
            axis.errorbar(found.mean(), y + shift, xerr=found.std(), fmt="o", markersize=5, capsize=2, color=COLOURS[k],
                          label=None if y else name)
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set(yticks=range(len(sets)), ylim=(len(sets) - 0.4, -0.6), xlabel="mean correlation of two members' maps")
    axis.set_yticklabels(sets)
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return figure
