"""How alike the members' answers are, sample by sample: (N, B, …) → a scalar, larger = more alike."""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def cosine(s: Tensor, normalize: bool = True) -> Tensor:
    """Mean over samples and ordered pairs i ≠ j of sᵢ·sⱼ, of unit vectors if `normalize`; in [−1/(N−1), 1] then.

    0, connected to the graph, for one member.
    """
    s = flat(s, normalize)
    if len(s) < 2:
        return nothing(s)
    total = s.sum(0)  # (B, D): Σᵢ≠ⱼ sᵢ·sⱼ = ‖Σ sᵢ‖² − Σ ‖sᵢ‖², without the N×N products
    return (total.square().sum(1) - s.square().sum((0, 2))).mean() / (len(s) * (len(s) - 1))


def neglogdet(s: Tensor) -> Tensor:
    """−mean over samples of log det(S Sᵀ + 1e-5·I), S the N unit vectors; in [0, about 11.5·(N−1)].

    A vector of zeros, for instance a dead map, counts as if it were alike to all others: each adds 11.5.
    """
    s = flat(s).movedim(0, 1)  # (B, N, D)
    gram = s @ s.mT + 1e-5 * torch.eye(s.shape[1], dtype=s.dtype, device=s.device)  # (B, N, N)
    return -torch.logdet(gram).mean()


def iou(s: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean over samples and pairs of Σ sᵢsⱼ / (Σ sᵢ² + Σ sⱼ² − Σ sᵢsⱼ), each sᵢ scaled to [0, 1]; in [0, 1].

    Two maps without any contrast count as alike (1). 0, connected to the graph, for one member.
    """
    s = s.flatten(2)  # (N, B, D)
    if len(s) < 2:
        return nothing(s)
    low, high = s.amin(2, keepdim=True), s.amax(2, keepdim=True)
    s = ((s - low) / (high - low + eps)).movedim(0, 1)  # (B, N, D)
    products = s @ s.mT  # (B, N, N)
    squares = s.square().sum(2)  # (B, N)
    union = squares[:, :, None] + squares[:, None] - products
    return off_diagonal((products + eps) / (union + eps)).mean()


def expcosine(s: Tensor) -> Tensor:
    """log(½ Σ over samples and ordered pairs of exp(cosine)), as published: it grows with log B.

    0, connected to the graph, for one member.
    """
    s = flat(s).movedim(0, 1)  # (B, N, D)
    if s.shape[1] < 2:
        return nothing(s)
    return torch.logsumexp(off_diagonal(s @ s.mT).flatten(), 0) - math.log(2)


def flat(s: Tensor, normalize: bool = True) -> Tensor:
    """(N, B, …) → (N, B, D), of length 1 if `normalize`; a zero vector stays zero."""
    s = s.flatten(2)
    return s / (torch.linalg.vector_norm(s, dim=2, keepdim=True) + 1e-6) if normalize else s


def off_diagonal(m: Tensor) -> Tensor:
    """(B, N, N) → (B, N·(N−1)), both orders of every pair."""
    n = m.shape[1]
    return m.flatten(1)[:, 1:].view(-1, n - 1, n + 1)[:, :, :-1].flatten(1)


def nothing(s: Tensor) -> Tensor:
    return 0 * s.sum()


SIMILARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": cosine, "iou": iou, "logdet": neglogdet, "expcosine": expcosine,
}
