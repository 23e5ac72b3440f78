"""Tables and verdicts at the values where a sign or a bound would go unnoticed."""
import numpy as np
import pandas as pd
import pytest
from conftest import script
from test_reporting import ensemble


@pytest.mark.parametrize(("gain", "share"), [(0.004, 0.25), (0.01, 0.7), (0.0005, -5.0), (-0.004, None), (0.0, None)])
def test_a_small_gain_has_a_share_too(tmp_path, gain, share):
    """0.4 points by each script's score, 0.3 by one score for both: a quarter of the gain is the score's. No share of
    what is no gain."""
    ensemble(tmp_path, "de", 1, {"average": 0.90, "logit-average": 0.90})
    ensemble(tmp_path, "gradcam", 1, {"minmax": 0.90 + gain, "logit-average": 0.903})
    script("analyze.py", "--results-dir", tmp_path)
    table = pd.read_csv(tmp_path / "tables/openood_mnist_paired.csv")
    row, = table[(table.group == "near") & (table.score == "logit-average") & (table.weights == "best")].itertuples()
    assert row.mean == pytest.approx(0.3) and row.score_part == pytest.approx(100 * gain - 0.3)
    assert np.isnan(row.share) if share is None else row.share == pytest.approx(share)
