"""The base class of the second parts: cross-entropy without NaN, the check that the classifier made the logits, and the
same loss as a sum over parts of a batch."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .precision import in_float32, is_traced, values_are_at_hand

if TYPE_CHECKING:
    from .base import LossFirstPart

IGNORED = -100  # the ignored target, as in nn.CrossEntropyLoss
MISTAKE = ("The last layer of a torchvision ResNet is `model.fc`: `model.classifier = …` adds a layer that is "
           "never called. attach(model, …) of this package finds the right layer.")


class LossSecondPart(nn.Module):
    """The criterion: `loss = criterion(logits, targets)`.

    Targets are classes (B) of any integer type, or probabilities (B, C), for instance from mixup. −100 is ignored: the
    mean is over the other samples. Without any other sample it is 0, connected to the graph (nn.CrossEntropyLoss gives
    NaN).

    Args:
        model_classifier: the model's first part; some criteria use its scale and mode.
        label_smoothing: in [0, 1], as in nn.CrossEntropyLoss: this share of the target is spread over all classes.

    A subclass with another loss defines `loss_of(logits, targets)`, and `partial_loss` if its batches can be split.
    """

    model_classifier: LossFirstPart

    def __init__(self, model_classifier: LossFirstPart, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
        self.model_classifier = model_classifier
        self.label_smoothing = label_smoothing

    @property
    def logit_scale(self) -> float:
        """The factor of the logits inside the loss (the entropic scale), or 1."""
        return 1.0

    @property
    def mixes(self) -> bool:
        """Whether `preprocess` mixes images across the batch and so needs the whole batch."""
        return False

    def preprocess(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare a training batch for the forward pass. Only DisMax changes the batch."""
        return inputs, targets

    def unmixed(self, batch_size: int) -> int:
        """The number of leading samples of a preprocessed batch that are unmixed images of their target's class."""
        return batch_size

    def forward(self, logits: Tensor, targets: Tensor, debug: bool = False) -> Any:
        """(B, C) logits and targets → the mean loss, a scalar.

        With `debug` the tuple (loss, scale, inter_logits, intra_logits): the signed distance scale (1.0 where there is
        none) and flat NumPy arrays of the other classes' and of the target class's logits.
        ValueError for logits that the classifier cannot have made: another number of classes, or, in training, a
        classifier that has seen no forward pass.
        """
        loss = self.loss_of(self.checked(logits), targets)
        return (loss, *self._inspected(logits.detach(), targets)) if debug else loss

    def loss_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of checked logits in float32 or float64."""
        return mean_cross_entropy(self.scaled(logits), targets, self.label_smoothing)

    def split_targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The target and the weight of each row of a preprocessed batch, so that the batch can be split.

        Args:
            targets: (B) classes of the whole batch, as `preprocess` gives them.

        Returns:
            classes (B, 4) int64: a quarter of the row's target each (a plain row names its class four times);
            weights (B) with sum 1, for FPR (1 + alpha)/2. An ignored row (−100) has weight 0.
        """
        known = class_targets(targets, "a batch with soft targets cannot be split") != IGNORED
        classes = targets.long().masked_fill(~known, 0)[:, None].expand(-1, 4)  # (B, 4)
        return classes, known.to(torch.get_default_dtype()) / known.sum().clamp(min=1)

    def partial_loss(self, logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
        """Σ_b weights_b·KL(Q_b‖softmax(scaled logits_b)), Q_b a quarter for each of the row's four classes.

        Summed over any partition of the rows of `split_targets` it is `forward(logits, targets)` of the whole batch, up
        to rounding, in training and in evaluation.

        Args:
            logits: (b, C) of some rows. classes, weights: (b, 4) and (b), theirs.
        """
        if type(self).loss_of is not LossSecondPart.loss_of:
            raise NotImplementedError(f"{type(self).__name__} defines loss_of but no partial_loss")
        return self.divergence(logits, classes, weights)

    def divergence(self, logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
        """The sum of `partial_loss`."""
        same_length(classes, logits)
        log_p = self.scaled(self.checked(logits)).log_softmax(1)  # (b, C)
        share = (classes[:, :, None] == classes[:, None]).sum(2) / 4  # (b, 4), Q of each of the four classes
        losses = (share.log() - log_p.gather(1, classes)).mean(1)  # (b)
        if self.label_smoothing:
            losses = (1 - self.label_smoothing) * losses - self.label_smoothing * log_p.mean(1)
        return (weights * losses).sum()

    def scaled(self, logits: Tensor) -> Tensor:
        scale = self.logit_scale
        return logits if scale == 1 else scale * logits

    def checked(self, logits: Tensor) -> Tensor:
        """The logits in float32 or float64. ValueError if the classifier cannot have made them."""
        if not isinstance(logits, Tensor):
            raise ValueError(f"logits must be a tensor (B, C), got {type(logits).__name__}. "
                             "A Hugging Face model's logits are its output's `.logits`")
        head = self.model_classifier
        classes = getattr(head, "num_classes", None)
        if classes is not None and not is_traced() and logits.shape[-1] != classes:
            raise ValueError(f"the logits {tuple(logits.shape)} were not made by this criterion's classifier, which "
                             f"has {classes} classes. {MISTAKE}")
        usage = getattr(head, "_usage", None)
        if head.training and usage is not None and not usage.seen:
            raise ValueError("this criterion's classifier has seen no forward pass, so it did not make these logits: "
                             f"the model does not use it. {MISTAKE}")
        return in_float32(logits)

    def _inspected(self, logits: Tensor, targets: Tensor) -> tuple[float, Any, Any]:
        known = class_targets(targets, "debug separates the target class's logits from the others") != IGNORED
        logits, targets = logits[known], targets[known].long()
        scale = getattr(self.model_classifier, "distance_scale", None)
        own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, targets[:, None], True)  # (B, C)
        inter, intra = logits[~own], logits[own]
        return 1.0 if scale is None else scale.item(), inter.float().cpu().numpy(), intra.float().cpu().numpy()


def class_targets(targets: Tensor, why: str) -> Tensor:
    """The targets. ValueError, with the reason why, unless they are class numbers (B)."""
    if targets.dim() > 1 or targets.is_floating_point() or targets.is_complex():
        raise ValueError(f"{why}: targets must be class numbers (B), got {tuple(targets.shape)} {targets.dtype}")
    return targets


def same_length(targets: Tensor, logits: Tensor) -> None:
    """ValueError unless there is one target per row of logits (B, C): broadcasting would hide a missing one."""
    if logits.dim() > 1 and targets.shape[:1] != logits.shape[:1]:
        raise ValueError(f"one target per row of logits is needed, got {tuple(targets.shape)} for logits "
                         f"{tuple(logits.shape)}")


def mean_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """As F.cross_entropy, but for targets of any integer type, and 0 instead of NaN where no target counts.

    (B, C) logits and (B) classes or (B, C) probabilities → a scalar.
    """
    if targets.is_floating_point():
        if targets.shape != logits.shape:
            raise ValueError("targets must be class numbers (B) of an integer type or probabilities (B, C), "
                             f"got {tuple(targets.shape)} {targets.dtype} for logits {tuple(logits.shape)}")
        targets = targets.to(logits.dtype)
    elif targets.dtype != torch.int64:
        targets = targets.long()
    mean = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, ignore_index=IGNORED)
    if values_are_at_hand(mean) and not math.isnan(mean.item()):
        return mean  # the usual case, without counting
    total = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, ignore_index=IGNORED, reduction="sum")
    if targets.is_floating_point():
        return total / max(targets.shape[:-1].numel(), 1)
    return total / (targets != IGNORED).sum().clamp(min=1)
