"""The published numbers, results/papers/*.csv: one row per network × method, with the number of seeds and the source.

Columns: id_dataset, model, method (our name; "" where the paper only quotes a method that is not ours), title (the
paper's name), seeds, and the values with their standard deviations, in the paper's units.
"""
import csv
import functools
from pathlib import Path

PAPERS = Path(__file__).resolve().parents[1] / "results" / "papers"
WORDS = ("id_dataset", "model", "method", "title", "score", "source")


@functools.cache
def dismax():
    """Table 2 and the ImageNet table of DisMax, a dict per row; values are floats, absent where the paper has none."""
    return [row for path in sorted(PAPERS.glob("dismax_*.csv")) for row in _rows(path)]


@functools.cache
def sdde():
    """Near and far AUROC of SDDE, in the same form."""
    return _rows(PAPERS / "sdde_ood.csv")


def _rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: text if name in WORDS else float(text) for name, text in row.items() if text or name in WORDS}
                for row in csv.DictReader(file)]
