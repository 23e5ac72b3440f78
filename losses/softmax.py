"""SoftMax: the ordinary linear layer and cross-entropy, as the baseline of both papers."""
import torch
import torch.nn.functional as F
from torch import nn

from .base import LossFirstPart, LossSecondPart


class SoftMaxLossFirstPart(LossFirstPart):
    """logits = f·Wᵀ + b, divided by the temperature. W ~ U(−1/√F, 1/√F).

    Args:
        zero_bias: b starts at 0 (DisMax repository); else b ~ U(−1/√F, 1/√F), as nn.Linear draws it (SDDE).
    """

    score_type = "MPS"

    def __init__(self, num_features, num_classes, temperature=1.0, zero_bias=True):
        super().__init__(num_features, num_classes, temperature)
        self.temperature = temperature
        bound = num_features**-0.5
        self.weights = nn.Parameter(torch.empty(num_classes, num_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        if not zero_bias:
            nn.init.uniform_(self.bias, -bound, bound)

    def logits(self, features):
        return F.linear(features, self.weights, self.bias) / self.temperature

    def extra_repr(self):
        return super().extra_repr() + ", bias=True"


class SoftMaxLossSecondPart(LossSecondPart):
    """Cross-entropy, the same in training and in evaluation."""

    def __init__(self, model_classifier):
        super().__init__(model_classifier)
        self.loss = nn.CrossEntropyLoss()

    def loss_of(self, logits, targets):
        return self.loss(logits, targets)
