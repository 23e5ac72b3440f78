"""`analyze.py --check`: every published row that was repeated in full must be within its tolerance.

A row is a network × method of a paper's table, under the published protocol. It is judged when it is complete: in each
of its columns there are as many seeds as the paper had, by the published recipe, on the paper's images.
"""
import math
from collections import Counter

from reporting import dismax, openood
from reporting.comparison import compare
from reporting.names import title_of
from reporting.verdicts import OUTSIDE

BENCHMARKS = (dismax.BENCHMARK, openood.BENCHMARK)


def check(runs, dataset=None):
    """(lines to print, number of cells outside their tolerance) of all published rows, or of those on one data set."""
    text, outside, judged, reasons, total = [], 0, 0, [], 0
    for benchmark in BENCHMARKS:
        rows = [row for row in benchmark.papers() if row["method"] and dataset in (None, row["id_dataset"])]
        total += len(rows)
        lines = {name: compare(benchmark, name, runs) for name in dict.fromkeys(row["id_dataset"] for row in rows)}
        for row in rows:
            own = [line for line in lines[row["id_dataset"]] if line.protocol.published
                   and (line.model, line.method) == (row["model"], row["method"])]
            why, cells = judge(own)
            off = [] if why else [cell for cell in cells if cell.verdict == OUTSIDE]
            title = f"{row['id_dataset']}, {title_of(row['model'])}, {row['title']}"
            text += [f"{OUTSIDE}  {title}, {in_words(cell)}" for cell in off]
            text += [f"not judged  {title}: {'; '.join(why.values())}"] if why and "no run" not in why else []
            outside, judged, reasons = outside + len(off), judged + (not why), [*reasons, *why]
    said = ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common())
    text.append(f"{total} published rows: {judged} judged, {outside} cells outside their tolerance; "
                f"{total - judged} not judged" + (f" ({said}; a row can have several reasons)" if said else ""))
    return text, outside


def judge(lines):
    """Why a row cannot be judged, short reason → in words, empty where it can; and its cells that the paper has.

    Args:
        lines: comparison.Line under the published protocol, one a recipe.
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
        why["other images"] = f"sets missing or other images than the paper's in {', '.join(partial)}"
    return why, cells


def in_words(cell):
    return (f"{cell.column}: ours {cell.ours:.4g} (n = {cell.ours_n}), paper {cell.paper:.4g}, "
            f"Δ {cell.delta:+.3g}, tolerance {cell.tolerance:.3g}")
