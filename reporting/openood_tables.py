"""The tables of the `openood` benchmark: ours beside SDDE's, and every method under every score."""
from collections import namedtuple

import numpy as np
import pandas as pd

from data.datasets import OPENOOD, OUTLIERS
from metrics.ensemble import SCORES
from recipes import PUBLISHED_SEEDS, sdde_score
from reporting import papers
from reporting.names import ALL, METHODS, MODELS
from reporting.reading import made_on
from reporting.verdicts import number, verdict

LEGEND = """\
Images, splits and metrics of OpenOOD v1.5; temperature fitted on validation images, weights of the epoch that is best
  on them (single networks, and digits: on test images). near and far are unweighted means over the sets of a group.
as published: each method is read by the score that its released script names, ECE leaves out confidences of exactly 1.
fair: every method is read by the same score, logit-average; ECE counts every sample. Mean ± sample standard deviation
  over seeds. In AUROC and FPR95 the outliers are the positive class (FPR95: in-distribution images flagged when 95 % of
  the outliers are); NLL in nats, Brier from 0 to 2.
Δ is ours minus the paper's: ok where |Δ| ≤ max(τ, 2·√(s²/n of the paper + s²/n of ours)), τ = 1.0 near and 1.5 far; OFF
  where it is more; ? where a set is missing or has other images than OpenOOD's, so that nothing can be said."""

Column = namedtuple("Column", "title group metric scale digits paper tau")
COLUMNS = (
    Column("ACC (%)", "id", "accuracy", 100, 2, None, 0), Column("ECE", "id", "ece", 1, 4, None, 0),
    Column("NLL", "id", "nll", 1, 4, None, 0), Column("Brier", "id", "brier", 1, 4, None, 0),
    Column("near AUROC (%)", "near", "auroc", 100, 2, "near_auroc", 1.0),
    Column("far AUROC (%)", "far", "auroc", 100, 2, "far_auroc", 1.5),
    Column("near FPR95 (%)", "near", "fpr95", 100, 2, None, 0),
    Column("far FPR95 (%)", "far", "fpr95", 100, 2, None, 0),
)
PROTOCOLS = ("as published", "fair")
FAIR = "logit-average"  # the one score by which the fair line reads every method


def of_benchmark(metrics):
    """Rows of this benchmark; of single networks SoftMax only, the others have tables of their own."""
    single = metrics.loss.isin(list(METHODS)) & (metrics.loss != "softmax")
    return metrics[(metrics.benchmark == "openood") & ~single]


def compare(dataset, metrics):
    """Tidy: a row a model × method × recipe × protocol × column, with the paper's value, ours, and what to think of it.

    Args:
        metrics: rows of metrics.csv of all runs on this data set.
    """
    metrics, published = of_benchmark(metrics), papers.sdde()
    metrics, published = metrics[metrics.weights == "best"], published[published.dataset == dataset]
    wanted = {group: set(sets) for group, sets in OPENOOD.get(dataset, OUTLIERS.get(dataset, {})).items()}
    rows = []
    for model in dict.fromkeys(metrics.model):
        mine, theirs = metrics[metrics.model == model], published[published.model == model].set_index("loss")
        for loss in in_order({*mine.loss, *theirs.index}):
            ours = mine[mine.loss == loss]
            paper = theirs.loc[loss] if loss in theirs.index else None
            for changed in sorted(set(ours.changed)) or [""]:
                part = ours[ours.changed == changed]
                for column in COLUMNS:
                    those = part[part.group == column.group]
                    complete = column.group == "id" or not those.note.any() and all(
                        set(of_seed) == wanted.get(column.group) for _, of_seed in those.groupby("seed").set)
                    for protocol in PROTOCOLS:
                        values = seed_values(part, dataset, loss, column, protocol)
                        rows.append({
                            "dataset": dataset, "model": model, "loss": loss, "method": ALL.get(loss, loss),
                            "changed": changed, "protocol": protocol, "column": column.title,
                            **verdict(column, paper, PUBLISHED_SEEDS.get(dataset, 5), values, not changed, complete)})
    return pd.DataFrame(rows)


def in_order(labels):
    """Published methods first, then combinations of our own."""
    return [name for name in ALL if name in labels] + sorted(set(labels) - set(ALL))


def seed_values(ours, dataset, loss, column, protocol):
    """Our values of one cell, one a seed: the mean over the sets of a group, in the table's unit."""
    published = protocol == "as published"
    score = "" if column.group == "id" else sdde_score(dataset, loss) if published else FAIR
    metric = f"{column.metric}_published" if published and column.metric in ("ece", "nll") else column.metric
    chosen = ours[(ours.group == column.group) & (ours.metric == metric) & (ours.score == score)]
    return chosen.groupby("seed").value.mean().to_numpy(float) * column.scale


def sections(dataset, tidy, metrics, table):
    """(network, headers, rows, note). table: a row a run on this data set."""
    for model, part in tidy.groupby("model", sort=False):
        rows = []
        for method, cells in part.groupby("method", sort=False):
            first = True
            paper = cells[cells.protocol == "fair"].drop_duplicates("column")
            if paper.paper.notna().any():
                rows.append([method, "paper", *(number(c.paper, c.paper_std, 2) for c in paper.itertuples())])
                first = False
            for changed in dict.fromkeys(cells.changed):
                for protocol in PROTOCOLS:
                    ours = cells[(cells.changed == changed) & (cells.protocol == protocol)]
                    seeds = int(ours.ours_n.max())
                    label = f"ours, {protocol}" + (f", n = {seeds}" if seeds else "")
                    if changed:
                        label += f", {'SHORTENED' if 'epochs' in changed else 'CHANGED'}: {changed}"
                    rows.append([method if first else "", label, *(
                        number(c.ours, c.ours_std, column.digits) if c.ours_n else "missing"
                        for c, column in zip(ours.itertuples(), COLUMNS))])
                    first = False
                    if ours.verdict.any():
                        rows.append(["", "Δ to the paper", *(
                            f"{c.delta:+.2f} {c.verdict}" if c.verdict else "" for c in ours.itertuples())])
        done = table[(table.model == model) & table.loss.isin(set(part.loss))]
        yield MODELS.get(model, model), ["method", "", *(c.title for c in COLUMNS)], rows, (
            f"{made_on(done)} {note(dataset, metrics[metrics.model == model])}".strip())


def note(dataset, metrics):
    """What is missing, and what differs from OpenOOD's images."""
    metrics = metrics[metrics.benchmark == "openood"]
    lines = []
    for group, names in OPENOOD.get(dataset, OUTLIERS.get(dataset, {})).items():
        there = set(metrics[metrics.group == group].set)
        if absent := [name for name in names if name not in there]:
            lines.append(f"{group} is a mean over {len(names) - len(absent)} of {len(names)} sets: "
                         f"{', '.join(absent)} missing.")
    noted = metrics[(metrics.note != "") & (metrics.group != "validation")].drop_duplicates(["set", "note"])
    return " ".join(lines + [f"{row.set}: {row.note}." for row in noted.itertuples()])


def scores(metrics):
    """Tidy: near and far AUROC of every method under every score, mean, std and n over seeds."""
    chosen = metrics[(metrics.benchmark == "openood") & (metrics.weights == "best") & (metrics.metric == "auroc")]
    keys = ["model", "loss", "changed", "group", "score"]
    by_seed = 100 * chosen.groupby([*keys, "seed"], sort=False).value.mean()
    by = by_seed.groupby(keys, sort=False)
    return by.agg(["mean", "std"]).assign(n=by.size()).reset_index()


def score_sections(tidy, dataset):
    """(network, headers, rows, note); the score that a method's script names is marked."""
    for (model, changed), part in tidy.groupby(["model", "changed"], sort=False):
        rows = []
        for (group, loss), cells in part.groupby(["group", "loss"], sort=False):
            by = cells.set_index("score")
            own = sdde_score(dataset, loss)
            rows.append([group, ALL.get(loss, loss), *(
                number(by["mean"].get(s, np.nan), by["std"].get(s, np.nan), 2) + (" *" if s == own else "")
                for s in SCORES)])
        yield MODELS.get(model, model), ["outliers", "method", *SCORES], rows, (
            (f"CHANGED RECIPE: {changed}. " if changed else "") + "* what the method's released script reads.")
