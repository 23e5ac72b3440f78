"""Calibration of probabilities: expected calibration error, proper scores, and the temperature that improves them.

Arrays: logits and probabilities (n, C), labels (n) integers in [0, C). Every function raises ValueError when n = 0,
when shapes or labels do not fit, or when a value is not finite.
"""
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

TEMPERATURES = (0.001, 100.0)  # bounds of the search; DisMax's release has the same


def expected_calibration_error(probabilities, labels, bins=15):
    """Σ over bins of (share of samples)·|mean confidence − accuracy|, a fraction in [0, 1].

    Confidence is the largest probability; equal-width bins are (lo, hi], so a confidence of 1 is counted
    (Guo et al., arXiv 1706.04599, section 2; DisMax uses the same bins).
    """
    probabilities, labels = checked_probabilities(probabilities, labels)
    return float(binned_gap(probabilities.max(1), probabilities.argmax(1) == labels, bins))


def binned_gap(confidence, correct, bins=15):
    """The expected calibration error of confidences (…, n) in [0, 1] and booleans (n): (…), a fraction in [0, 1]."""
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)  # edges[index] < confidence ≤ edges[index + 1]
    *several, n = confidence.shape
    m = int(np.prod(several))
    index = index.reshape(m, n) + np.arange(m)[:, None] * bins
    gap = np.bincount(index.ravel(), (confidence - correct).ravel(), m * bins)  # sum of confidence − accuracy of a bin
    return np.abs(gap).reshape(*several, bins).sum(-1) / n


def negative_log_likelihood(logits, labels):
    """Mean −ln softmax(logits)[label] in nats, ≥ 0. Takes *logits* (log-probabilities are logits too): the logarithm of
    a probability that has underflown is lost."""
    return float(np.mean(log_losses(logits, labels)))


def log_losses(logits, labels):
    """−ln softmax(logits)[label] of each sample (n), in nats."""
    logits, labels = checked_labels(logits, labels)
    return logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]


def brier_score(probabilities, labels):
    """Mean over samples of Σ over classes of (probability − one-hot)², in [0, 2]."""
    probabilities, labels = checked_probabilities(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels]
    return float(np.mean(np.square(probabilities).sum(1) - 2 * own + 1))


def accuracy(logits, labels):
    """Share of samples whose largest logit (the first of equals) is their label's."""
    logits, labels = checked_labels(logits, labels)
    return float(np.mean(logits.argmax(1) == labels))


def fit_temperature(logits, labels, objective="nll"):
    """The temperature T in [0.001, 100] for which softmax(logits/T) minimizes the objective on these samples.

    Args:
        logits: (n, C), labels: (n).
        objective: "nll", the negative log-likelihood, which has one minimum over ln T, found by a bounded search;
            or "ece", the expected calibration error with 15 bins, which has many (least_ece.py finds one within 1 % of
            the smallest ECE). `published_temperature` is the search of DisMax's release.

    Returns:
        float: a bound if the optimum lies outside, and 1.0 if no T is better than 1.
    """
    from .least_ece import least_ece_temperature  # here, because it needs binned_gap

    logits, labels = checked_labels(logits, labels)
    if objective not in ("nll", "ece"):
        raise ValueError(f'objective must be "nll" or "ece", got {objective!r}')
    shifted = logits - logits.max(1, keepdims=True)  # ≤ 0, so no T overflows
    if objective == "ece":
        return least_ece_temperature(shifted, logits.argmax(1) == labels, TEMPERATURES)
    own = shifted[np.arange(len(labels)), labels]

    def nll(log_t):
        t = np.exp(log_t)
        return np.mean(np.log(np.exp(shifted / t).sum(1)) - own / t)

    bounds = np.log(TEMPERATURES)
    tried = {0.0: nll(0.0), **{b: nll(b) for b in bounds}}
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    tried[found.x] = found.fun
    return float(np.exp(min(tried, key=lambda t: (tried[t], abs(t)))))  # of equal ones the nearest to T = 1


def stratified_halves(labels):
    """(n) booleans: the samples of each class, in their order, alternate between the two halves. No randomness."""
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    half = np.empty(len(labels), dtype=bool)
    half[order] = np.arange(len(labels)) % 2  # in turn also across classes, so the halves differ by at most one
    return half


def cross_fitted_logits(logits, labels, objective="nll"):
    """Logits divided by a temperature that was fitted on the *other* stratified half.

    Returns:
        (logits (n, C), (T of the first half, T of the second)). No sample is scaled by a temperature that saw it.
        ValueError for n < 2.
    """
    logits, labels = checked_labels(logits, labels)
    if len(labels) < 2:
        raise ValueError("two halves need at least two samples")
    second = stratified_halves(labels)
    temperatures = tuple(fit_temperature(logits[other], labels[other], objective) for other in (second, ~second))
    return logits / np.where(second, temperatures[1], temperatures[0])[:, None], temperatures


def probabilities_of(logits, temperature=1.0):
    """softmax(logits / temperature) in float64: (n, C) → (n, C)."""
    return softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def checked_probabilities(probabilities, labels):
    """As `checked_labels`, and ValueError when a value is outside [0, 1]."""
    probabilities, labels = checked_labels(probabilities, labels)
    if probabilities.min() < 0 or probabilities.max() > 1 + 1e-6:
        raise ValueError("probabilities must lie in [0, 1]: pass softmax(logits), not logits")
    return probabilities, labels


def checked_labels(values, labels):
    """values (n, C) float64 and labels (n). ValueError if they do not fit."""
    values, labels = np.asarray(values, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or labels.shape != values.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError("expected (n, C) values and (n) integer labels, "
                         f"got {values.shape} and {labels.shape} {labels.dtype}")
    if len(labels) == 0:
        raise ValueError("no samples")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite, found NaN or infinity")
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise ValueError(f"labels must lie in [0, {values.shape[1]}), got {labels.min()} to {labels.max()}")
    return values, labels
