"""Scores: from logits (…, C) to one number a sample (…), larger = more in-distribution.

Pure functions of torch logits z, at temperature 1; q = softmax(z), natural logarithms. Source: DisMax repository and
paper section 3 (the first six), Liu et al. arXiv 2010.03759 (energy). The maximum logit score of Hendrycks et al.
(arXiv 1911.11132) is MDS.
"""


def mps(logits):
    """Maximum probability score, ranked in log space: ln(max q / (1 − max q)), in (−∞, ∞).

    The published MPS is max q, which is sigmoid(mps) and orders samples in the same way, except that a float32 softmax
    is exactly 1 once the largest logit leads by 17: all those samples tie. Here they keep their order.
    """
    top = logits.argmax(-1, keepdim=True)
    others = logits.scatter(-1, top, -float("inf")).logsumexp(-1)
    return logits.amax(-1) - others


def es(logits):
    """Entropic score Σ q ln q, minus the entropy, in [−ln C, 0]. From log-softmax: never NaN for finite logits."""
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * log_q).sum(-1)


def mds(logits):
    """Minimum distance score: the largest logit, which is minus the smallest distance for distance-based losses."""
    return logits.amax(-1)


def mmls(logits):
    """Max-mean logit score: largest logit + mean logit."""
    return logits.amax(-1) + logits.mean(-1)


def mmles(logits):
    """Max-mean logit entropy score, DisMax's own: largest + mean logit − entropy."""
    return mmls(logits) + es(logits)


def mmleps(logits):
    """Max-mean logit entropy and probability score: MMLES + max q."""
    return mmles(logits) + logits.log_softmax(-1).amax(-1).exp()


def energy(logits):
    """Minus the free energy: ln Σ exp z."""
    return logits.logsumexp(-1)


SCORES = {
    "MPS": mps, "ES": es, "MDS": mds, "MMLS": mmls, "MMLES": mmles, "MMLEPS": mmleps,
    "energy": energy,
}
