"""The verdict on our number: within the tolerance of the paper's or not.

A difference Δ of means passes where |Δ| ≤ max(τ, 2·√(s²/n of the paper + s²/n of ours)). For most columns τ is a
number of points. For ECE, whose published values lie between 0.003 and 0.027, it is a share of the paper's value, and
the whole tolerance stays below half of that value: so an ECE that is wrong by a factor of 2, up or down, is outside
whatever the spread of the seeds.
"""
import math
from typing import NamedTuple

import numpy as np

OUTSIDE = "outside tolerance"
WIDEST = 0.45  # of the paper's value, where τ is a share of it


class Cell(NamedTuple):
    """One column of one line of a table, in the table's unit; NaN for what there is none of."""

    column: str
    paper: float
    paper_std: float
    paper_n: int
    ours: float
    ours_std: float
    ours_n: int
    dropped_n: int  # seeds that the release's own rule leaves out
    delta: float
    tolerance: float
    verdict: str  # ok, OUTSIDE, or ? where the images are not the paper's; "" where there is nothing to compare


def verdict(column, paper, values, comparable=True, complete=True, dropped_n=0):
    """The Cell of a column.

    Args:
        column: has `title`; `paper`, the name of the published value; `tau`, and `relative`, whether that is a share.
        paper: the published row, a dict with `seeds`, or None.
        values: (n) ours, one a seed.
        comparable: whether the recipe is the paper's.
        complete: whether the images are.
    """
    n, (mean, std), paper = len(values), mean_and_std(values), paper or {}
    theirs, their_std = (paper.get(f"{column.paper}{end}", math.nan) for end in ("", "_std"))
    paper_n = int(paper.get("seeds", 0))
    tolerance, word = math.nan, ""
    if comparable and paper_n and math.isfinite(mean - theirs):
        spread = 0.0 if math.isnan(their_std) else their_std  # the ImageNet table has none
        our_spread = std if n > 1 else spread  # one seed says nothing of its spread: take the paper's
        tolerance = max(column.tau * (abs(theirs) if column.relative else 1),
                        2 * math.sqrt(spread**2 / paper_n + our_spread**2 / n))
        if column.relative:
            tolerance = min(tolerance, WIDEST * abs(theirs))
        word = "?" if not complete else "ok" if abs(mean - theirs) <= tolerance else OUTSIDE
    return Cell(column.title, theirs, their_std, paper_n, mean, std, n, dropped_n, mean - theirs, tolerance, word)


def mean_and_std(values):
    """Mean and sample standard deviation; NaN where there are too few values."""
    n = len(values)
    return float(np.mean(values)) if n else math.nan, float(np.std(values, ddof=1)) if n > 1 else math.nan


def number(mean, std, digits):
    """"mean ± std", "mean" for one value, "–" for none."""
    if not math.isfinite(mean):
        return "–"
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if math.isfinite(std) else "")
