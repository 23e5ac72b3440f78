"""The tables of the `dismax` benchmark: ours beside the paper's Table 2, and every method under every score."""
from collections import namedtuple

import numpy as np
import pandas as pd

from data.datasets import OUTLIERS
from recipes import PUBLISHED, PUBLISHED_SEEDS, published_score
from reporting import papers
from reporting.names import METHODS, MODELS, TITLES
from reporting.reading import made_on
from reporting.verdicts import number, verdict

# which weights, which ECE, and which ending of the detection metrics in metrics.csv
Protocol = namedtuple("Protocol", "weights ece ending")
PROTOCOLS = {
    "as published": Protocol("best", "ece_fitted_on_test", "_published"),
    "honest": Protocol("last", "ece_cross_fitted", ""),
}
LEGEND = """\
as published: the epoch with the best test accuracy; temperature fitted, and ECE measured, on the same test images;
  detection by the published code's rules (a tie counts against the in-distribution sample).
honest: the last epoch; temperature fitted on one stratified half of the test images and ECE measured on the other, and
  the other way round; a tie counts half.
Mean ± sample standard deviation over seeds. In AUPR the outliers are the positive class. DisMax is read with MPS for
  near outliers (ImageNet-O: MMLES) and MMLES for the others, see README; the table of scores has all. † with FPR.
Δ is ours minus the paper's: ok where |Δ| ≤ max(τ, 2·√(s²/n of the paper + s²/n of ours)), τ = 0.3 for ACC, 0.005 for
  ECE, 1.0 for near and 1.5 for other outliers; OFF where it is more."""

# one column of the table: where it stands in metrics.csv and in the paper's CSV, and how far off is still the same
Column = namedtuple("Column", "title set group metric scale digits paper tau")
PAPER_COLUMNS = {"cifar10": "near_aupr", "cifar100": "near_aupr", "tinyimagenet_resize": "tinyimagenet_auroc",
                 "lsun_resize": "lsun_auroc", "svhn": "svhn_aupr", "imagenet_o": "imagenet_o_auroc"}


def columns_of(dataset):
    yield Column("ACC (%)", dataset, "id", "accuracy", 100, 2, "acc", 0.3)
    yield Column("ECE", dataset, "id", "ece", 1, 4, "ece", 0.005)
    for group, names in OUTLIERS[dataset].items():
        metric = "auroc" if group == "far" or dataset == "imagenet1k" else "aupr_out"
        for name in names:
            title = f"{group.replace('_', ' ')}: {TITLES[name]} {metric.split('_')[0].upper()} (%)"
            yield Column(title, name, group, metric, 100, 2, PAPER_COLUMNS.get(name), 1.0 if group == "near" else 1.5)


def compare(dataset, metrics):
    """Tidy: a row a model × method × protocol × column, with the paper's value, ours, and what to think of it."""
    metrics = metrics[(metrics.benchmark == "dismax") & metrics.loss.isin(list(METHODS))]
    published = papers.dismax()
    published = published[published.dataset == dataset]
    rows = []
    for model in (m for m in MODELS if m in set(metrics.model)):
        mine, theirs = metrics[metrics.model == model], published[published.model == model]
        for loss, method, paper in methods_of(theirs):
            ours = mine[mine.loss == loss]
            if paper is None and ours.empty:
                continue
            for changed in sorted(set(mine.changed)) if loss else [""]:  # "": the recipe as it stands
                for column in columns_of(dataset):
                    for protocol in PROTOCOLS:
                        values = seed_values(ours[ours.changed == changed], dataset, loss, column, protocol)
                        rows.append({
                            "dataset": dataset, "model": model, "loss": loss, "method": method, "changed": changed,
                            "protocol": protocol, "column": column.title,
                            **verdict(column, paper, PUBLISHED_SEEDS.get(dataset), values, comparable=not changed)})
    return pd.DataFrame(rows)


def methods_of(theirs):
    """(loss, name, the paper's row or None): ours in our order, then those that the paper only quotes, loss ""."""
    by_loss = {row.loss: row for row in theirs.itertuples() if row.loss}
    for loss, name in METHODS.items():
        yield loss, by_loss[loss].method if loss in by_loss else name, by_loss.get(loss)
    for row in theirs.itertuples():
        if not row.loss:
            yield "", row.method, row


def seed_values(ours, dataset, loss, column, protocol):
    """Our values of one cell, one a seed, in the table's unit."""
    weights, ece, ending = PROTOCOLS[protocol]
    metric = {"accuracy": "accuracy", "ece": ece}.get(column.metric, column.metric + ending)
    score = published_score(dataset, loss, column.group) if loss and column.group != "id" else ""
    chosen = (ours.set == column.set) & (ours.weights == weights) & (ours.metric == metric) & (ours.score == score)
    return ours[chosen].value.to_numpy(float) * column.scale


def sections(dataset, tidy, table):
    """(network, headers, rows, note) in the layout of Table 2. table: a row a run on this data set."""
    columns = list(columns_of(dataset))
    for model, part in tidy.groupby("model", sort=False):
        of_paper = PUBLISHED_SEEDS[dataset] if model in PUBLISHED.get(dataset, ()) else None
        rows = []
        for method, cells in part.groupby("method", sort=False):
            for k, (label, texts) in enumerate(lines_of(cells, columns, of_paper)):
                rows.append(["" if k else method, label, *texts])  # a method is named in its first row only
        done = table[(table.model == model) & table.loss.isin(list(METHODS))]
        yield MODELS[model], ["method", "", *(c.title for c in columns)], rows, made_on(done)


def lines_of(cells, columns, of_paper):
    """One method's lines, (label, texts): the paper's, then ours under each protocol, with Δ where it can be judged."""
    by = {(c.changed, c.protocol, c.column): c for c in cells.itertuples()}
    paper = [by[cells.changed.iloc[0], "honest", column.title] for column in columns]
    if any(np.isfinite(c.paper) for c in paper):
        yield "paper", [number(c.paper, c.paper_std, 1 if column.scale == 100 else 4)
                        for c, column in zip(paper, columns)]
    if not cells.loss.iloc[0]:
        return  # only quoted
    for changed in dict.fromkeys(cells.changed):
        for protocol in PROTOCOLS:
            ours = [by[changed, protocol, column.title] for column in columns]
            seeds = max(c.ours_n for c in ours)
            label = f"ours, {protocol}"
            if seeds:
                label += f", n = {seeds}" + (f"/{of_paper}" if of_paper else "")
            if changed:
                label += f", {'SHORTENED' if 'epochs' in changed else 'CHANGED'}: {changed}"
            yield label, [our_number(c, column, seeds) for c, column in zip(ours, columns)]
            if any(c.verdict for c in ours):
                yield "Δ to the paper", [f"{c.delta:+.{column.digits}f} {c.verdict}" if c.verdict else ""
                                         for c, column in zip(ours, columns)]


def our_number(cell, column, seeds):
    if not cell.ours_n:
        return "missing"
    return number(cell.ours, cell.ours_std, column.digits) + (f" (n = {cell.ours_n})" if cell.ours_n != seeds else "")


# ---- every method under every score ----


def scores(metrics):
    """Tidy: AUROC of every score on every outlier set, mean, std and n over seeds; last epoch."""
    chosen = metrics[(metrics.benchmark == "dismax") & (metrics.metric == "auroc") & (metrics.weights == "last")
                     & metrics.loss.isin(list(METHODS))]
    by = chosen.groupby(["model", "changed", "set", "loss", "score"], sort=False).value
    return (100 * by.agg(["mean", "std"])).assign(n=by.size()).reset_index()


def score_sections(tidy):
    for (model, changed), part in tidy.groupby(["model", "changed"], sort=False):
        names = list(dict.fromkeys(part.score))
        rows = []
        for (outliers, loss), cells in part.groupby(["set", "loss"], sort=False):
            by = cells.set_index("score")
            rows.append([TITLES[outliers], METHODS[loss], *(number(by["mean"][s], by["std"][s], 2) for s in names)])
        yield MODELS[model], ["outliers", "method", *names], rows, f"CHANGED RECIPE: {changed}" if changed else ""
