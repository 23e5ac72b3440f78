"""Scores, temperature and thresholds from logits, for the first parts in base.py.

All functions take float16, bfloat16, float32 or float64 logits on any device, as the head returned them, already
divided by the temperature.
"""
from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from .precision import in_float32

# the percentiles of the in-distribution scores that are kept as thresholds (published grid)
PERCENTILES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100)


def score(logits: Tensor, score_type: str) -> Tensor:
    """One number per sample, larger = more in-distribution: (…, C) logits → (…), float32 or float64.

    With q = softmax(logits) and natural logarithms:
    MPS     maximum probability score, as log odds: ln(max q / (1 − max q))
    ES      entropy score: Σ q ln q, minus the entropy, in [−ln C, 0]
    MDS     minimum distance score: largest logit
    MMLS    max-mean logit score: largest + mean logit
    MMLES   max-mean logit entropy score: MMLS + ES
    MMLEPS  max-mean logit entropy and probability score: MMLES + max q
    energy  minus the free energy: ln Σ exp logits
    MPS orders samples like the published max q, which is its sigmoid. In float32 max q is exactly 1 if the largest
    logit is ahead by 17 or more, so confident samples would tie, and a threshold would reject all of them or none. (ES
    is exactly 0 in float32 if it is ahead by 103, in float64 by 745.)
    ValueError for an unknown `score_type`. Sources: DisMax (arXiv 2205.05874) section 3 and its repository; the energy
    is from Liu et al. (arXiv 2010.03759). MDS is also the maximum logit score of Hendrycks et al. (arXiv 1911.11132).
    """
    if score_type not in SCORES:
        raise ValueError(f"unknown score_type {score_type!r}: choose from {', '.join(SCORES)}")
    return SCORES[score_type](in_float32(logits))


def log_odds_of_maximum(logits: Tensor) -> Tensor:
    logits = in_float32(logits)
    if logits.shape[-1] == 1:  # certain, whatever the logit: all samples are alike
        return torch.zeros_like(logits[..., 0])
    top = logits.argmax(-1, keepdim=True)
    others = logits.scatter(-1, top, -torch.inf).logsumexp(-1)
    return logits.amax(-1) - others


def negative_entropy(logits: Tensor) -> Tensor:
    logits = in_float32(logits)
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * log_q).sum(-1)


def max_mean(logits: Tensor) -> Tensor:
    logits = in_float32(logits)
    return logits.amax(-1) + logits.mean(-1)


def max_mean_entropy(logits: Tensor) -> Tensor:
    return max_mean(logits) + negative_entropy(logits)


def max_mean_entropy_probability(logits: Tensor) -> Tensor:
    return max_mean_entropy(logits) + in_float32(logits).log_softmax(-1).amax(-1).exp()


SCORE_TYPES = ("MPS", "ES", "MDS", "MMLS", "MMLES", "MMLEPS")  # DisMax's
# score_type → function of logits of any floating type. Others may be added: SCORES["mine"] = function
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "MPS": log_odds_of_maximum, "ES": negative_entropy, "MDS": lambda logits: logits.amax(-1), "MMLS": max_mean,
    "MMLES": max_mean_entropy, "MMLEPS": max_mean_entropy_probability, "energy": lambda logits: logits.logsumexp(-1),
}


def score_number(score_type: str) -> int:
    """A number that represents the name of a score in a state dict."""
    return zlib.crc32(score_type.encode())


# for torch.compile, which cannot look into zlib: as torch.compiler.assume_constant_result, which imports Dynamo
score_number._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_logits(logits: Tensor, num_classes: int) -> None:
    """ValueError unless the logits are (n, num_classes) with n ≥ 1 and finite."""
    if logits.dim() != 2 or logits.shape[1] != num_classes:
        raise ValueError(f"logits must be (n, {num_classes}), one row a held-out sample, got {tuple(logits.shape)}")
    if len(logits) == 0:
        raise ValueError("there are no logits: at least one held-out sample is needed")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating-point numbers, got {logits.dtype}")
    finite = logits.isfinite().all(1)
    if not finite.all():
        raise ValueError(f"logits must be finite: {int((~finite).sum())} of {len(logits)} rows hold NaN or infinity")


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """ValueError unless the labels are (n) class numbers of the logits (n, C)."""
    n, num_classes = logits.shape
    if labels.shape != (n,):
        raise ValueError(f"labels must be ({n},), one class a row of logits, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be class numbers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie in [0, {num_classes}), got {low} to {high}")


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """The temperature T that minimizes the mean negative log-likelihood of softmax(raw logits / T) (Guo et al., arXiv
    1706.04599, section 4.2).

    The negative log-likelihood is convex in 1/T. Its minimum is the zero of its slope, found by Newton's method inside
    a bracket, in float64 on the CPU.

    Args:
        logits: (n, C), already divided by `temperature`, so that the raw logits are logits·temperature. n ≥ 1, finite.
        labels: (n) classes in [0, C), any integer type.

    Returns:
        T > 0. If there is no minimum, `temperature` itself, with a UserWarning: all samples are classified correctly
        (the likelihood grows as T → 0), or the logits predict the labels no better than chance (it grows as T → ∞).
        There is no warning if all logits of each row are equal, because every T is then equally good.
    """
    logits, labels = logits.detach().cpu(), labels.detach().cpu().long()
    n, num_classes = logits.shape
    own = logits.gather(1, labels[:, None])  # (n, 1)
    rows = max(1, 2**21 // num_classes)  # at a time, so that float64 copies stay small

    def slope(gamma: float) -> tuple[float, float]:
        """First and second derivative of Σ logsumexp(γ·s), s the logits minus the label's, by γ = temperature/T."""
        first = second = 0.0
        for z, z_own in zip(logits.split(rows), own.split(rows)):
            s = z.double() - z_own.double()
            p = (gamma * s).softmax(1)
            mean = (p * s).sum(1)
            first += mean.sum().item()
            second += ((p * s.square()).sum(1) - mean.square()).clamp(min=0).sum().item()
        return first, second

    if bool((logits == logits[:, :1]).all()):
        return temperature
    if bool((own.squeeze(1) >= logits.amax(1)).all()):
        _warn(f"all {n} samples are classified correctly, so every lower temperature is more likely", temperature)
        return temperature
    if slope(0.0)[0] >= 0:
        _warn(f"these logits predict the labels of the {n} samples no better than chance", temperature)
        return temperature
    return temperature / _root(slope)


def _root(slope) -> float:  # type: ignore[no-untyped-def]
    """The zero γ > 0 of an increasing function, negative at 0 and positive at ∞, that returns (value, derivative)."""
    low, high = 0.0, 1.0
    while slope(high)[0] < 0:
        low, high = high, 4 * high
    gamma = high
    for _ in range(200):
        value, derivative = slope(gamma)
        if value < 0:
            low = gamma
        else:
            high = gamma
        step = gamma - value / derivative if derivative > 0 else low
        if not low < step < high:
            step = (low * high) ** 0.5 if low > 0 else high / 4
        if abs(step - gamma) <= 1e-12 * gamma:
            break
        gamma = step
    return step


def _warn(reason: str, temperature: float) -> None:
    warnings.warn(f"{reason}: the temperature remains {temperature:g}. Use more, or harder, held-out samples.",
                  stacklevel=5)


def percentiles(scores: Tensor) -> Tensor:
    """The 25 PERCENTILES of scores (n), n ≥ 1, by linear interpolation: (25) float64 on the CPU."""
    if scores.numel() == 0:
        raise ValueError("no scores to take thresholds from")
    ordered = scores.detach().flatten().cpu().double().sort().values
    place = torch.tensor(PERCENTILES, dtype=torch.float64) / 100 * (len(ordered) - 1)
    below, above = place.floor().long(), place.ceil().long()
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest numbers of the dtype that are not above the values, so that no score is below its own threshold."""
    rounded = values.to(dtype)
    return torch.where(rounded.to(values.dtype) > values, rounded.nextafter(rounded.new_tensor(-torch.inf)), rounded)


def threshold_at(grid: Tensor, reject_rate: float) -> Tensor:
    """The score, a 0-dim tensor, below which the share `reject_rate` in [0, 1] of the samples of a grid (25) lies.

    It is exact at the PERCENTILES and interpolated linearly between them. ValueError for a rate outside [0, 1].
    """
    if not 0 <= reject_rate <= 1:
        raise ValueError(f"reject_rate must be a share between 0 and 1 (0.05 rejects 5 %), got {reject_rate}")
    if reject_rate == 1:
        return torch.full_like(grid[-1], torch.inf)  # even the largest score is rejected
    percent = 100 * reject_rate
    k = max(k for k, percentile in enumerate(PERCENTILES[:-1]) if percentile <= percent + 1e-9)
    share = max(0.0, (percent - PERCENTILES[k]) / (PERCENTILES[k + 1] - PERCENTILES[k]))
    return grid[k] + (grid[k + 1] - grid[k]) * share
