"""Claims about post-hoc detectors: which there are, what they are fitted on, and what they may answer."""
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine import detectors
from engine.inference import Outputs
from utils.io import UserError


def test_unknown_and_missing_detectors_are_refused_in_words(monkeypatch):
    with pytest.raises(UserError, match="unknown detector 'nobody': choose from mahalanobis, rmd"):
        detectors.check_detectors(["nobody"])
    detectors.check_detectors([])
    monkeypatch.setitem(detectors.DETECTORS, "mine", lambda head: head)
    monkeypatch.setitem(sys.modules, "pytorch_ood", None)
    detectors.check_detectors(["mine"])
    with pytest.raises(UserError, match="--detectors needs the package pytorch-ood"):
        detectors.check_detectors(["mine", "knn"])
    assert detectors.known_detectors()[-1] == "mine" and detectors.make_detector("mine", 7) == 7


@pytest.mark.parametrize(("width", "dimension"), [
    (2048, 1000), (2047, 512), (768, 512), (767, 383), (769, 512), (2049, 1000), (5, 2)])
def test_vim_keeps_as_many_dimensions_as_its_authors(monkeypatch, width, dimension):
    detector = pytest.importorskip("pytorch_ood.detector", reason="the extra [ood] is not installed")
    monkeypatch.setattr(detector, "ViM", lambda *given: given)
    head = SimpleNamespace(num_features=width, weights=torch.ones(2, 3), bias=torch.zeros(2))
    model, kept, weights, bias = detectors.PytorchOOD("vim", head).detector
    assert model is None and kept == dimension and weights.shape == (2, 3) and bias.shape == (2,)
    for missing in ("weights", "bias"):
        other = SimpleNamespace(**{name: value for name, value in vars(head).items() if name != missing})
        with pytest.raises(UserError, match="vim needs a linear head: choose another"):
            detectors.PytorchOOD("vim", other)


def test_detectors_are_fitted_on_so_many_images_and_asked_once(monkeypatch):
    monkeypatch.setattr(detectors, "MOST_TRAINING_IMAGES", 5)
    calls = []

    class Mine:
        def __init__(self, head):
            self.head = head

        def fit(self, features, logits, labels):
            calls.append((self.head, features.tolist(), logits.tolist(), labels.tolist()))

        def score(self, features, logits):
            return features[:, 0] + 10 * logits[:, 0] + self.head
    monkeypatch.setitem(detectors.DETECTORS, "mine", Mine)
    features, logits = np.arange(8, dtype=np.float32).reshape(2, 4, 1), np.ones((2, 4, 1), np.float32)
    found, asked = Outputs(logits, np.arange(4), np.arange(4), features=features), []

    class Split(SimpleNamespace):
        def __len__(self):
            return self.n

    def outputs(split, subset=None):
        asked.append((split.name, split.split, subset))
        return found if split.n else None
    cache = SimpleNamespace(heads=[1, 2], outputs=outputs)
    fitted = detectors.FittedDetectors(["mine"], cache, Split(name="a", split="train", n=5))
    assert asked.pop() == ("a", "train", None)
    assert calls == [(1, [[0], [1], [2], [3]], [[1]] * 4, [0, 1, 2, 3]),
                     (2, [[4], [5], [6], [7]], [[1]] * 4, [0, 1, 2, 3])]
    for name, split in (("a", "test"), ("a", "train"), ("b", "test"), ("a", "test")):
        scores = fitted(Split(name=name, split=split, n=1))["mine"]
        assert scores.tolist() == [13.5, 14.5, 15.5, 16.5] and scores.dtype == np.float64  # the mean over members
    assert [place[:2] for place in asked] == [("a", "test"), ("a", "train"), ("b", "test")]
    assert fitted(Split(name="none", split="test", n=0)) == {}
    assert detectors.FittedDetectors(["mine"], cache, Split(name="a", split="train", n=0)).detectors == {}
    asked.clear()
    detectors.FittedDetectors([], cache, Split(name="a", split="train", n=6))
    (_, _, subset), = asked
    assert len(set(subset.tolist())) == 5 and subset.tolist() == sorted(subset.tolist()) and subset.max() <= 5


@pytest.mark.parametrize(("scores", "said"), [
    (torch.zeros(3), r"each of 4 images; it gave \(3,\)"), (torch.tensor([1, 2, torch.inf, 3]), "finite score"),
    (torch.zeros(4, 1), r"it gave \(4, 1\)")])
def test_other_answers_of_a_detector_are_refused(scores, said):
    found = Outputs(np.zeros((1, 4, 2), np.float32), np.zeros(4, np.int64), np.arange(4),
                    features=np.zeros((1, 4, 2), np.float32))
    with pytest.raises(UserError, match=f"the detector odd must give a .*{said}"):
        detectors.scores_of_detectors({"odd": [SimpleNamespace(score=lambda *_: scores)]}, found)


def test_a_detector_that_fails_is_named_and_a_sentence_stays(monkeypatch):
    found = Outputs(np.zeros((1, 4, 2), np.float32), np.zeros(4, np.int64), np.arange(4),
                    features=np.zeros((1, 4, 2), np.float32))

    def failing(error):
        def fit(*_):
            raise error
        return lambda head: SimpleNamespace(fit=fit)
    for error, said in ((KeyError("k"), "the detector odd cannot be fitted: KeyError: 'k'"),
                        (UserError("as it is"), "^as it is$")):
        monkeypatch.setitem(detectors.DETECTORS, "odd", failing(error))
        with pytest.raises(UserError, match=said):
            detectors.fit(["odd"], [None], found)
