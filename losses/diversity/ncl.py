"""Negative correlation learning: members are pushed to either side of their mean."""
from .base import full_precision, member_logits
from .similarity import cosine


class NCLDiversityLoss:
    """Mean over samples and pairs of dᵢ·dⱼ, dₙ = pₙ − mean p with the mean held fixed; in [−1/N, 0]
    (SDDE section 4; Liu & Yao 1999).

    Called with logits (N, B, L). Equals −Σ‖dₙ‖²/(N(N−1)), and the fixed mean changes no gradient. 0 for one member.
    """

    def __call__(self, images=None, labels=None, logits=None, features=None, feature_maps=None):
        logits = member_logits("NCLDiversityLoss", logits)
        with full_precision(logits):
            p = logits.softmax(2)
            return cosine(p - p.detach().mean(0), normalize=False)
