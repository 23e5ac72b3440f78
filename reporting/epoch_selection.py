"""The training of the ensembles: the selected epoch, its effect on the result, and the share of dead saliency maps."""
import math
from collections import defaultdict

from reporting.comparison import networks
from reporting.names import in_order, title_of
from reporting.openood import COMMON_SCORE, includes
from reporting.tables import Section
from reporting.verdicts import mean_and_std, number

LEGEND = """\
Values are mean ± sample standard deviation over seeds. best: the epoch with the best accuracy on validation images (for
  single networks and for digits: on test images), as published. last: the last epoch. accuracy: on the same images.
  near and far: AUROC (%) of each checkpoint, scored with logit-average.
diversity: the diversity loss, mean over the steps of an epoch. dead maps: saliency maps that are 0 everywhere, in % of
  the maps of all members and steps. A dead map has no gradient and no correlation with other maps, so a member could
  avoid the diversity loss by dead maps."""
LOGGED = ("diversity", "dead_maps")
AUROC_COLUMNS = [(f"{group}_{when}", 1, 2) for group in ("near", "far") for when in ("best", "last")]
VALUE_COLUMNS = [("best_accuracy", 1, 2), ("last_accuracy", 1, 2), *AUROC_COLUMNS, ("diversity_first", 1, 3),
                 ("diversity_last", 1, 3), ("dead_maps_first", 100, 2), ("dead_maps_last", 100, 2)]
HEADERS = ["method", "n", "best epoch", "accuracy (%): best", "last", "near: best", "last", "far: best", "last",
           "diversity: first epoch", "last", "dead maps (%): first epoch", "last"]


def rows_of(dataset, runs):
    """Tidy: a row per run: best epoch, accuracies on the images it is chosen by, AUROCs of both epochs in per cent, and
    the log's first and last diversity and dead maps, NaN where a method has none. Of runs that were trained here."""
    return [row_of(run) for run in runs if run.id_dataset == dataset and run.log and includes(run)]


def row_of(run):
    aurocs = defaultdict(list)
    for when in ("best", "last"):
        for (group, _), (value, _) in run.cells("openood", when, "auroc", COMMON_SCORE).items():
            aurocs[group, when].append(100 * value)
    ends = (("first", run.log[0]), ("last", run.log[-1]))
    return {
        "id_dataset": run.id_dataset, "model": run.model, "method": run.method, "changed": run.changed,
        "seed": run.seed, "epochs": run.epochs, "best_epoch": run.config["best_epoch"],
        **{f"{when}_accuracy": 100 * run.config[f"{when}_accuracy"] for when in ("best", "last")},
        **{f"{group}_{when}": mean_and_std(aurocs[group, when])[0]
           for group in ("near", "far") for when in ("best", "last")},
        **{f"{name}_{when}": epoch.get(name, math.nan) for name in LOGGED for when, epoch in ends}}


def sections(rows):
    """A Section per network and recipe."""
    for title, part, notes in networks(rows):
        lines = []
        for method in in_order({row["method"] for row in part}):
            runs = sorted((row for row in part if row["method"] == method), key=lambda row: row["seed"])
            chosen = ", ".join(str(row["best_epoch"]) for row in runs)
            lines.append([title_of(method), str(len(runs)), f"{chosen} of {runs[0]['epochs']}",
                          *(number(*mean_and_std([scale * row[name] for row in runs if math.isfinite(row[name])]),
                                   digits) for name, scale, digits in VALUE_COLUMNS)])
        yield Section(title, HEADERS, lines, " ".join(notes))
