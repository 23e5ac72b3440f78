"""Scores of an ensemble: from members' logits (N, n, L) to one number per sample (n), larger = more in-distribution.

SDDE's aggregations, with the names of its released code. z̄ is the mean over members of z/T. T, the temperature
of the in-distribution validation images, changes the order of the samples only for some scores (ENSEMBLE_SCORES).
Probabilities are given as log odds, so that they do not tie at 1. The functions take torch tensors, preferably float64.
For one member, standard deviations are 0. torch is imported only where scores are computed: tables need only the names.
"""


def log_odds_of_maximum(z):
    """ln(max q / (1 − max q)) of q = softmax(z): (…, L) → (…)."""
    others = z.scatter(-1, z.argmax(-1, keepdim=True), -float("inf")).logsumexp(-1)
    return z.amax(-1) - others


def average(z):
    """Largest probability of softmax(z̄), in log odds."""
    return log_odds_of_maximum(z.mean(0))


def prob_average(z):
    """Largest of the members' mean probabilities, in log odds."""
    return log_odds_of_maximum(z.log_softmax(-1).logsumexp(0))


def prob_minmax(z):
    """The least confident member's largest probability, in log odds."""
    return log_odds_of_maximum(z).amin(0)


def prob_maxstd(z):
    """Minus the standard deviation (N − 1) over members of their largest probability; of its distance to 1, which keeps
    the digits that a probability near 1 has lost."""
    return -spread((-log_odds_of_maximum(z)).sigmoid())


def logit_average(z):
    """The largest mean logit: the paper's MAL."""
    return z.mean(0).amax(-1)


def minmax(z):
    """The smallest of the members' largest logits."""
    return z.amax(-1).amin(0)


def maxstd(z):
    """Minus the standard deviation (N − 1) over members of their largest logit."""
    return -spread(z.amax(-1))


def stdmax(z):
    """Minus the largest, over classes, standard deviation (N − 1) over members of a class's logit."""
    return -spread(z).amax(-1)


def average_minmax(z):
    """The smallest member logit of the class that the ensemble predicts."""
    predicted = z.mean(0).argmax(-1)  # (n)
    return z.gather(-1, predicted.expand(len(z), -1)[..., None]).squeeze(-1).amin(0)


def energy(z):
    """ln Σ exp z̄."""
    return z.mean(0).logsumexp(-1)


def average_energy(z):
    """The mean over members of ln Σ exp zₙ."""
    return z.logsumexp(-1).mean(0)


def spread(values):
    return values.std(0) if len(values) > 1 else values.new_zeros(values.shape[1:])


# name → (function, whether the temperature changes the order)
ENSEMBLE_SCORES = {
    "average": (average, True), "prob-average": (prob_average, True), "prob-minmax": (prob_minmax, True),
    "prob-maxstd": (prob_maxstd, True), "logit-average": (logit_average, False), "minmax": (minmax, False),
    "maxstd": (maxstd, False), "stdmax": (stdmax, False), "average-minmax": (average_minmax, False),
    "energy": (energy, True), "average-energy": (average_energy, True),
}


def ensemble_scores(logits, temperature=1.0):
    """name → (n) float64 of every score, members' logits (N, n, L) and aggregated ones divided by the temperature.
    ValueError when the logits have another number of dimensions."""
    import torch

    z = torch.as_tensor(logits).double() / temperature
    if z.dim() != 3:
        raise ValueError(f"expected members' logits (N, n, L), got {tuple(z.shape)}")
    return {name: score(z) for name, (score, _) in ENSEMBLE_SCORES.items()}
