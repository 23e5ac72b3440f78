"""How the ensembles' training went, for what may explain a gain: which epoch was chosen, and what it did to the result;
whether members' saliency maps died."""
import numpy as np
import pandas as pd

from reporting.names import ALL, MODELS
from reporting.openood_tables import FAIR, in_order, of_benchmark
from reporting.verdicts import number

LEGEND = """\
Mean ± sample standard deviation over seeds. best: the epoch with the best accuracy on validation images (single
  networks, and digits: on test images), as published; last: the last one. accuracy: on the same images. near and far:
  AUROC (%) by logit-average with the weights of each.
diversity: the diversity loss, mean of an epoch's steps. dead maps: saliency maps that are 0 everywhere, in % of all
  members' and steps'; such a map is like no other and has no gradient, so that a member could escape by dying."""
LOGGED = ("diversity", "dead_maps")


def course(metrics, table):
    """Tidy: a row a run: best epoch, validation accuracies, AUROCs under both epochs, and the log's first and last
    diversity and dead maps, NaN where a method has none. Runs without log.csv are left out.

    Args:
        metrics, table: a row a metric, and a row a run, of one data set, as `read_runs` gives them.
    """
    metrics = of_benchmark(metrics)
    chosen = metrics[(metrics.metric == "auroc") & (metrics.score == FAIR)]
    aurocs = 100 * chosen.groupby(["model", "loss", "changed", "seed", "group", "weights"]).value.mean()
    rows = []
    for run in table[table.loss.isin(set(metrics.loss))].itertuples():
        if not (run.folder / "log.csv").exists():
            continue
        log = pd.read_csv(run.folder / "log.csv")
        rows.append({
            **{key: getattr(run, key)
               for key in ("dataset", "model", "loss", "changed", "seed", "epochs", "best_epoch")},
            **{f"{when}_accuracy": 100 * getattr(run, f"{when}_accuracy") for when in ("best", "last")},
            **{f"{group}_{when}": aurocs.get((run.model, run.loss, run.changed, run.seed, group, when), np.nan)
               for group in ("near", "far") for when in ("best", "last")},
            **{f"{name}_{when}": log[name].iloc[place] if name in log else np.nan
               for name in LOGGED for when, place in (("first", 0), ("last", -1))}})
    return pd.DataFrame(rows)


def sections(tidy):
    """(network, headers, rows, note)."""
    headers = ["method", "n", "best epoch", "accuracy (%): best", "last", "near: best", "last", "far: best", "last",
               "diversity: first epoch", "last", "dead maps (%): first epoch", "last"]
    for (model, changed), part in tidy.groupby(["model", "changed"], sort=False):
        rows = []
        for loss in in_order(set(part.loss)):
            runs = part[part.loss == loss].sort_values("seed")
            columns = [(f"{group}_{when}", 1, 2) for group in ("near", "far") for when in ("best", "last")]
            columns = [("best_accuracy", 1, 2), ("last_accuracy", 1, 2), *columns, ("diversity_first", 1, 3),
                       ("diversity_last", 1, 3), ("dead_maps_first", 100, 2), ("dead_maps_last", 100, 2)]
            rows.append([ALL.get(loss, loss), str(len(runs)),
                         f"{', '.join(map(str, runs.best_epoch))} of {runs.epochs.iloc[0]}",
                         *(number(scale * runs[name].mean(), scale * runs[name].std(), digits)
                           for name, scale, digits in columns)])
        yield MODELS.get(model, model), headers, rows, f"CHANGED RECIPE: {changed}." if changed else ""
