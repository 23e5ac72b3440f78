"""The published numbers, results/papers/*.csv: a row a network × method, each with where it was read."""
from pathlib import Path

import pandas as pd

PAPERS = Path(__file__).resolve().parents[1] / "results" / "papers"


def dismax():
    """Table 2 and the ImageNet table; `loss` is "" where the paper only quotes a method that is not ours."""
    return pd.concat([pd.read_csv(path) for path in sorted(PAPERS.glob("dismax_*.csv"))]).fillna({"loss": ""})


def sdde():
    """Near and far AUROC."""
    return pd.read_csv(PAPERS / "sdde_ood.csv")
