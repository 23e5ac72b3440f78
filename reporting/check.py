"""`analyze.py --check`: every published row that was repeated in full must be within its tolerance.

A row is a network × method of a paper's table, under the published protocol. It is judged if it is complete: each
column has the paper's number of seeds, with the published recipe, on the paper's images.
"""
import math
from collections import Counter
from typing import NamedTuple

from reporting import dismax, openood
from reporting.comparison import compare
from reporting.names import title_of
from reporting.verdicts import OUTSIDE

BENCHMARKS = (dismax.BENCHMARK, openood.BENCHMARK)


class Row(NamedTuple):
    """A published row: why it is not judged (short reason → sentence), its cells, and those outside, in words."""

    title: str
    why: dict
    cells: list
    outside: list


def check(runs, dataset=None):
    """(lines to print, number of cells outside their tolerance) of all published rows, or of those on one data set."""
    rows = list(published_rows(runs, dataset))
    text = []
    for row in rows:
        text += [f"{OUTSIDE}  {line}" for line in row.outside]
        if row.why and "no run" not in row.why:
            text.append(f"not judged  {row.title}: {'; '.join(row.why.values())}")
    judged, outside = sum(not row.why for row in rows), sum(len(row.outside) for row in rows)
    reasons = Counter(reason for row in rows for reason in row.why)
    said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    text.append(f"{len(rows)} published rows: {judged} judged, {outside} cells outside their tolerance; "
                f"{len(rows) - judged} not judged" + (f" ({said}; a row can have several reasons)" if said else ""))
    return text, outside


def published_rows(runs, dataset=None):
    """A Row for each published row, or for those on one data set."""
    for benchmark in BENCHMARKS:
        rows = [row for row in benchmark.papers() if row["method"] and dataset in (None, row["id_dataset"])]
        lines = {name: compare(benchmark, name, runs) for name in dict.fromkeys(row["id_dataset"] for row in rows)}
        for row in rows:
            own = [line for line in lines[row["id_dataset"]] if line.protocol.published
                   and (line.model, line.method) == (row["model"], row["method"])]
            why, cells = judge(own)
            title = f"{row['id_dataset']}, {title_of(row['model'])}, {row['title']}"
            off = [] if why else [f"{title}, {describe(cell)}" for cell in cells if cell.verdict == OUTSIDE]
            yield Row(title, why, cells, off)


def judge(lines):
    """Why a row cannot be judged (short reason → sentence, empty if it can), and its cells with a published value.

    Args:
        lines: comparison.Line under the published protocol, one per recipe.
    """
    lines = [line for line in lines if line.runs]
    if not lines:
        return {"no run": "no run"}, []
    published = [line for line in lines if not line.changed]
    if not published:
        return {"changed recipe": f"changed recipe, {'; '.join(line.changed for line in lines)}"}, []
    cells = [cell for cell in published[0].cells if math.isfinite(cell.paper)]
    why, there = {}, [cell for cell in cells if cell.ours_n]
    if fewer := [cell.ours_n + cell.dropped_n for cell in there if cell.ours_n + cell.dropped_n < cell.paper_n]:
        why["too few seeds"] = f"n = {min(fewer)}, the paper has {there[0].paper_n}"
    if missing := [cell.column for cell in cells if cell not in there]:
        why["sets missing"] = f"no {', '.join(missing)}"
    if partial := [cell.column for cell in cells if cell.verdict == "?"]:
        why["other images"] = f"missing sets or other images than the paper's in {', '.join(partial)}"
    return why, cells


def describe(cell):
    return (f"{cell.column}: ours {cell.ours:.4g} (n = {cell.ours_n}), paper {cell.paper:.4g}, "
            f"Δ {cell.delta:+.3g}, tolerance {cell.tolerance:.3g}")
