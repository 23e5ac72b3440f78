"""IsoMax (Macêdo et al., "Entropic Out-of-Distribution Detection", arXiv 1908.05569): distances instead of products."""
import torch
import torch.nn.functional as F
from torch import nn

from .base import LossFirstPart, LossSecondPart
from .distances import euclidean_distances


class IsoMaxLossFirstPart(LossFirstPart):
    """logits = −‖f − p_j‖₂, divided by the temperature; the prototypes start at zero."""

    score_type = "ES"

    def __init__(self, num_features, num_classes, temperature=1.0):
        super().__init__(num_features, num_classes, temperature)
        self.temperature = temperature
        self.prototypes = nn.Parameter(torch.zeros(num_classes, num_features))

    def logits(self, features):
        return euclidean_distances(features, self.prototypes) / -self.temperature


class IsoMaxLossSecondPart(LossSecondPart):
    """Cross-entropy of the logits times the entropic scale, in training and (as published) in evaluation too.

    Everything else, from accuracy to detection, uses the logits without that scale.
    """

    def __init__(self, model_classifier, entropic_scale=10.0):
        super().__init__(model_classifier)
        self.entropic_scale = entropic_scale

    def loss_of(self, logits, targets):
        return F.cross_entropy(self.entropic_scale * logits, targets)
