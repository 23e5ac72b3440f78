"""`analyze.py --check`: every published row that was repeated in full must be within its tolerance.

A row is a network × method of a paper's table, read as published. It is judged when it is complete: in each of its
columns there are as many seeds as the paper had, by the published recipe, on the paper's images.
"""
import pandas as pd

from reporting import dismax_tables, openood_tables, papers
from reporting.names import MODELS


def check(metrics, dataset=None):
    """(lines to print, number of cells outside) of all published rows, or of those on one data set.

    Args:
        metrics: rows of metrics.csv of all runs, as `read_runs` gives them.
    """
    lines, outside, judged, reasons = [], 0, 0, []
    rows = published_rows()
    rows = rows[rows.dataset == dataset] if dataset else rows
    for name, ours in metrics.groupby("dataset"):
        for benchmark, tables in (("dismax", dismax_tables), ("openood", openood_tables)):
            of_both = rows[(rows.dataset == name) & (rows.benchmark == benchmark)]
            cells = tables.compare(name, ours)
            for row in of_both.itertuples():
                own = cells[(cells.model == row.model) & (cells.loss == row.loss)] if len(cells) else cells
                why, found = judge(own)
                off = [] if why else [cell for cell in found.itertuples() if cell.verdict == "OFF"]
                title = f"{name}, {MODELS[row.model]}, {row.method}"
                lines += [f"OFF         {title}, {in_words(cell)}" for cell in off]
                lines += [f"not judged  {title}: {'; '.join(why.values())}"] if why and "no run" not in why else []
                outside, judged, reasons = outside + len(off), judged + (not why), [*reasons, *why]
    tally = pd.Series([*reasons, *["no run"] * (len(rows) - rows.dataset.isin(metrics.dataset).sum())]).value_counts()
    said = ", ".join(f"{count} {reason}" for reason, count in tally.items())
    lines.append(f"{len(rows)} published rows: {judged} judged, {outside} cells outside their tolerance; "
                 f"{len(rows) - judged} not judged" + (f" ({said}; a row can have several reasons)" if said else ""))
    return lines, outside


def published_rows():
    """A row a network × method that a paper trained: benchmark, dataset, model, loss, method."""
    both = pd.concat([papers.dismax().assign(benchmark="dismax"), papers.sdde().assign(benchmark="openood")])
    return both[both.loss != ""][["benchmark", "dataset", "model", "loss", "method"]]


def judge(cells):
    """Why a row cannot be judged, short reason → in words, empty where it can; and its cells that the paper has."""
    if cells.empty:
        return {"no run": "no run"}, cells
    cells = cells[(cells.protocol == "as published") & cells.paper.notna()]
    done = cells[cells.ours_n > 0]
    if done.empty:
        return {"no run": "no run"}, cells
    cells = cells[cells.changed == ""]
    if not (cells.ours_n > 0).any():
        return {"changed recipe": f"changed recipe, {'; '.join(dict.fromkeys(done.changed))}"}, cells
    why = {}
    if (fewer := cells[(cells.ours_n > 0) & (cells.ours_n < cells.paper_n)]).size:
        why["too few seeds"] = f"n = {fewer.ours_n.min()}, the paper has {fewer.paper_n.iloc[0]}"
    if (missing := cells[cells.ours_n == 0]).size:
        why["sets missing"] = f"no {', '.join(missing.column)}"
    if (partial := cells[cells.verdict == "?"]).size:
        why["other images"] = f"sets missing or other images than the paper's in {', '.join(partial.column)}"
    return why, cells


def in_words(cell):
    return (f"{cell.column}: ours {cell.ours:.4g} (n = {cell.ours_n}), paper {cell.paper:.4g}, "
            f"Δ {cell.delta:+.3g}, tolerance {cell.tolerance:.3g}")
