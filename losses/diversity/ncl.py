"""Negative correlation learning: members are pushed away from their mean in opposite directions."""
from __future__ import annotations

from torch import Tensor

from .base import DiversityLoss
from .similarity import cosine


class NCLDiversityLoss(DiversityLoss):
    """Mean over samples and pairs of dᵢ·dⱼ, dₙ = pₙ − mean p with the mean held fixed; in [−1/N, 0]
    (SDDE section 4; Liu & Yao 1999).

    It needs logits (N, B, L). It equals −Σ‖dₙ‖²/(N(N−1)); holding the mean fixed changes no gradient. 0 for one member.
    """

    needs = ("logits",)

    def value(self, logits: Tensor) -> Tensor:
        p = logits.softmax(2)
        return cosine(p - p.detach().mean(0), normalize=False)
