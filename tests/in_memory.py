"""Runs with made-up metrics that are never written: what the tables are made of, for tests of one function."""
import math
from pathlib import Path

from recipes import METHODS
from reporting import openood
from reporting.comparison import Line
from reporting.load import EvaluatedRun
from reporting.verdicts import Cell

PUBLISHED, COMMON = openood.BENCHMARK.protocols


def in_memory(method, seed=1, rows=(), dataset="mnist", model="lenet", changed="", log=(), members=None, device="CPU",
              seconds=100.0, folder=None, **config):
    """An EvaluatedRun. rows: (benchmark, set, group, checkpoint, score, metric, value), with or without a note."""
    if members is None:
        members = METHODS[method].members if method in METHODS else 1
    config = {"method": {"members": members}, "recipe": {"epochs": 300}, "best_epoch": 7, "best_accuracy": 0.9,
              "last_accuracy": 0.8, "train_seconds": seconds, "sessions": [{"device": "other"}, {"device": device}],
              **config}
    folder = folder or Path(f"results/{dataset}/{model}/{method}/seed{seed}")
    return EvaluatedRun(folder, dataset, model, method, seed, changed, config, list(log),
                        [(*row, "")[:8] for row in rows])


def cell(**changes):
    return Cell("column", math.nan, math.nan, 0, math.nan, math.nan, 0, 0, math.nan, math.nan, "")._replace(**changes)


def line(runs=(), method="de", cells=(), changed="", paper=None, protocol=PUBLISHED, title="DE", model="lenet"):
    return Line(model, method, title, changed, protocol, list(runs), paper, list(cells))


def mnist_run(method="de", seed=1, near=0.9, far=0.8, notes=None, images=100, **more):
    """A run on the near and far sets of MNIST, with every score, and another value at the last epoch."""
    rows = [("openood", "mnist", "id", c, "", "accuracy", 0.99) for c in ("best", "last")]
    rows += [("openood", "mnist", "id", "best", "", "images", 9000)]
    for group, name, value in (("near", "notmnist", near), ("near", "fashion_mnist", near), ("far", "textures", far)):
        for checkpoint, shift in (("best", 0), ("last", -0.1)):
            rows += [("openood", name, group, checkpoint, "", "images", images, (notes or {}).get(name, ""))]
            rows += [("openood", name, group, checkpoint, score, "auroc", value + shift + more_by)
                     for score, more_by in (("average", 0), ("logit-average", 0.02), ("minmax", 0.04))]
    return in_memory(method, seed, rows, **more)
