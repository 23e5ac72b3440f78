"""DICE (Ramé & Cord 2021): given the class, the features of two members should be independent."""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import DiversityLoss, full_precision, in_float32


class DiceDiscriminator(nn.Module):
    """Log odds that two features come from the same image and not from two different images of a class.

    Args:
        num_classes, embedding_dim: classes L and feature length D.
        units: widths of the hidden layers.
        label_dim: length of a class's embedding.
    """

    def __init__(
        self, num_classes: int, embedding_dim: int, units: Sequence[int] = (256, 256, 100), label_dim: int = 64
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, label_dim)
        layers: list[nn.Module] = []
        width = 2 * embedding_dim + label_dim
        for unit in units:
            layers += [nn.Linear(width, unit), nn.LeakyReLU(0.2)]
            width = unit
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B, D) features of two members and (B) labels → (B)."""
        log_odds: Tensor = self.layers(torch.cat([first, second, self.embedding(labels)], 1))  # (B, 1)
        return log_odds.squeeze(1)

    def loss(self, features: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the accuracy of the discriminator.

        It compares, for each pair of members, features of the same image with those of the next image of the class.

        Args:
            features: list of N ≥ 2 (B, D), else ValueError; the gradient does not reach them.
            labels: (B), each class equally often, K ≥ 2 times, else ValueError. That is looked at where looking costs
                nothing, on a CPU; elsewhere the loss is NaN when a class is there only once.

        Returns:
            (loss, accuracy), 0-dim tensors; a discriminator that guesses has the loss ln 2.
        """
        if len(features) < 2:
            raise ValueError(f"DICE compares the features of two members or more, got those of {len(features)}")
        features = [in_float32(f.detach()) for f in features]
        nexts = next_of_class(labels)
        first, second, pair_labels = pairs(features, features, labels)
        _, other, _ = pairs(features, [f[nexts] for f in features], labels)
        with full_precision(first):
            same = self(first, second, pair_labels)
            other = self(first, other, pair_labels)
        alone = nexts == torch.arange(len(labels), device=labels.device)
        other = other.masked_fill(alone.repeat(len(other) // max(len(labels), 1)), torch.nan)
        loss = -(F.logsigmoid(same).mean() + F.logsigmoid(-other).mean()) / 2
        accuracy = ((same > 0).float().mean() + (other <= 0).float().mean()) / 2
        return loss, accuracy.detach()


class DiceDiversityLoss(DiversityLoss):
    """Mean over samples and pairs i < j of tau·tanh(r/tau), r = D(fᵢ, fⱼ, y) the log density ratio; in (−tau, tau)
    (SDDE section 4).

    It needs labels (B) and features, a list of N (B, D). It is 0 for one member. D gets the samples of all pairs as one
    batch. Its parameters get no gradient from this loss, only from `discriminator.loss`.

    Args:
        discriminator: D; a DiceDiscriminator, or any function with the same arguments.
        tau: bound of the ratio.
        as_published: r = −ln(exp(−D) + 1e-6), which saturates at 13.8, so confident pairs have no gradient. It is
            computed without the overflow that gives the published code NaN gradients below −88.
    """

    needs = ("features", "labels")

    def __init__(
        self, discriminator: Callable[[Tensor, Tensor, Tensor], Tensor], tau: float = 10.0, as_published: bool = False
    ) -> None:
        self.discriminator, self.tau, self.as_published = discriminator, tau, as_published

    def value(self, features: list[Tensor], labels: Tensor) -> Tensor:
        if len(features) < 2:
            return 0 * features[0].sum()
        ratios = fixed(self.discriminator)(*pairs(features, features, labels))
        if self.as_published:
            ratios = -torch.logaddexp(-ratios, torch.full_like(ratios, math.log(1e-6)))
        return (self.tau * torch.tanh(ratios / self.tau)).mean()


def pairs(
    features: Sequence[Tensor], others: Sequence[Tensor], labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """features of i, others of j, for all i < j in one batch, and their labels: (P·B, D), (P·B, D), (P·B)."""
    i, j = zip(*itertools.combinations(range(len(features)), 2))
    return torch.cat([features[k] for k in i]), torch.cat([others[k] for k in j]), labels.repeat(len(i))


def fixed(discriminator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function, through which no gradient reaches its parameters."""
    if not isinstance(discriminator, nn.Module):
        return discriminator
    parameters = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return lambda *inputs: torch.func.functional_call(discriminator, parameters, inputs)


def next_of_class(labels: Tensor) -> Tensor:
    """(B) → (B): the position of the next sample of the same class, cyclically."""
    if labels.device.type == "cpu":
        check_balanced(labels)
    classes, order = labels.sort(stable=True)
    first, end = torch.searchsorted(classes, classes), torch.searchsorted(classes, classes, right=True)
    following = torch.arange(1, len(labels) + 1, device=labels.device)
    result = torch.empty_like(order)
    result[order] = order[torch.where(following == end, first, following)]
    return result


def check_balanced(labels: Tensor) -> None:
    """ValueError unless each class is there equally often, twice or more."""
    counts = [count for count in labels.bincount().tolist() if count]
    if len(set(counts)) != 1 or counts[0] < 2:
        raise ValueError(f"DICE needs every class of a batch equally often, twice or more; got {counts} times")
