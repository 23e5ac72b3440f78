"""A single network's method minus SoftMax on the same seed: accuracy, AUROC on each set of the dismax benchmark, and
means over the near and the far sets of the openood benchmark.

With M and S the AUROCs of the method and of SoftMax, s_m and s_s the scores that DisMax's release uses for them, s any
score: the gain with each one's score is M(s_m) − S(s_s), with one score for both M(s) − S(s); the first minus the
second is due to the score. Everything is that of the last epoch and, in the dismax benchmark, held-out.
"""
import math

import numpy as np

from recipes import dismax_score
from reporting.comparison import grouped, networks
from reporting.dismax import is_single
from reporting.names import title_of
from reporting.paired_gains import NEAR_FAR, gain_summary, interval_of, on_common_seeds, pairs_with
from reporting.tables import Section

ONE_SCORES = ("MPS", "MDS")  # of the dismax benchmark, at temperature 1
OPENOOD_SCORES = ("average", "logit-average")
LEGEND = """\
Method minus SoftMax on the same seed, in points: the last epoch, accuracy and AUROC of the held-out protocol. Mean ±
  sample standard deviation over n seeds; 95 % interval of the mean by Student's t, none for one seed.
each one's score: both with the score that DisMax's release uses for them. one score: the same for both; MPS is the
  maximum probability at temperature 1, MDS the maximum logit for SoftMax and the least distance for the others.
near and far sets: the mean over those of the openood benchmark that both runs have; average is MPS at the temperature
  that was fitted on validation images, logit-average is MDS.
due to the score: the gain with each one's score minus the gain with this one score."""


def rows_of(dataset, runs):
    """Tidy: a row a model × recipe × method × quantity × pair of scores; empty where no seed has both sides.

    Returns:
        dicts with `quantity` ("accuracy", the name of an OOD set, "near sets" or "far sets"), `ood_group`, `score` and
        `softmax_score` ("" for the accuracy), `seeds`, `n`, `mean`, `std`, `low`, `high` (95 % interval) and
        `due_to_score` (NaN unless both have one score), in points.
    """
    rows, runs = [], [run for run in runs if run.id_dataset == dataset and is_single(run) and not run.from_files]
    for (model, changed), part in grouped(runs, lambda run: (run.model, run.changed)):
        for method, pairs in pairs_with("softmax", part):
            place = {"id_dataset": dataset, "model": model, "changed": changed, "method": method}
            rows += [{**place, **row} for row in gains(dataset, method, pairs)]
    return rows


def gains(dataset, method, pairs):
    """The rows of one method: accuracy first, then every OOD set that some pair was tested on with the same images."""
    yield from gain_row(pairs.values(), "id", dataset, "accuracy", "", "", "accuracy")
    tested = dict.fromkeys(place for run, _ in pairs.values() for place in run.cells("dismax", "last", "images"))
    for group, name in (place for place in tested if place[0] != "id"):
        same = [(run, base) for run, base in pairs.values()
                if images_tested(run, group, name) == images_tested(base, group, name) is not None]
        scores = dismax_score(dataset, method, group), dismax_score(dataset, "softmax", group)
        each = list(gain_row(same, group, name, "auroc", *scores, name))
        yield from each
        for score in ONE_SCORES:
            if each and scores != (score, score):
                for row in gain_row(same, group, name, "auroc", score, score, name):
                    yield {**row, "due_to_score": each[0]["mean"] - row["mean"]}
    for group in NEAR_FAR:
        seeds, sets, aurocs = on_common_seeds(pairs, "last", group)
        for score in OPENOOD_SCORES if sets else ():
            yield {"quantity": f"{group} sets", "ood_group": group, "score": score, "softmax_score": score,
                   "seeds": " ".join(map(str, seeds)), **gain_summary(aurocs(0, score) - aurocs(1, score)),
                   "due_to_score": math.nan}


def gain_row(pairs, group, name, metric, score, softmax_score, quantity):
    """One row, or none where no pair has the metric on both sides."""
    found = {run.seed: (value(run, metric, score, group, name), value(base, metric, softmax_score, group, name))
             for run, base in pairs}
    found = {seed: both for seed, both in found.items() if None not in both}
    if found:
        gain = np.array([100 * (ours - theirs) for ours, theirs in found.values()])
        yield {"quantity": quantity, "ood_group": group, "score": score, "softmax_score": softmax_score,
               "seeds": " ".join(map(str, found)), **gain_summary(gain), "due_to_score": math.nan}


def value(run, metric, score, group, name):
    return run.cells("dismax", "last", metric, score).get((group, name), (None,))[0]


def images_tested(run, group, name):
    return run.cells("dismax", "last", "images").get((group, name))


def sections(rows):
    """A Section a network and recipe, a line a row."""
    headers = ["method − SoftMax", "of", "scored with", "n", "Δ", "95 % interval", "due to the score"]
    for title, part, notes in networks(rows):
        lines, before = [], None
        for row in part:
            same = row["score"] == row["softmax_score"]
            scored = row["score"] + ("" if same else f", SoftMax: {row['softmax_score']}")
            what = "ACC" if row["quantity"] == "accuracy" else f"{title_of(row['quantity'])} AUROC"
            spread = f" ± {row['std']:.2f}" if row["n"] > 1 else ""
            due = f"{row['due_to_score']:+.2f}" if math.isfinite(row["due_to_score"]) else ""
            lines.append(["" if row["method"] == before else title_of(row["method"]), what, scored, str(row["n"]),
                          f"{row['mean']:+.2f}{spread}", interval_of(row), due])
            before = row["method"]
        yield Section(title, headers, lines, " ".join(notes))
