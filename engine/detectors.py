"""Post-hoc detectors of OOD images, fitted on training features: pytorch-ood's, and those of plugins.

  python evaluate.py RUN --detectors mahalanobis knn vim react       needs: pip install pytorch-ood

A detector is a class. detector(head) is made for one network, fit(features, logits, labels) fits it, and
score(features, logits) → (n) is larger for in-distribution images. features (n, F) are the inputs of the head, logits
(n, C) its outputs, float32 tensors on the CPU; labels (n) are int64. The score of an ensemble is the mean over its
members' detectors.
"""
import numpy as np
import torch

from recipes import DETECTORS
from utils.io import UserError

FROM_PYTORCH_OOD = (
    "mahalanobis", "rmd", "knn", "vim", "nnguide", "she", "react", "ash", "energy", "gen", "klmatching", "maxlogit")


def known_detectors():
    return [*FROM_PYTORCH_OOD, *DETECTORS]


def check_detectors(names):
    """UserError if a name is unknown or its package is missing."""
    for name in names:
        if name not in known_detectors():
            raise UserError(f"unknown detector {name!r}: choose from {', '.join(known_detectors())}")
    if set(names) & set(FROM_PYTORCH_OOD):
        try:
            import pytorch_ood  # noqa: F401
        except ImportError as error:
            raise UserError(f"--detectors needs the package pytorch-ood ({error}): pip install pytorch-ood") from None


def make_detector(name, head):
    """A detector for a network with this head."""
    return DETECTORS[name](head) if name in DETECTORS else PytorchOOD(name, head)


class PytorchOOD:
    """A detector of pytorch-ood. Its outlier scores are negated, so that larger = more in-distribution."""

    def __init__(self, name, head):
        from pytorch_ood import detector

        self.name = name
        as_maps = lambda maps: head(maps.flatten(1))
        if name in ("mahalanobis", "rmd", "knn"):
            self.detector = {"mahalanobis": detector.Mahalanobis, "rmd": detector.RMD, "knn": detector.KNN}[name](None)
        elif name == "vim":
            if not hasattr(head, "weights") or not hasattr(head, "bias"):
                raise UserError("the detector vim needs a linear head: choose another one for distance-based losses")
            width = head.num_features
            dimension = 1000 if width >= 2048 else 512 if width >= 768 else width // 2  # the authors' rule
            self.detector = detector.ViM(None, dimension, head.weights.detach(), head.bias.detach())
        elif name in ("nnguide", "she"):
            self.detector = {"nnguide": detector.NNGuide, "she": detector.SHE}[name](None, head)
        elif name == "react":
            self.detector = detector.ReAct(None, as_maps)
        elif name == "ash":
            self.detector = detector.ASH(None, as_maps)
        else:
            self.detector = {"energy": detector.EnergyBased, "gen": detector.GEN, "klmatching": detector.KLMatching,
                             "maxlogit": detector.MaxLogit}[name](None)

    @torch.no_grad()
    def fit(self, features, logits, labels):
        if self.name == "react":  # on pooled features, as OpenOOD does: maps of 1×1
            self.detector.fit_feature_maps(features[..., None, None], labels)
        elif self.name == "klmatching":
            self.detector.fit_logits(logits, labels)
        elif hasattr(self.detector, "fit_features"):
            self.detector.fit_features(features, labels)

    @torch.no_grad()
    def score(self, features, logits):
        if self.name in ("react", "ash"):
            return -self.detector.predict_feature_maps(features[..., None, None])
        if hasattr(self.detector, "predict_features"):
            return -self.detector.predict_features(features)
        return -self.detector.predict_logits(logits)


MOST_TRAINING_IMAGES = 50_000  # that detectors are fitted on; of larger sets so many by chance


class FittedDetectors:
    """Detectors of a run under one checkpoint, fitted on its training images. Called with a Split: {name: (n) scores}.

    Args:
        names: of detectors, as `check_detectors` accepts.
        cache: a LogitsCache with features.
        train_split: the Split of training images.
    UserError, naming the detector, when one cannot be fitted.
    """

    def __init__(self, names, cache, train_split):
        self.cache, self._scores, subset = cache, {}, None
        if len(train_split) > MOST_TRAINING_IMAGES:
            rng = np.random.default_rng(0)
            subset = np.sort(rng.choice(len(train_split), MOST_TRAINING_IMAGES, replace=False))
        training = cache.outputs(train_split, subset)
        self.detectors = fit(names, cache.heads, training) if training else {}

    def __call__(self, split):
        key = split.name, split.split
        if key not in self._scores:
            outputs = self.cache.outputs(split)
            self._scores[key] = scores_of_detectors(self.detectors, outputs) if outputs else {}
        return self._scores[key]


def fit(names, heads, training):
    """name → a fitted detector a member, from the members' heads and the Outputs of training images."""
    found, labels = {}, torch.from_numpy(training.labels)
    features, logits = torch.from_numpy(training.features), torch.from_numpy(training.logits)
    for name in names:
        try:
            found[name] = [make_detector(name, head) for head in heads]
            for k, detector in enumerate(found[name]):
                detector.fit(features[k], logits[k], labels)
        except UserError:
            raise
        except Exception as error:  # a library's or a plugin's
            raise UserError(f"the detector {name} cannot be fitted: {type(error).__name__}: {error}") from error
    return found


def scores_of_detectors(detectors, outputs):
    """name → (n) float64, the mean over members. UserError when a detector answers with something else."""
    features, logits = torch.from_numpy(outputs.features), torch.from_numpy(outputs.logits)
    result = {}
    for name, members in detectors.items():
        each = [torch.as_tensor(detector.score(features[k], logits[k])).double() for k, detector in enumerate(members)]
        result[name] = torch.stack(each).mean(0).numpy()
        if result[name].shape != outputs.labels.shape or not np.isfinite(result[name]).all():
            raise UserError(f"the detector {name} must give a finite score for each of {len(outputs.labels)} images; "
                            f"it gave {result[name].shape}")
    return result
