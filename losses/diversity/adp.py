"""Adaptive diversity promoting (Pang et al. 2019): members that differ in the probabilities of the other classes."""
from __future__ import annotations

import math

from torch import Tensor

from .base import DiversityLoss, without_label
from .similarity import neglogdet


class ADPDiversityLoss(DiversityLoss):
    """alpha · mean Σ p̄ log p̄ + beta · neglogdet(q), p̄ the mean of the members' probabilities and q those of the other
    classes (SDDE section 4). A larger alpha makes p̄ less confident; a larger beta separates the q more.

    It needs labels (B) and logits (N, B, L), L ≥ 2. With fewer than N + 1 classes the q are linearly dependent, and
    only the ridge of 1e-5 keeps the determinant above 0. For one member the second part is constant.

    Args:
        alpha, beta: weights of the two parts; SDDE's scripts use 2 and 0.5.
        as_published: q is the probability of the other classes. If a member is certain of the label, q vanishes and has
            no direction. By default q keeps at least a thousandth of the probability.
    """

    needs = ("labels", "logits")

    def __init__(self, alpha: float, beta: float, as_published: bool = False) -> None:
        self.alpha, self.beta, self.as_published = alpha, beta, as_published

    def value(self, labels: Tensor, logits: Tensor) -> Tensor:
        if logits.shape[2] < 2:
            raise ValueError("ADPDiversityLoss needs at least two classes")
        log_mean = logits.log_softmax(2).logsumexp(0) - math.log(len(logits))  # (B, L)
        negative_entropy = (log_mean.exp() * log_mean).sum(1).mean()
        others = without_label(logits, labels)  # (N, B, L−1)
        mass = (others.logsumexp(2) - logits.logsumexp(2)).exp()  # (N, B), 1 − p of the label
        if not self.as_published:
            mass = mass.clamp(min=1e-3)
        return self.alpha * negative_entropy + self.beta * neglogdet(mass[..., None] * others.softmax(2))
