"""A method minus DE on the same seed: how much of its gain is the method, and how much is the score it is read by?

With M and D the AUROCs of the method and of DE, s_m and s_d the scores that their released scripts read, s any score:

  gain by each script's score      M(s_m) − D(s_d)
  gain with one score for both     M(s) − D(s)
  the score's part                 the first minus the second
"""
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import t as student

from metrics.ensemble import SCORES
from recipes import sdde_score
from reporting import papers
from reporting.names import ALL, MODELS
from reporting.openood_tables import FAIR, in_order, note, of_benchmark

RUN = ["model", "loss", "changed", "seed", "weights"]
EACH, ONE = "each script's score", "one score"
GROUPS = ("near", "far")
EPOCHS = {"best": "best epoch", "last": "last epoch"}
LEGEND = """\
Method minus DE on the same seed, in points of AUROC: the mean over the sets that both runs have, of the same images.
  Mean ± sample standard deviation over n seeds; 95 % interval of the mean by Student's t, none for one seed.
each script's score: what the method's released script reads against what DE's reads. one score: the same for both;
  logit-average is the fair table's.
the score's part: the gain by each script's score minus the gain with this one score; in brackets its share of the
  former, where the two scripts differ and the paper publishes that gain.
best epoch: weights of the epoch that is best on validation images, as published; last epoch: nothing is selected.
The paper's line is the difference of its two means; it has no paired values, and the images may differ (see above)."""


def compare(dataset, metrics):
    """Tidy: a row a model × recipe × method × weights × group × reading; empty where no seed has both DE and a method.

    Runs are paired within one recipe: what was changed must be the same on both sides.

    Args:
        metrics: rows of metrics.csv of all runs on this data set.

    Returns:
        columns `score` and `de_score` (what is read on each side), `sets`, `seeds`, `n`, `mean`, `std`, `low`, `high`
        (95 % interval), `score_part`, `share` (of the gain by each script's score; NaN where there is none or both
        scripts read the same score), all in points of AUROC but the share, and `paper`, the paper's difference.
    """
    rows, published = [], papers.sdde()
    published = published[published.dataset == dataset]
    for (model, changed), part in aurocs(of_benchmark(metrics)).groupby(["model", "changed"], sort=False):
        theirs = published[published.model == model].set_index("loss")
        for loss in in_order(set(part.loss) - {"de"}) if "de" in set(part.loss) else []:
            for weights, group in product(EPOCHS, GROUPS):
                chosen = part[(part.weights == weights) & (part.group == group) & part.loss.isin(["de", loss])]
                place = {"dataset": dataset, "model": model, "changed": changed, "loss": loss, "weights": weights,
                         "group": group}
                paper = np.nan
                if not changed and weights == "best" and {"de", loss} <= set(theirs.index):
                    paper = theirs[f"{group}_auroc"][loss] - theirs[f"{group}_auroc"]["de"]
                rows += [{**place, **row} for row in readings_of(chosen, dataset, loss, paper)]
    return pd.DataFrame(rows)


def readings_of(part, dataset, loss, paper):
    """The rows of one method, weights and group; none where DE and the method have no seed or no set in common."""
    de, method, sets = on_common_seeds(part, loss) if set(part.loss) == {"de", loss} else (None, None, [])
    if not sets:
        return
    own, des = sdde_score(dataset, loss), sdde_score(dataset, "de")
    as_published = method[own] - de[des]
    for reading, score, de_score in [(EACH, own, des), *((ONE, score, score) for score in SCORES)]:
        gain = method[score] - de[de_score]
        part_of_score = (as_published - gain).mean()
        yield {"reading": reading, "score": score, "de_score": de_score, "sets": " ".join(sets),
               "seeds": " ".join(map(str, gain.index)), **summary(gain), "score_part": part_of_score,
               "share": part_of_score / as_published.mean() if own != des and as_published.mean() > 0 else np.nan,
               "paper": paper if reading == EACH else np.nan}


def aurocs(metrics):
    """A row a run × set × score: `value` in per cent, `images` and `note` of the set as this run was tested on it."""
    chosen = metrics[(metrics.metric == "auroc") & metrics.group.isin(GROUPS) & metrics.score.isin(SCORES)]
    images = metrics[metrics.metric == "images"][[*RUN, "set", "group", "value", "note"]]
    tested = images.rename(columns={"value": "images"})
    chosen = chosen.drop(columns="note").merge(tested, on=[*RUN, "set", "group"])
    return chosen.assign(value=100 * chosen.value)


def on_common_seeds(part, loss):
    """AUROCs of DE and of a method, (seeds) × (scores) each, means over the sets that are the same images on both sides
    and are there on every common seed; and those sets."""
    wide = part.pivot_table(index=["seed", "set", "images", "note"], columns=["loss", "score"], values="value")
    shared = wide["de"].dropna(how="all").index.intersection(wide[loss].dropna(how="all").index)
    of_seed = shared.to_frame().set.groupby("seed").agg(set)
    sets = sorted(set.intersection(*of_seed)) if len(of_seed) else []
    kept = wide[wide.index.isin(shared) & wide.index.isin(sets, level="set")]
    return kept["de"].groupby("seed").mean(), kept[loss].groupby("seed").mean(), sets


def summary(gain):
    """n, mean, sample standard deviation and 95 % t-interval of one value a seed; NaN where one seed says nothing."""
    n, std = len(gain), gain.std(ddof=1)
    half = student.ppf(0.975, n - 1) * std / np.sqrt(n) if n > 1 else np.nan
    return {"n": n, "mean": gain.mean(), "std": std, "low": gain.mean() - half, "high": gain.mean() + half}


# ---- on the page ----


def sections(dataset, tidy, metrics):
    """(network, headers, rows, note): each script's score, and the one score that is fair, DE's and the method's."""
    headers = ["method − DE", "weights", "read by", "n"]
    for group in GROUPS:
        headers += [f"{group}: Δ AUROC", "95 % interval", "the score's part"]
    for (model, _), part in tidy.groupby(["model", "changed"], sort=False):
        rows = []
        for loss, lines in part.groupby("loss", sort=False):
            if of_paper := lines.paper.notna().any():
                theirs = lines.dropna(subset="paper").set_index("group").paper
                rows.append([ALL[loss], "", "paper", "", *(
                    cell for group in GROUPS for cell in (signed(theirs.get(group, np.nan), np.nan), "", ""))])
            for (weights, _, score, de_score), cells in lines[shown(lines)].groupby(
                    ["weights", "reading", "score", "de_score"], sort=False):
                rows.append([ALL.get(loss, loss), EPOCHS[weights], read_by(cells.iloc[0], score, de_score),
                             *line_of(cells.set_index("group"), of_paper)])
        for k in range(len(rows) - 1, 0, -1):
            rows[k][0] = "" if rows[k][0] == rows[k - 1][0] else rows[k][0]  # a method is named in its first row only
        yield MODELS.get(model, model), headers, rows, " ".join(notes(dataset, part, metrics[metrics.model == model]))


def shown(lines):
    """Of the best epoch the published reading, the fair one, and one score for both that is DE's or the method's own;
    of the last epoch the published and the fair one. (A method that is read as DE is has one score already.)"""
    own, des = lines[lines.reading == EACH][["score", "de_score"]].iloc[0]
    more = {own, des} if own != des else set()
    return (lines.reading == EACH) | (lines.score == FAIR) | ((lines.weights == "best") & lines.score.isin(more))


def read_by(line, score, de_score):
    if line.reading == ONE:
        return f"{ONE}: {score}"
    return f"{EACH}: {score}" + (f", DE: {de_score}" if score != de_score else "")


def line_of(by_group, of_paper):
    """n, and for near and far: gain, interval, and the score's part of the gain by each script's score, as a share too
    where the paper publishes that gain."""
    cells = []
    for group in GROUPS:
        if group not in by_group.index:
            cells += ["missing", "", ""]
            continue
        line = by_group.loc[group]
        cells.append(signed(line["mean"], line["std"]))
        cells.append(f"{line.low:+.2f} to {line.high:+.2f}" if line.n > 1 else "n = 1")
        share = f" ({100 * line.share:.0f} %)" if of_paper and np.isfinite(line.share) else ""
        cells.append(f"{line.score_part:+.2f}{share}" if line.reading == ONE else "")
    return ["/".join(dict.fromkeys(map(str, by_group.n))), *cells]


def notes(dataset, part, metrics):
    if changed := part.changed.iloc[0]:
        yield f"CHANGED RECIPE: {changed}."
    everything = of_benchmark(metrics).groupby("group").set.agg(set)
    for (loss, group), lines in part.groupby(["loss", "group"], sort=False):
        if (sets := lines.sets.iloc[0]) != " ".join(sorted(everything[group])):
            yield f"{ALL.get(loss, loss)} − DE, {group}: only {sets}, the sets that both have on every seed."
    yield note(dataset, metrics)


def score_sections(tidy):
    """(network, headers, rows, note): the gain with one score for both, every aggregation."""
    for (model, changed), part in tidy.groupby(["model", "changed"], sort=False):
        rows = []
        for (loss, weights, group), cells in part[part.reading == ONE].groupby(
                ["loss", "weights", "group"], sort=False):
            by = cells.set_index("score")
            rows.append([group, ALL.get(loss, loss), EPOCHS[weights], str(cells.n.iloc[0]),
                         *(signed(by["mean"].get(s, np.nan), by["std"].get(s, np.nan)) for s in SCORES)])
        yield MODELS.get(model, model), ["outliers", "method − DE", "weights", "n", *SCORES], rows, (
            f"CHANGED RECIPE: {changed}." if changed else "")


def signed(mean, std):
    if not np.isfinite(mean):
        return "–"
    return f"{mean:+.2f}" + (f" ± {std:.2f}" if np.isfinite(std) else "")
