"""A method minus DE on the same seed: which part of the gain is due to the method, and which part to its score?

M and D are the AUROCs of the method and of DE, s_m and s_d the scores of their released scripts, and s is any score:

  gain with each script's score    M(s_m) − D(s_d)
  gain with one score for both     M(s) − D(s)
  due to the score                 the first minus the second
"""
import math
from itertools import product

import numpy as np
from scipy.special import stdtrit

from metrics.ensemble import ENSEMBLE_SCORES
from reporting import papers
from reporting.comparison import grouped, networks
from reporting.names import in_order, sdde_script_score, title_of
from reporting.notes import image_notes
from reporting.openood import BENCHMARK, COMMON_SCORE, columns, includes
from reporting.tables import Section
from reporting.verdicts import mean_and_std

EACH_SCORE, ONE_SCORE = "each script's score", "one score"
NEAR_FAR = ("near", "far")
EPOCHS = {"best": "best epoch", "last": "last epoch"}
LEGEND = """\
Method minus DE on the same seed, in points of AUROC: the mean over the sets that both runs have with the same images.
  Values are mean ± sample standard deviation over n seeds. The 95 % interval of the mean is Student's t; one seed has
  none.
each script's score: the method and DE each have the score of their own released script. one score: both have the same
  score; logit-average is the common score.
due to the score: the gain with each script's score minus the gain with this one score. Brackets hold its share of the
  gain with each script's score, if the two scripts differ and the paper publishes that gain.
best epoch: the checkpoint that is best on validation images, as published. last epoch: no epoch is selected.
The paper's line is the difference of its two means. The paper has no paired values, and its images may differ."""


def rows_of(dataset, runs):
    """Tidy: a row per model × recipe × method × checkpoint × group × score; empty if no seed has both DE and a method.

    Runs are paired within one recipe: what was changed must be the same on both sides.

    Returns:
        dicts with `score` and `de_score` (that of each side), `sets`, `seeds`, `n`, `mean`, `std`, `low`, `high` (95 %
        interval), `due_to_score`, `share` (of the gain with each script's score; NaN where there is none or both
        scripts use the same score), all in points of AUROC but the share, and `paper`, the paper's difference.
    """
    rows, published = [], [row for row in papers.sdde() if row["id_dataset"] == dataset]
    runs = [run for run in runs if run.id_dataset == dataset and includes(run) and not run.from_files]
    for (model, changed), part in grouped(runs, lambda run: (run.model, run.changed)):
        theirs = {row["method"]: row for row in published if row["model"] == model and not changed}
        for method, pairs in pairs_with("de", part):
            for checkpoint, group in product(EPOCHS, NEAR_FAR):
                paper = math.nan
                if checkpoint == "best" and {"de", method} <= set(theirs):
                    paper = theirs[method][f"{group}_auroc"] - theirs["de"][f"{group}_auroc"]
                place = {"id_dataset": dataset, "model": model, "changed": changed, "method": method,
                         "checkpoint": checkpoint, "ood_group": group}
                rows += [{**place, **row} for row in _gains(pairs, checkpoint, group, dataset, method, paper)]
    return rows


def pairs_with(baseline, runs):
    """(method, {seed: (run, the baseline's run)}) of each other method, in our order; nothing without the baseline."""
    baselines = {run.seed: run for run in runs if run.method == baseline}
    for method in in_order({run.method for run in runs} - {baseline}) if baselines else []:
        yield method, {run.seed: (run, baselines[run.seed]) for run in sorted(runs, key=lambda run: run.seed)
                       if run.method == method and run.seed in baselines}


def _gains(pairs, checkpoint, group, dataset, method, paper):
    """The rows of one method, checkpoint and group; none where DE and the method have no seed or no set in common."""
    seeds, sets, aurocs = on_common_seeds(pairs, checkpoint, group)
    own, des = sdde_script_score(dataset, method) or COMMON_SCORE, sdde_script_score(dataset, "de")
    if not sets:
        return
    as_published = aurocs(0, own) - aurocs(1, des)
    for kind, score, de_score in [(EACH_SCORE, own, des), *((ONE_SCORE, score, score) for score in ENSEMBLE_SCORES)]:
        gain = aurocs(0, score) - aurocs(1, de_score)
        due = float(np.mean(as_published - gain))
        yield {"kind": kind, "score": score, "de_score": de_score, "sets": " ".join(sets),
               "seeds": " ".join(map(str, seeds)), **gain_summary(gain), "due_to_score": due,
               "share": due / as_published.mean() if own != des and as_published.mean() > 0 else math.nan,
               "paper": paper if kind == EACH_SCORE else math.nan}


def on_common_seeds(pairs, checkpoint, group):
    """What is compared of `pairs_with`: seeds, sets, and a function (side, score) → AUROCs in per cent, a mean over
    the sets for each seed.

    The sets are those that are the same images on both sides and are there on every common seed.
    """
    shared = {}
    for seed, sides in pairs.items():
        tested = [{(name, images) for (own, name), images in run.cells("openood", checkpoint, "images").items()
                   if own == group} for run in sides]
        if same := {name for name, _ in tested[0] & tested[1]}:
            shared[seed] = same
    sets = sorted(set.intersection(*shared.values())) if shared else []

    def aurocs(side, score):
        cells = [pairs[seed][side].cells("openood", checkpoint, "auroc", score) for seed in shared]
        return np.array([np.mean([100 * of_seed[group, name][0] if (group, name) in of_seed else math.nan
                                  for name in sets]) for of_seed in cells])

    return list(shared), sets, aurocs


def gain_summary(gain):
    """n, mean, sample standard deviation and 95 % t-interval of one value per seed; NaN where one seed says nothing."""
    n, (mean, std) = len(gain), mean_and_std(gain)
    half = stdtrit(n - 1, 0.975) * std / math.sqrt(n)
    return {"n": n, "mean": mean, "std": std, "low": mean - half, "high": mean + half}


# ---- laid out ----


def sections(dataset, rows, runs):
    """A Section per network and recipe: each script's score; and one for both: the common one, DE's or the method's."""
    headers = ["method − DE", "checkpoint", "scored with", "n"]
    for group in NEAR_FAR:
        headers += [f"{group}: Δ AUROC", "95 % interval", "due to the score"]
    for title, part, notes in networks(rows):
        lines = []
        for method, of_method in grouped(part, lambda row: row["method"]):
            paper = {row["ood_group"]: row["paper"] for row in of_method if math.isfinite(row["paper"])}
            texts = [["", "paper", "", *(text for group in NEAR_FAR
                                         for text in (_signed(paper.get(group, math.nan)), "", ""))]] if paper else []
            texts += [_line(cells, bool(paper)) for _, cells in grouped(
                shown(of_method), lambda row: (row["checkpoint"], row["kind"], row["score"], row["de_score"]))]
            lines += [["" if k else title_of(method), *text] for k, text in enumerate(texts)]
        of_model = [run for run in runs if (run.id_dataset, run.model) == (dataset, part[0]["model"]) and includes(run)]
        yield Section(title, headers, lines, " ".join([*notes, *_notes(dataset, part, of_model)]))


def shown(rows):
    """Of the best epoch the published pair of scores, the common one, and one score for both that is DE's or the
    method's own; of the last epoch the published pair and the common one. (A method with DE's score has one already.)
    """
    own, des = next((row["score"], row["de_score"]) for row in rows if row["kind"] == EACH_SCORE)
    more = {own, des} if own != des else set()
    return [row for row in rows if row["kind"] == EACH_SCORE or row["score"] == COMMON_SCORE
            or (row["checkpoint"] == "best" and row["score"] in more)]


def _line(cells, of_paper):
    """Checkpoint, scores and n, and for near and far: gain, interval, and what of the gain is due to the score, as a
    share too where the paper publishes that gain."""
    first, by_group = cells[0], {row["ood_group"]: row for row in cells}
    text = f"{first['kind']}: {first['score']}"
    if first["score"] != first["de_score"]:
        text += f", DE: {first['de_score']}"
    texts = [EPOCHS[first["checkpoint"]], text, "/".join(dict.fromkeys(str(row["n"]) for row in cells))]
    for group in NEAR_FAR:
        if group not in by_group:
            texts += ["missing", "", ""]
            continue
        row = by_group[group]
        share = f" ({100 * row['share']:.0f} %)" if of_paper and math.isfinite(row["share"]) else ""
        texts += [_signed(row["mean"], row["std"]),
                  interval_of(row),
                  f"{row['due_to_score']:+.2f}{share}" if row["kind"] == ONE_SCORE else ""]
    return texts


def interval_of(row):
    return f"{row['low']:+.2f} to {row['high']:+.2f}" if row["n"] > 1 else "n = 1"


def _notes(dataset, part, runs):
    everything = {}
    for run in runs:
        for group, name in run.cells("openood", "best", "images"):
            everything.setdefault(group, set()).add(name)
    for (method, group), rows in grouped(part, lambda row: (row["method"], row["ood_group"])):
        if (sets := rows[0]["sets"]) != " ".join(sorted(everything[group])):
            yield f"{title_of(method)} − DE, {group}: only {sets}, the sets that both have on every seed."
    yield from image_notes(BENCHMARK, runs, columns(dataset, runs))


def score_sections(rows):
    """A Section per network and recipe: the gain with one score for both, every aggregation."""
    for title, part, notes in networks(rows):
        lines = []
        for (method, checkpoint, group), cells in grouped(
                [row for row in part if row["kind"] == ONE_SCORE],
                lambda row: (row["method"], row["checkpoint"], row["ood_group"])):
            by = {row["score"]: row for row in cells}
            lines.append([group, title_of(method), EPOCHS[checkpoint], str(cells[0]["n"]),
                          *(_signed(by[score]["mean"], by[score]["std"]) for score in ENSEMBLE_SCORES)])
        yield Section(title, ["OOD sets", "method − DE", "checkpoint", "n", *ENSEMBLE_SCORES], lines, " ".join(notes))


def _signed(mean, std=math.nan):
    if not math.isfinite(mean):
        return "–"
    return f"{mean:+.2f}" + (f" ± {std:.2f}" if math.isfinite(std) else "")
