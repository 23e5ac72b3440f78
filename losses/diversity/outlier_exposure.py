"""Outlier exposure (Hendrycks et al. 2019): on outliers all classes should be equally likely."""
from __future__ import annotations

from torch import Tensor

from .base import DiversityLoss


class OEDiversityLoss(DiversityLoss):
    """Mean over members and samples of logsumexp z − mean z, the cross-entropy from the uniform distribution to p
    (SDDE section 5); at least ln L. It needs logits (N, B, L) of outliers."""

    needs = ("logits",)

    def value(self, logits: Tensor) -> Tensor:
        return (logits.logsumexp(2) - logits.mean(2)).mean()
