"""Are the probabilities true? Calibration errors, proper scores, and the one temperature that mends most of it.

Arrays: logits and probabilities (n, C), labels (n) integers in [0, C). Every function raises ValueError when n = 0,
when shapes or labels do not fit, or when a value is not finite.
"""
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

TEMPERATURES = (0.001, 100.0)  # bounds of the search, those of the published one


def expected_calibration_error(probabilities, labels, bins=15):
    """Σ over bins of (share of samples)·|mean confidence − accuracy|, a fraction in [0, 1].

    Confidence is the largest probability; equal-width bins are (lo, hi], so a confidence of 1 is counted
    (Guo et al., arXiv 1706.04599, section 2; DisMax uses the same bins).
    """
    probabilities, labels = _checked(probabilities, labels)
    if probabilities.min() < 0 or probabilities.max() > 1 + 1e-6:
        raise ValueError("probabilities must lie in [0, 1]: pass softmax(logits), not logits")
    return _binned_gap(probabilities.max(1), probabilities.argmax(1) == labels, bins)


def _binned_gap(confidence, correct, bins):
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)  # edges[index] < confidence ≤ edges[index + 1]
    gap = np.bincount(index, confidence - correct, bins)  # sum over a bin of confidence − accuracy
    return float(np.abs(gap).sum() / len(confidence))


def negative_log_likelihood(logits, labels):
    """Mean −ln softmax(logits)[label] in nats, ≥ 0. Takes *logits* (log-probabilities are logits too): the logarithm of
    a probability that has underflown is lost."""
    return float(np.mean(log_losses(logits, labels)))


def log_losses(logits, labels):
    """−ln softmax(logits)[label] of each sample (n), in nats."""
    logits, labels = _checked(logits, labels)
    return logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]


def brier_score(probabilities, labels):
    """Mean over samples of Σ over classes of (probability − one-hot)², in [0, 2]."""
    probabilities, labels = _checked(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels]
    return float(np.mean(np.square(probabilities).sum(1) - 2 * own + 1))


def accuracy(logits, labels):
    """Share of samples whose largest logit (the first of equals) is their label's."""
    logits, labels = _checked(logits, labels)
    return float(np.mean(logits.argmax(1) == labels))


def fit_temperature(logits, labels, objective="nll"):
    """The temperature T in [0.001, 100] whose softmax(logits/T) minimises the objective on these samples.

    Args:
        objective: "nll", the negative log-likelihood, or "ece", the expected calibration error with 15 bins, which is
            what DisMax minimises. Searched over ln T: the first by a bounded scalar search, the second, which jumps, by
            a grid of 12 % steps that is then refined.

    Returns:
        float. Always a value: a bound where the optimum lies outside, 1.0 where no T is better than 1.
    """
    logits, labels = _checked(logits, labels)
    if objective not in ("nll", "ece"):
        raise ValueError(f'objective must be "nll" or "ece", got {objective!r}')
    shifted = logits - logits.max(1, keepdims=True)  # ≤ 0, so no T overflows
    correct = logits.argmax(1) == labels
    own = shifted[np.arange(len(labels)), labels]

    def value(log_t):
        t = np.exp(log_t)
        normaliser = np.exp(shifted / t).sum(1)  # the largest probability is 1/normaliser
        if objective == "ece":
            return _binned_gap(1 / normaliser, correct, 15)
        return np.mean(np.log(normaliser) - own / t)

    bounds = np.log(TEMPERATURES)
    tried = {0.0: value(0.0), **{b: value(b) for b in bounds}}
    if objective == "ece":
        grid = np.linspace(*bounds, 101)
        tried.update({t: value(t) for t in grid})
        best = min(grid, key=tried.get)
        step = grid[1] - grid[0]
        bounds = max(best - step, bounds[0]), min(best + step, bounds[1])
    found = minimize_scalar(value, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    tried[found.x] = found.fun
    return float(np.exp(min(tried, key=lambda t: (tried[t], abs(t)))))  # of equals the one nearest to T = 1


def stratified_halves(labels):
    """(n) booleans: the samples of each class, in their order, go to the two halves in turn. No randomness."""
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
    logits, labels = _checked(logits, labels)
    if len(labels) < 2:
        raise ValueError("two halves need at least two samples")
    second = stratified_halves(labels)
    temperatures = tuple(fit_temperature(logits[other], labels[other], objective) for other in (second, ~second))
    return logits / np.where(second, temperatures[1], temperatures[0])[:, None], temperatures


def probabilities_of(logits, temperature=1.0):
    """softmax(logits / temperature) in float64: (n, C) → (n, C)."""
    return softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def _checked(values, labels):
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
