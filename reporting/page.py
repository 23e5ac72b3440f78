"""results/report.html: the tables and, for each network, pictures of its runs (`python analyze.py --report`)."""
import csv
import html

import numpy as np
import torch

from data.datasets import OUTLIERS
from metrics.calibration import cross_fitted_logits, probabilities_of
from metrics.detection import detection_metrics
from metrics.scores import SCORES
from recipes import score_of
from reporting import figures
from utils.io import write_text

STYLE = """body { font: 15px/1.45 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em .8em; text-align: left; white-space: nowrap }
thead { border-bottom: 2px solid } tr:nth-child(even) { background: #f4f4f4 }
img { max-width: 100% } pre { color: #555 }"""


def write_report(results_dir, tables, table, names, titles):
    """Figures to results_dir/figures/, and the page.

    Args:
        tables: (dataset, HTML of its tables) in order.
        table: a row a run, as analyze.read_runs gives it.
        names, titles: what losses and sets are called.
    """
    body = []
    for dataset, tables_html in tables:
        body.append(tables_html)
        for (model, changed), chosen in table[table.dataset == dataset].groupby(["model", "changed"]):
            for picture in pictures(results_dir, dataset, model, chosen, names, titles):
                caption = html.escape(f"{model}{f', {changed}' if changed else ''}: {picture.stem.split('_')[-1]}")
                body.append(f'<p>{caption}<br><img src="figures/{picture.name}" alt="{caption}"></p>')
    page = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Results</title><style>{STYLE}</style>'
    write_text(results_dir / "report.html", page + "\n".join(body) + "</html>\n")


def pictures(results_dir, dataset, model, chosen, names, titles):
    """Draw one network's figures: the first seed's logits (last epoch), every seed's log; of ensembles and of what is
    not there nothing. Yields their paths."""
    histograms, reliability, curves = {}, {}, {}
    for loss in (loss for loss in names if loss in set(chosen.loss)):
        folders = list(chosen[chosen.loss == loss].folder)
        curves[names[loss]] = [log_of(folder) for folder in folders if (folder / "log.csv").exists()]
        if not (folders[0] / "logits" / f"{dataset}.npz").exists():
            continue  # results/reference: logits are not committed
        logits, labels = saved_logits(folders[0], dataset)
        score = score_of(loss)
        scored = {name: SCORES[score](torch.from_numpy(z)).numpy() for name, z in logits.items()}
        inside = scored.pop(dataset)
        aurocs = {titles[name]: detection_metrics(inside, values)["auroc"] for name, values in scored.items()}
        histograms[names[loss]] = score, inside, {titles[name]: values for name, values in scored.items()}, aurocs
        z = logits[dataset]
        reliability[names[loss]] = {"T = 1": (probabilities_of(z), labels),
                                    "T cross-fitted": (probabilities_of(cross_fitted_logits(z, labels)[0]), labels)}
    stem = results_dir / "figures" / f"{dataset}_{model}"
    for draw, methods, title in (
        (figures.score_histograms, histograms, "scores"), (figures.reliability_diagrams, reliability, "reliability"),
        (figures.training_curves, curves, "training"),
    ):
        path = stem.with_name(f"{stem.name}_{title}.png")
        if methods:
            draw(path, f"{titles[dataset]}, {model}", methods)
            yield path


def saved_logits(run, dataset):
    """name → logits (n, C) float64 of the last epoch's weights, and the labels of the in-distribution set."""
    names = [dataset, *(name for group in OUTLIERS[dataset].values() for name in group)]
    paths = {name: run / "logits" / f"{name}.npz" for name in names}
    logits = {name: np.load(path)["logits"].mean(0).astype(np.float64) for name, path in paths.items() if path.exists()}
    return logits, np.load(paths[dataset])["labels"]


def log_of(run):
    with open(run / "log.csv") as file:
        rows = list(csv.DictReader(file))
    return [int(row["epoch"]) for row in rows], [float(row["selection_acc"]) for row in rows]
