"""IsoMax (Macêdo et al., "Entropic Out-of-Distribution Detection", arXiv 1908.05569): distances instead of products."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import distances
from .base import LossFirstPart
from .criterion import LossSecondPart


class IsoMaxLossFirstPart(LossFirstPart):
    """logits = −‖f − p_j‖₂, divided by the temperature; the prototypes start at zero. Arguments: see LossFirstPart."""

    score_type = "ES"
    sees_to_precision = True

    def __init__(self, num_features: int, num_classes: int, temperature: float = 1.0) -> None:
        super().__init__(num_features, num_classes, temperature)
        self.prototypes = nn.Parameter(torch.zeros(num_classes, num_features))

    def logits(self, features: Tensor) -> Tensor:
        return distances.euclidean_distance_logits(features, self.prototypes, self.temperature)


class IsoMaxLossSecondPart(LossSecondPart):
    """Cross-entropy of the logits times the entropic scale, in training and (as published) in evaluation too.

    Accuracy, detection and everything else use the logits without that scale.
    """

    def __init__(
        self, model_classifier: LossFirstPart, entropic_scale: float = 10.0, *, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(model_classifier, label_smoothing=label_smoothing)
        if not 0 < entropic_scale < math.inf:
            raise ValueError(f"entropic_scale must be a number above 0, got {entropic_scale}")
        self.entropic_scale = entropic_scale

    @property
    def logit_scale(self) -> float:
        return self.entropic_scale
