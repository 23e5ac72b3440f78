"""Make docs/picture.png, the picture of README.md:  python docs/picture.py        a minute on two cores

Left: the scores of a DisMax network on digits 0–6, which it has learned, and 7–9, with the threshold that turns away
5 % of 0–6. Right: three digits and the saliency maps of five networks, of a deep ensemble and of SDDE.
"""
import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
import torch
from matplotlib import pyplot as plt
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT)]
import sdde as ensembles  # noqa: E402  examples/sdde.py

from losses import attach  # noqa: E402

EXAMPLES = (4, 0, 1)  # of the test images


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(0)
    data = ensembles.digits()
    figure = plt.figure(figsize=(9, 3), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1.1, 1, 1])
    score_histogram(left, *data)
    for part, title, weight in ((middle, "deep ensemble", 0), (right, "SDDE", ensembles.WEIGHT)):
        draw_saliency(part, title, ensembles.train(weight, *data[:2], epochs=10), data[2])
    figure.savefig(ROOT / "docs/picture.png", dpi=110)


def score_histogram(part, train_images, train_labels, test_images, test_labels, unknown):
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(),
        nn.Linear(64 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, ensembles.CLASSES))
    criterion = attach(model, "dismax", regularization="fpr")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    rows = torch.utils.data.TensorDataset(train_images, train_labels)
    for _ in range(6):
        for images, labels in torch.utils.data.DataLoader(rows, 64, shuffle=True):
            images, labels = criterion.preprocess(images, labels)
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
    model.eval()
    classifier, held_out = criterion.model_classifier, torch.arange(len(test_labels)) % 2 == 0
    with torch.no_grad():
        classifier.set_thresholds(model(test_images[held_out]))
        scores = [classifier.scores(model(images)).numpy() for images in (test_images[~held_out], unknown)]
    axis = part.subplots()
    axis.hist(scores, bins=25, density=True, label=["0–6, learned", "7–9, never seen"])
    axis.axvline(classifier.threshold(0.05), color="black", linestyle="--", label="threshold, 5 % of 0–6")
    axis.set(xlabel="score, larger = more in-distribution", yticks=[])
    axis.legend(fontsize=7, loc="upper right")
    part.suptitle("DisMax: known or not?", fontsize=10)


def draw_saliency(part, title, members, images):
    cams, _ = ensembles.saliency(members, images)  # (N, B, 8, 8)
    axes = part.subplots(3, 6, squeeze=False)
    for row, k in zip(axes, EXAMPLES):
        row[0].imshow(images[k, 0], cmap="gray")
        for axis, cam in zip(row[1:], cams[:, k]):
            axis.imshow(cam, cmap="magma")
    for axis in axes.flat:
        axis.axis("off")
    mean = ensembles.correlation(cams)
    part.suptitle(f"{title}: saliency of five members,\nmean correlation {mean:+.2f}", fontsize=10)


if __name__ == "__main__":
    main()
