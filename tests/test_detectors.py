"""Post-hoc detectors: pytorch-ood's and a plugin's, from training features to a row in both benchmarks."""
import shutil

import numpy as np
import pytest
import torch
from conftest import script

from engine import detectors
from engine.inference import Outputs
from losses import SoftMaxLossFirstPart
from losses.calibration import SCORES
from metrics.detection import detection_metrics
from utils import run_dir
from utils.io import UserError

PLUGIN = """
import torch
from recipes import DETECTORS

class NearestMean:
    def __init__(self, head):
        pass
    def fit(self, features, logits, labels):
        self.means = torch.stack([features[labels == label].mean(0) for label in labels.unique()])
    def score(self, features, logits):
        return -torch.cdist(features, self.means).amin(1)

DETECTORS["nearest_mean"] = NearestMean
"""


def outputs_of(head, features, labels):
    with torch.no_grad():
        logits = torch.stack([head(part) for part in features])
    return Outputs(logits.numpy(), labels.numpy(), np.arange(len(labels)), features=features.numpy())


@pytest.fixture
def world():
    """Two members' features of three classes, far apart from each other, and outliers whose features are small:
    (head, training, in-distribution, OOD Outputs)."""
    torch.manual_seed(0)
    centers, head = 6 * torch.eye(3, 16), SoftMaxLossFirstPart(16, 3)
    with torch.no_grad():
        head.weights.copy_(centers / 2)
    labels = torch.arange(3).repeat(80)
    known = [torch.stack([centers[labels] + torch.randn(240, 16) for _ in range(2)]) for _ in range(2)]
    others = torch.stack([0.3 * torch.randn(240, 16).abs() for _ in range(2)])
    training, inside = (outputs_of(head, features.abs(), labels) for features in known)
    return head, training, inside, outputs_of(head, others, torch.full((240,), -1))


@pytest.mark.parametrize("name", detectors.FROM_PYTORCH_OOD)
def test_detectors_of_pytorch_ood_rank_known_images_first(world, name):
    pytest.importorskip("pytorch_ood", reason="the extra [ood] is not installed")
    head, training, inside, outside = world
    fitted = detectors.fit([name], [head, head], training)
    scores = [detectors.scores_of_detectors(fitted, outputs)[name] for outputs in (inside, outside)]
    assert scores[0].shape == (240,) and detection_metrics(*scores)["auroc"] > 0.7


def test_energy_is_the_packages_and_an_ensembles_score_is_the_mean(world):
    pytest.importorskip("pytorch_ood", reason="the extra [ood] is not installed")
    head, training, inside, _ = world
    found = detectors.scores_of_detectors(detectors.fit(["energy"], [head, head], training), inside)["energy"]
    expected = SCORES["energy"](torch.from_numpy(inside.logits)).mean(0)
    assert found == pytest.approx(expected.numpy(), rel=1e-5)


def test_a_detector_that_gives_too_few_scores_or_fails_is_named(world, monkeypatch):
    class Broken:
        def __init__(self, head):
            pass

        def fit(self, features, logits, labels):
            pass

        def score(self, features, logits):
            return torch.zeros(3)

    monkeypatch.setitem(detectors.DETECTORS, "broken", Broken)
    head, training, inside, _ = world
    with pytest.raises(UserError, match="detector broken must give a finite score for each of 240"):
        detectors.scores_of_detectors(detectors.fit(["broken"], [head, head], training), inside)
    monkeypatch.setattr(Broken, "fit", lambda self, features, logits, labels: 1 / 0)
    with pytest.raises(UserError, match="detector broken cannot be fitted: ZeroDivisionError"):
        detectors.fit(["broken"], [head, head], training)


def test_a_plugins_detector_gets_a_row_in_both_benchmarks(results_dir, data_dir, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    run = tmp_path / "results/digits/lenet/softmax/seed1"
    shutil.copytree(results_dir / "digits/lenet/softmax/seed1", run)
    words = ["evaluate.py", run, "--data-dir", data_dir, "--device", "cpu"]
    script(*words, "--detectors", "nearest_mean", "--plugin", tmp_path / "mine.py")
    found = {(row[0], row[1], row[3]): row[6] for row in run_dir.read_metrics(run)
             if row[4] == "nearest_mean" and row[5] == "auroc"}
    assert set(found) == {(benchmark, name, checkpoint) for benchmark in ("dismax", "openood")
                          for name in ("digits_789", "photo_patches") for checkpoint in ("last", "best")}
    assert min(found.values()) > 0.6
    with np.load(run / "features/digits_train.npz") as content:
        assert content["features"].shape == (1, 845, 84), "training features are kept, and not made again"
    unknown = script(*words, "--detectors", "nearest", check=False)
    assert unknown.returncode == 1 and "unknown detector 'nearest': choose from mahalanobis" in unknown.stderr
