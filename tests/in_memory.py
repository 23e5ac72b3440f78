"""Runs with made-up metrics that are never written: what the tables are made of, for tests of one function."""
from pathlib import Path

from recipes import METHODS
from reporting.load import EvaluatedRun


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
