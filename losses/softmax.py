"""SoftMax: the ordinary linear layer and cross-entropy, as the baseline of both papers."""
from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from .base import LossFirstPart
from .criterion import LossSecondPart
from .precision import in_full_precision


class SoftMaxLossFirstPart(LossFirstPart):
    """logits = f·Wᵀ + b, divided by the temperature. W ~ U(−1/√F, 1/√F).

    Args:
        num_features, num_classes, temperature: see LossFirstPart.
        zero_bias: b starts at 0 (DisMax repository); else b ~ U(−1/√F, 1/√F), as nn.Linear draws it (SDDE).
    """

    score_type = "MPS"
    sees_to_precision = True

    def __init__(
        self, num_features: int, num_classes: int, temperature: float = 1.0, zero_bias: bool = True
    ) -> None:
        super().__init__(num_features, num_classes, temperature)
        bound = num_features**-0.5
        self.weights = nn.Parameter(torch.empty(num_classes, num_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        if not zero_bias:
            nn.init.uniform_(self.bias, -bound, bound)

    def logits(self, features: Tensor) -> Tensor:
        return linear_logits(features, self.weights, self.bias, self.temperature)

    def extra_repr(self) -> str:
        return super().extra_repr() + ", bias=True"


class SoftMaxLossSecondPart(LossSecondPart):
    """Cross-entropy, the same in training and in evaluation. `loss` is the published attribute."""

    def __init__(self, model_classifier: LossFirstPart, *, label_smoothing: float = 0.0) -> None:
        super().__init__(model_classifier, label_smoothing=label_smoothing)
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)


def linear_logits(features: Tensor, weights: Tensor, bias: Tensor, temperature: Tensor) -> Tensor:
    """(f·Wᵀ + b)/temperature in float32 or float64: (…, F), (C, F), (C), (1) → (…, C)."""
    return in_full_precision(lambda f, w, b, t: F.linear(f, w, b) / t, features, weights, bias, temperature)


torch.fx.wrap("linear_logits")  # symbolic tracing records it as one node: inside it decides by type and autocast
