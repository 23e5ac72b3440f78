"""Ours beside the paper's: is it the same?"""
import numpy as np


def verdict(column, paper, paper_n, values, comparable=True, complete=True):
    """The paper's value and ours; Δ, tolerance, and "ok", "OFF" or, where the images differ, "?".

    Args:
        column: has `paper`, the name of the published value, and `tau`, how far off is still the same.
        paper: the published row, or None.
        values: ours, one a seed.
        comparable: whether the recipe is the paper's.
        complete: whether the images are.
    """
    n = len(values)
    mean, std = values.mean() if n else np.nan, values.std(ddof=1) if n > 1 else np.nan
    theirs, their_std = (getattr(paper, f"{column.paper}{end}", np.nan) for end in ("", "_std"))
    tolerance, word = np.nan, ""
    if comparable and np.isfinite(mean - theirs):
        spread = np.nan_to_num(their_std)  # the ImageNet table has none
        our_spread = std if n > 1 else spread  # one seed says nothing of its spread: take the paper's
        tolerance = max(column.tau, 2 * np.sqrt(spread**2 / paper_n + our_spread**2 / n))
        word = "?" if not complete else "ok" if abs(mean - theirs) <= tolerance else "OFF"
    return {"paper": theirs, "paper_std": their_std, "paper_n": paper_n, "ours": mean, "ours_std": std, "ours_n": n,
            "delta": mean - theirs, "tolerance": tolerance, "verdict": word}


def number(mean, std, digits):
    """"mean ± std", "mean" for one value, "–" for none."""
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if np.isfinite(std) else "")
