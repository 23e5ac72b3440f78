"""Plots of runs, from their saved logits and logs: score histograms, reliability diagrams, training curves."""
import io

import matplotlib
import numpy as np

matplotlib.use("Agg")  # before pyplot: there may be no screen
from matplotlib import pyplot as plt

from utils.io import atomic_write

GREY, BLUE, COLOURS = "0.6", "tab:blue", ("tab:orange", "tab:red", "tab:purple", "tab:brown")


def save(figure, path):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def score_histograms(path, title, methods):
    """One panel a method. methods: name → (score's name, in-distribution scores, {set: scores}, {set: AUROC})."""
    figure, axes = plt.subplots(1, len(methods), figsize=(3.6 * len(methods), 3), squeeze=False, layout="constrained")
    for axis, (name, (score, inside, outside, aurocs)) in zip(axes[0], methods.items()):
        everything = np.concatenate([inside, *outside.values()])
        low, high = np.percentile(everything, [0.5, 99.5])  # a few far ones would squeeze the rest
        style = {"bins": np.linspace(low, high, 50), "density": True}
        axis.hist(np.clip(inside, low, high), color=BLUE, alpha=0.6, label="in-distribution", **style)
        for (out, values), colour in zip(outside.items(), COLOURS):
            axis.hist(np.clip(values, low, high), histtype="step", linewidth=1.5, color=colour,
                      label=f"{out}, AUROC {100 * aurocs[out]:.1f} %", **style)
        axis.set(title=name, xlabel=f"{score} (larger: more in-distribution)", yticks=[])
        axis.legend(fontsize=7)
    figure.suptitle(title)
    save(figure, path)


def reliability_diagrams(path, title, methods, bins=15):
    """One panel a method. methods: name → {label: (probabilities (n, C), labels (n))}."""
    figure, axes = plt.subplots(1, len(methods), figsize=(3 * len(methods), 3.2), squeeze=False, layout="constrained")
    edges = np.linspace(0, 1, bins + 1)
    for axis, (name, curves) in zip(axes[0], methods.items()):
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        for label, (probabilities, labels) in curves.items():
            confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
            index = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
            filled = np.unique(index)
            axis.plot([confidence[index == b].mean() for b in filled], [correct[index == b].mean() for b in filled],
                      marker="o", markersize=3, label=label)
        axis.set(title=name, xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        axis.legend(fontsize=7)
    figure.suptitle(title)
    save(figure, path)


def training_curves(path, title, methods):
    """Test error over epochs, a thin line a seed. methods: name → list of (epochs, test accuracies)."""
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for k, (name, runs) in enumerate(methods.items()):
        for j, (epochs, accuracies) in enumerate(runs):
            axis.plot(epochs, 100 * (1 - np.asarray(accuracies)), color=f"C{k}", linewidth=0.8, alpha=0.8,
                      label=None if j else name)
    axis.set(title=title, xlabel="epoch", ylabel="test error (%)", yscale="log")
    axis.legend(fontsize=7)
    save(figure, path)
