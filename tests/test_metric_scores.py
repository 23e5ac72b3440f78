"""Scores of logits and of ensembles' logits against plain formulas, sample by sample; ties, underflow, temperatures."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from losses import DisMaxLossFirstPart
from losses.calibration import SCORES
from metrics import ensemble
from metrics.ensemble import ensemble_scores


def test_scores_against_plain_formulas():
    z = torch.randn(4, 7, 5, dtype=torch.double)  # any leading dimensions, an ensemble's too
    q = z.exp() / z.exp().sum(-1, keepdim=True)
    top, mean, entropy = z.max(-1).values, z.mean(-1), -(q * q.log()).sum(-1)
    expected = {
        "MPS": (q.max(-1).values / (1 - q.max(-1).values)).log(), "ES": -entropy, "MDS": top, "MMLS": top + mean,
        "MMLES": top + mean - entropy, "MMLEPS": top + mean - entropy + q.max(-1).values,
        "energy": z.exp().sum(-1).log(),
    }
    assert set(expected) == set(SCORES)
    for name, score in SCORES.items():
        assert score(z).shape == (4, 7) and torch.allclose(score(z), expected[name]), name


@pytest.mark.parametrize("name", SCORES)
def test_scores_equal_the_classifiers(name):
    layer, z = DisMaxLossFirstPart(4, 6), 3 * torch.randn(20, 6)
    layer.score_type = name
    assert torch.equal(layer.scores(z), SCORES[name](z))


def test_saturated_softmax_makes_no_ties():
    """Margins of 20 to 80: the float32 probability is exactly 1 for all, the scores still order them."""
    z = torch.zeros(31, 10)
    z[:, 3] = torch.linspace(20, 80, 31)
    assert (z.softmax(1).amax(1) == 1).all()
    for name in ("MPS", "ES"):
        assert (SCORES[name](z).diff() > 0).all(), name


def test_scores_stay_finite_where_probabilities_underflow():
    z = torch.tensor([[0.0, -300, -500], [1000, 0, -1000]])
    for name, score in SCORES.items():
        assert score(z).isfinite().all(), name


# ---- ensembles ----

def naive_ensemble_scores(z, t):
    """Sample by sample, by the words of sdde.md section 4.1."""
    def softmax(v):
        e = np.exp(v - v.max())
        return e / e.sum()

    z = z / t
    rows = []
    for i in range(z.shape[1]):
        members = z[:, i]
        mean, p = members.mean(0), np.stack([softmax(m) for m in members])
        rows.append({
            "average": softmax(mean).max(), "prob-average": p.mean(0).max(), "prob-minmax": p.max(1).min(),
            "prob-maxstd": -p.max(1).std(ddof=1), "logit-average": mean.max(), "minmax": members.max(1).min(),
            "maxstd": -members.max(1).std(ddof=1), "stdmax": -members.std(0, ddof=1).max(),
            "average-minmax": members[:, mean.argmax()].min(), "energy": np.log(np.exp(mean).sum()),
            "average-energy": np.log(np.exp(members).sum(1)).mean()})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_ensemble_scores_against_loops():
    z = np.random.default_rng(0).normal(0, 2, (5, 40, 7))
    ours, naive = ensemble_scores(z, 1.7), naive_ensemble_scores(z, 1.7)
    assert list(ours) == list(ensemble.ENSEMBLE_SCORES) == list(naive)
    for name, values in naive.items():
        found = ours[name].numpy()
        if name in ("average", "prob-average", "prob-minmax"):
            found = 1 / (1 + np.exp(-found))  # log odds
        assert np.allclose(found, values), name


def test_a_temperature_reorders_exactly_the_scores_that_say_so():
    z = np.random.default_rng(1).normal(0, 3, (5, 300, 10))
    cold, hot = ensemble_scores(z, 0.3), ensemble_scores(z, 3)
    for name, (_, depends) in ensemble.ENSEMBLE_SCORES.items():
        assert depends != torch.equal(cold[name].argsort(), hot[name].argsort()), name


def test_ensemble_scores_of_one_member_and_of_confident_ones():
    z = np.random.default_rng(2).normal(0, 2, (1, 30, 7))
    one = ensemble_scores(z)
    assert all(values.isfinite().all() for values in one.values())
    assert not one["maxstd"].any() and torch.equal(one["average"], one["prob-minmax"])
    sure = ensemble_scores(40 * z.repeat(3, 0) + 100)
    assert len(sure["average"].unique()) == 30 and len(sure["prob-average"].unique()) == 30, "no ties at 1"
    surer = 100 * np.eye(7)[None, :3] * np.array([1, 1.1, 1.2])[:, None, None] * np.array([1, 1.5, 2])[:, None]
    assert len(ensemble_scores(surer)["prob-maxstd"].unique()) == 3, "1 − 1e-40 and 1 − 1e-80 are 1, and differ"


def test_names_of_scores_do_not_import_torch():
    code = "import sys, metrics.ensemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
