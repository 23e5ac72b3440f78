"""Outlier exposure (Hendrycks et al. 2019): on outliers every class should be as likely as any other."""
from .base import full_precision, member_logits


class OEDiversityLoss:
    """Mean over members and samples of logsumexp z − mean z, the cross-entropy from the uniform distribution to p
    (SDDE section 5); at least ln L. Called with logits (N, B, L) of outliers."""

    def __call__(self, images=None, labels=None, logits=None, features=None, feature_maps=None):
        logits = member_logits("OEDiversityLoss", logits)
        with full_precision(logits):
            return (logits.logsumexp(2) - logits.mean(2)).mean()
