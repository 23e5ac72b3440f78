"""The tables of a benchmark: the paper's numbers and ours under two protocols, and every method under every score.

dismax.py and openood.py say what a benchmark's columns, protocols and scores are; here it is computed and laid out.
"""
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from reporting.load import OWN_SCORE
from reporting.names import in_order, is_known, title_of
from reporting.notes import notes_of
from reporting.tables import Section
from reporting.verdicts import mean_and_std, number, verdict


@dataclass(frozen=True)
class Column:
    """A metric of the in-distribution images (group "id"), or its mean over some sets of a group of OOD sets."""

    title: str
    group: str
    datasets: tuple
    metric: str
    scale: float = 100
    digits: int = 2
    paper: str = ""  # the name of the published value in results/papers
    paper_digits: int = 1
    tau: float = 0.0  # the difference that is tolerated in any case, see verdicts.py
    relative: bool = False  # whether tau is a share of the published value


@dataclass(frozen=True)
class Protocol:
    name: str
    checkpoint: str
    score: Callable  # (dataset, method, ood_group) → the score that a method is ranked by; None: not in this protocol
    metrics: Callable  # a column's metric → its name in metrics.csv; None: not in this protocol
    published: bool  # whether it is the paper's own


@dataclass(frozen=True)
class Benchmark:
    name: str  # in metrics.csv
    columns: Callable  # (dataset, runs) → Columns
    protocols: tuple  # of Protocol, the published one first
    papers: Callable  # () → published rows
    includes: Callable  # run → whether it has a row in the table of comparison
    baseline: str  # the method that costs are compared with
    all_scores: Protocol  # under which every score is shown
    own_score: Callable  # (dataset, method, ood_group) → the score to mark, or None
    legend: str
    scores_legend: str
    scores_include: Callable = lambda run: True  # run → whether it has a row in the table of scores


@dataclass(frozen=True)
class Line:
    """One method, trained by one recipe, under one protocol."""

    model: str
    method: str  # "" where the paper only quotes it
    title: str
    changed: str
    protocol: Protocol
    runs: list
    paper: dict  # the published row, or None
    cells: list

    @property
    def is_published(self):
        return self.paper is not None and bool(self.method) and not self.changed


def compare(benchmark, dataset, runs):
    """Lines of every network that has runs on a data set: each method of the paper or of ours × recipe × protocol."""
    runs = [run for run in runs if run.id_dataset == dataset and benchmark.includes(run)]
    published = [row for row in benchmark.papers() if row["id_dataset"] == dataset]
    columns, lines = benchmark.columns(dataset, runs), []
    for model in in_order({run.model for run in runs}):
        theirs = [row for row in published if row["model"] == model]
        of_model = [run for run in runs if run.model == model]
        for method, title, paper in _methods(of_model, theirs):
            ours = [run for run in of_model if run.method == method]
            for changed in sorted({run.changed for run in ours}) or [""]:
                part = [run for run in ours if run.changed == changed]
                for protocol in benchmark.protocols:
                    if not method or protocol.score(dataset, method, "near"):
                        cells = [cell_of(benchmark, column, protocol, part, paper) for column in columns]
                        lines.append(Line(model, method, title, changed, protocol, part, paper, cells))
    return lines


def _methods(runs, theirs):
    """(method, title, the paper's row or None): ours in our order, then those that the paper only quotes, method ""."""
    by_method = {row["method"]: row for row in theirs if row["method"]}
    for method in in_order({run.method for run in runs} | set(by_method)):
        paper = by_method.get(method)
        yield method, paper["title"] if paper else title_of(method), paper
    for row in theirs:
        if not row["method"]:
            yield "", row["title"], row


def cell_of(benchmark, column, protocol, runs, paper):
    """The Cell of some runs, each a seed, that were trained by one recipe."""
    values, dropped = [], 0
    for run in runs:
        found = found_in(run, benchmark, protocol, column)
        if any(note for _, note in found):
            dropped += 1
        elif found:
            values.append(column.scale * np.mean([value for value, _ in found]))
    return verdict(column, paper, values, comparable=bool(runs) and not runs[0].changed, dropped_n=dropped,
                   complete=all(is_complete(run, benchmark, protocol, column) for run in runs))


def found_in(run, benchmark, protocol, column):
    """[(value, note)] of a column's sets in one run. A value with a note is one that the release leaves out."""
    metric = protocol.metrics(column.metric)
    score = "" if column.group == "id" else protocol.score(run.id_dataset, run.method, column.group)
    if run.from_files and score:
        score = OWN_SCORE
    if metric is None or score is None:
        return []
    cells = run.cells(benchmark.name, protocol.checkpoint, metric, score)
    return [cells[column.group, name] for name in column.datasets if (column.group, name) in cells]


def is_complete(run, benchmark, protocol, column):
    """Whether a run was tested on all of the paper's images of a column, and on no others."""
    images = run.cells(benchmark.name, protocol.checkpoint, "images")
    return all(images.get((column.group, name), (0, "not recorded"))[1] == "" for name in column.datasets)


def tidy(dataset, lines):
    """A dict per line and column."""
    return [{"id_dataset": dataset, "model": line.model, "method": line.method, "title": line.title,
             "changed": line.changed, "protocol": line.protocol.name, **cell._asdict()}
            for line in lines for cell in line.cells]


# ---- laid out ----

def sections(benchmark, dataset, lines, results):
    """A Section per network: of each method the paper's line, and ours under each protocol, with Δ where it can be.

    Args:
        lines: what `compare` gives; results: load.Results, for what is left out.
    """
    by_model = defaultdict(list)
    for line in lines:
        by_model[line.model].append(line)
    for model, of_model in by_model.items():
        columns = benchmark.columns(dataset, [run for line in of_model for run in line.runs])
        rows = []
        for _, part in grouped(of_model, lambda line: (line.method, line.title)):
            texts = list(_texts(part, columns, of_model, benchmark))
            rows += [["" if k else part[0].title, *text] for k, text in enumerate(texts)]
        costs = ["train (s)", f"× {title_of(benchmark.baseline)}"]
        headers = ["method", "", *(column.title for column in columns), *costs]
        yield Section(title_of(model), headers, rows, notes_of(benchmark, dataset, model, of_model, columns, results))


def _texts(lines, columns, of_model, benchmark):
    """The rows of one method: [label, a text per column, two of what it costs]."""
    paper = lines[0].cells
    if any(math.isfinite(cell.paper) for cell in paper):
        yield ["paper", *(number(cell.paper, cell.paper_std, column.paper_digits)
                          for cell, column in zip(paper, columns)), "", ""]
    if lines[0].method and not any(line.runs for line in lines):
        yield ["ours: no run", *([""] * len(columns)), "", ""]
        return
    costed = set()
    for line in lines if lines[0].method else ():
        seeds = max(cell.ours_n for cell in line.cells)
        costs = ["", ""] if line.changed in costed else costs_of(line, of_model, benchmark.baseline)
        costed.add(line.changed)
        yield [label_of(line, seeds), *(_our_number(cell, column, line, seeds)
                                        for cell, column in zip(line.cells, columns)), *costs]
        if any(cell.verdict for cell in line.cells):
            yield ["Δ to the paper", *(f"{cell.delta:+.{column.digits}f} {cell.verdict}" if cell.verdict else ""
                                       for cell, column in zip(line.cells, columns)), "", ""]


def label_of(line, seeds):
    """"as published" marks only rows that a paper has; for others the same protocol is called the release's."""
    name = line.protocol.name
    if line.protocol.published and not line.is_published:
        name = "release's protocol"
    of_paper = f"/{int(line.paper['seeds'])}" if line.paper else ""
    ours = "scores from files" if any(run.from_files for run in line.runs) else "ours"
    label = f"{ours}, {name}, n = {seeds}{of_paper}"
    if line.changed:
        label += f", {'SHORTENED' if 'epochs' in line.changed else 'CHANGED'}: {line.changed}"
    return label


def _our_number(cell, column, line, seeds):
    if line.protocol.metrics(column.metric) is None:
        return ""
    if not cell.ours_n:
        return "dropped" if cell.dropped_n else "missing"
    fewer = f" (n = {cell.ours_n})" if cell.ours_n != seeds else ""
    return number(cell.ours, cell.ours_std, column.digits) + fewer


def costs_of(line, of_model, baseline):
    """The median training time of a method's seeds in seconds, and its median ratio to the baseline's on the same seed
    and device; "" where there is none."""
    seconds = [run.config["train_seconds"] for run in line.runs if run.config["train_seconds"]]
    if not seconds:
        return ["", ""]
    base = {(run.seed, run.device): run.config["train_seconds"] for other in of_model for run in other.runs
            if other.method == baseline and other.changed == line.changed and run.config["train_seconds"]}
    ratios = [run.config["train_seconds"] / base[run.seed, run.device] for run in line.runs
              if run.config["train_seconds"] and (run.seed, run.device) in base]
    return [f"{np.median(seconds):,.0f}", f"{np.median(ratios):.1f}" if ratios else ""]


def grouped(items, key):
    """[(key, items)] of items that have the same key, in the order in which the keys appear."""
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.items())


def networks(rows):
    """(title, rows, notes) for each network and recipe of tidy rows; a changed recipe is the first of the notes."""
    for (model, changed), part in grouped(rows, lambda row: (row["model"], row["changed"])):
        yield title_of(model), part, [f"CHANGED RECIPE: {changed}."] if changed else []


# ---- every method under every score ----

def score_rows(benchmark, dataset, runs):
    """Tidy: AUROC in per cent, the mean over a column's sets, of every method under every score; over seeds."""
    rows, checkpoint = [], benchmark.all_scores.checkpoint
    runs = [run for run in runs if run.id_dataset == dataset and benchmark.scores_include(run)]
    places = dict.fromkeys((column.group, column.datasets) for column in benchmark.columns(dataset, runs)
                           if column.group != "id")
    for (model, changed), part in grouped(runs, lambda run: (run.model, run.changed)):
        names = list(dict.fromkeys(row[4] for run in part for row in run.rows
                                   if row[0] == benchmark.name and row[5] == "auroc"))
        for (group, datasets), method, score in product(places, in_order({run.method for run in part}), names):
            values = [100 * np.mean(found) for run in part if run.method == method
                      if (found := _aurocs(run, benchmark, checkpoint, score, group, datasets))]
            if values:
                mean, std = mean_and_std(values)
                rows.append({"id_dataset": dataset, "model": model, "changed": changed, "ood_group": group,
                             "dataset": " ".join(datasets), "method": method, "score": score,
                             "mean": mean, "n": len(values), "std": std})
    return rows


def _aurocs(run, benchmark, checkpoint, score, group, datasets):
    cells = run.cells(benchmark.name, checkpoint, "auroc", score)
    return [cells[group, name][0] for name in datasets if (group, name) in cells]


def score_sections(benchmark, dataset, rows):
    """A Section for each network and recipe; a star marks the score that the paper ranks a method by."""
    for title, part, notes in networks(rows):
        names = list(dict.fromkeys(row["score"] for row in part))
        lines = []
        for (group, datasets, method), cells in grouped(
                part, lambda row: (row["ood_group"], row["dataset"], row["method"])):
            by = {cell["score"]: cell for cell in cells}
            own = benchmark.own_score(dataset, method, group)
            sets = title_of(datasets) if " " not in datasets else group
            lines.append([sets, title_of(method), *(_marked(by.get(name), name == own) for name in names)])
        unknown = [title_of(method) for method in in_order({row["method"] for row in part}) if not is_known(method)]
        notes += [f"Not registered: {', '.join(unknown)}."] if unknown else []
        yield Section(title, ["OOD sets", "method", *names], lines, " ".join(notes))


def _marked(cell, own):
    return number(cell["mean"], cell["std"], 2) + (" *" if own else "") if cell else "–"
