"""IsoMax+ (Macêdo & Ludermir, arXiv 2105.14399): distances of unit vectors, with one learned scale."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import distances
from .base import LossFirstPart
from .isomax import IsoMaxLossSecondPart


class IsoMaxPlusLossFirstPart(LossFirstPart):
    """logits = −|distance_scale|·‖f̂ − p̂_j‖₂, divided by the temperature. Prototypes ~ N(0, 1), distance_scale = 1.
    Arguments: see LossFirstPart."""

    score_type = "MDS"
    sees_to_precision = True

    def __init__(self, num_features: int, num_classes: int, temperature: float = 1.0) -> None:
        super().__init__(num_features, num_classes, temperature)
        self.prototypes = nn.Parameter(torch.randn(num_classes, num_features))
        self.distance_scale = nn.Parameter(torch.ones(1))

    def logits(self, features: Tensor) -> Tensor:
        scale = self.distance_scale.abs() / self.temperature * math.sqrt(2)  # ‖f̂ − p̂‖ = √2·√(1 − cos)
        return distances.cosine_distance_logits(features, self.prototypes, scale)


class IsoMaxPlusLossSecondPart(IsoMaxLossSecondPart):
    """The criterion of IsoMax; only the logits differ."""
