"""DisMax (Macêdo, Zanchettin & Ludermir, arXiv 2205.05874): distances to all prototypes, an entropic scale in training,
optional fractional probability regularization (FPR), and thresholds for detection."""
from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import distances
from .base import PARTITIONS, LossFirstPart
from .calibration import PERCENTILES
from .criterion import IGNORED, LossSecondPart, class_targets, mean_cross_entropy, same_length

SOFT = 'regularization="fpr" makes soft targets itself'

__all__ = ["PARTITIONS", "PERCENTILES", "DisMaxLossFirstPart", "DisMaxLossSecondPart", "fractional_targets",
           "mix_quadrants"]


class DisMaxLossFirstPart(LossFirstPart):
    """logits = −(D_j + mean_k D_k), D_j = |distance_scale|·‖f̂ − p̂_j‖₂/√2, divided by the temperature.

    The mean is the same for every class, so it changes no probability and no gradient, only scores of raw logits.
    Prototypes ~ N(0, 1), distance_scale = 1. `temperature`, `validationset_available` and `precomputed_thresholds` have
    the published state-dict keys. Arguments: see LossFirstPart.
    """

    score_type = "MMLES"
    sees_to_precision = True

    def __init__(self, num_features: int, num_classes: int, temperature: float = 1.0) -> None:
        super().__init__(num_features, num_classes, temperature)
        self.distance_scale = nn.Parameter(torch.ones(1))
        self.prototypes = nn.Parameter(torch.randn(num_classes, num_features))

    def logits(self, features: Tensor) -> Tensor:
        scale = self.distance_scale.abs() / self.temperature
        return distances.cosine_distance_logits(features, self.prototypes, scale, to_all_prototypes=True)


class DisMaxLossSecondPart(LossSecondPart):
    """Cross-entropy of 10 × logits in training, of the plain logits in evaluation: the classifier's mode decides.

    Targets: see LossSecondPart. With FPR they must be class numbers and `label_smoothing` must be 0, because FPR makes
    soft targets itself. A mixed image is ignored if one of its four classes is −100.

    Args:
        model_classifier: the model's DisMaxLossFirstPart.
        regularization: None, or "fpr": the second half of every training batch is composed of quadrants of four images,
            and its loss is KL(Q‖P) with a probability Q of a quarter for the class of each of the four images.
        alpha: weight ≥ 0 of that term relative to the cross-entropy of the unmixed half.
        batches_to_accumulate: with `precompute_thresholds`, the number of batches after which a pass writes its
            thresholds; each further batch updates them, so after the pass they describe all of it.
        label_smoothing: see LossSecondPart.
    """

    def __init__(
        self, model_classifier: LossFirstPart, regularization: str | None = None, alpha: float = 1.0,
        batches_to_accumulate: int = 32, *, label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(model_classifier, label_smoothing=label_smoothing)
        if regularization not in (None, "fpr"):
            raise ValueError(f'regularization must be None or "fpr", got {regularization!r}')
        if regularization == "fpr" and label_smoothing:
            raise ValueError('label_smoothing does not go with regularization="fpr", which makes soft targets itself')
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be a number of at least 0, got {alpha}")
        self.regularization = regularization
        self.alpha = alpha
        self.batches_to_accumulate = batches_to_accumulate
        self.entropic_scale = 10
        self.accumulated_batches = 0
        self.accumulated_scores: dict[str, list[Tensor]] = {partition: [] for partition in PARTITIONS}
        self._pass: tuple[Any, ...] | None = None  # what tells the pass under way from another

    @property
    def logit_scale(self) -> float:
        return self.entropic_scale if self.model_classifier.training else 1

    @property
    def mixes(self) -> bool:
        return self.regularization == "fpr"

    def unmixed(self, batch_size: int) -> int:
        return max(batch_size // 2, 1) if self.mixes else batch_size

    def preprocess(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Shuffle the batch and, with FPR, mix its second half. (B, …) inputs, (B) targets; returns new tensors.

        Without FPR the inputs may have any shape. With FPR they must be images (B, C, H, W) of at least 2×2 pixels and
        the targets must be class numbers, else ValueError, as for another number of targets than of inputs. If B is
        odd, the mixed half is larger.
        """
        if len(inputs) != len(targets):
            raise ValueError(f"one target per input is needed, got {len(inputs)} inputs and {len(targets)} targets")
        if self.mixes:
            class_targets(targets, SOFT)
        order = torch.randperm(len(inputs), device=inputs.device)
        inputs, targets = inputs[order], targets[order]
        if self.mixes and len(inputs) > 1:
            plain = self.unmixed(len(inputs))
            inputs = torch.cat([inputs[:plain], mix_quadrants(inputs[plain:])])
        return inputs, targets

    def forward(
        self, logits: Tensor, targets: Tensor, debug: bool = False, precompute_thresholds: bool = False
    ) -> Any:
        """As LossSecondPart. With `precompute_thresholds` the scores of the batch also contribute to the thresholds of
        its pass. A new pass begins when `train()` or `eval()` is called on the classifier or its model, even if the
        mode stays the same, and when the temperature changes. `classifier.set_thresholds` takes all logits at once.
        """
        if precompute_thresholds:
            self._accumulate(logits)
        return super().forward(logits, targets, debug)

    def loss_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        if not self.mixes:
            return super().loss_of(logits, targets)
        same_length(class_targets(targets, SOFT), logits)
        plain = self._plain_rows(len(logits))
        if logits.dim() < 2 or plain == len(logits):
            return super().loss_of(logits, targets)
        logits = self.scaled(logits)
        cross_entropy = mean_cross_entropy(logits[:plain], targets[:plain])
        log_p = logits[plain:].log_softmax(1)  # (m, C)
        q = fractional_targets(targets[plain:], logits.shape[1], log_p.dtype)  # (m, C)
        divergence = F.kl_div(log_p, q, reduction="sum") / q.sum().clamp(min=1)  # q.sum(): the rows that count
        return (cross_entropy + self.alpha * divergence) / 2

    def split_targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        plain = self._plain_rows(len(targets))
        if plain == len(targets):
            return super().split_targets(targets)
        classes, weights = super().split_targets(targets[:plain])
        mixed, known = four_classes(targets[plain:])  # (m, 4), (m)
        mixed_weights = self.alpha * known.to(weights.dtype) / known.sum().clamp(min=1)
        return torch.cat([classes, mixed]), torch.cat([weights, mixed_weights]) / 2

    def partial_loss(self, logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
        return self.divergence(logits, classes, weights)

    def _plain_rows(self, batch_size: int) -> int:
        """The number of leading rows that are images of one class; in evaluation all of them."""
        return self.unmixed(batch_size) if self.model_classifier.training else batch_size

    def _accumulate(self, logits: Tensor) -> None:
        classifier = self.model_classifier
        partition = "train" if classifier.training else "validation"
        this_pass = (partition, getattr(classifier, "_passes", 0), float(classifier.temperature))
        if this_pass != self._pass:
            self._pass = this_pass
            self.accumulated_batches = 0
            self.accumulated_scores = {name: [] for name in PARTITIONS}
        self.accumulated_scores[partition].append(classifier.scores(logits.detach()))
        self.accumulated_batches += 1
        if self.accumulated_batches >= self.batches_to_accumulate:
            classifier.store_thresholds(torch.cat(self.accumulated_scores[partition]), partition)


def mix_quadrants(images: Tensor) -> Tensor:
    """Every image keeps its top-left quadrant and takes the other three, at their positions, from the three before it.

    (m, C, H, W) → new (m, C, H, W): bottom-left from image i−1, top-right from i−2, bottom-right from i−3, modulo m;
    rows are cut at ⌊H/2⌋, columns at ⌊W/2⌋. ValueError unless 4-D with H, W ≥ 2.
    """
    if images.dim() != 4 or images.shape[2] < 2 or images.shape[3] < 2:
        raise ValueError(
            "fractional probability regularization mixes quadrants of images (B, C, H, W) of at least 2×2 pixels, "
            f"got {tuple(images.shape)}: for other data use regularization=None"
        )
    h, w = images.shape[2] // 2, images.shape[3] // 2
    mixed = images.clone()
    mixed[:, :, h:, :w] = images[:, :, h:, :w].roll(1, 0)
    mixed[:, :, :h, w:] = images[:, :, :h, w:].roll(2, 0)
    mixed[:, :, h:, w:] = images[:, :, h:, w:].roll(3, 0)
    return mixed


def fractional_targets(targets: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """¼ for the class of each of the four images in a mixed one: (m) integers → (m, C), rows sum to 1.

    The same class twice adds up to ½, and so on. The row is 0 where one of the four classes is −100.
    """
    four, known = four_classes(targets)  # (m, 4), (m)
    quarters = (known.to(dtype) / 4)[:, None].expand(-1, 4)
    return torch.zeros(len(four), num_classes, dtype=dtype, device=targets.device).scatter_add_(1, four, quarters)


def four_classes(targets: Tensor) -> tuple[Tensor, Tensor]:
    """The classes of the four images that `mix_quadrants` puts into each: (m) → (m, 4) int64; and whether all four are
    known, (m) bool. Where they are not (−100) the classes are 0."""
    four = torch.stack([targets.long().roll(k) for k in range(4)], 1)  # (m, 4)
    known = (four != IGNORED).all(1)  # (m)
    return four.masked_fill(~known[:, None], 0), known
