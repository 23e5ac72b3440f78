"""Members whose outputs depend on different pixels: the cosine of their input gradients."""
from __future__ import annotations

from torch import Tensor

from .base import choice, in_float32, of_label
from .second_order import SecondOrderDiversityLoss
from .similarity import cosine

GRADIENT_MODES = ("max", "min", "gt", "sum")


class InputGradientDiversityLoss(SecondOrderDiversityLoss):
    """Mean over samples and pairs of the cosine between ∂outputₙ/∂imageₙ; in [−1/(N−1), 1].

    It needs images (N, B, …) requiring gradients, the same tensor that the members were given, logits (N, B, L) and,
    for "gt", labels (B). The network must have second derivatives, and BatchNorm must be in eval mode, because
    otherwise the gradient of a sample contains parts of other samples' gradients; see GradCAMDiversityLoss.

    Args:
        mode: which logit is differentiated: the "max" or "min" one, that of the label ("gt"), or the "sum" of all.
    """

    def __init__(self, mode: str) -> None:
        self.mode = choice("mode", mode, GRADIENT_MODES)
        self.needs = ("images", "logits", "labels") if mode == "gt" else ("images", "logits")

    def value(self, images: Tensor | None, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        if images is None or not images.requires_grad or images.dim() < 3 or images.shape[:2] != logits.shape[:2]:
            raise self.needs_error("images=, (N, B, …) requiring gradients, one copy per member, the same tensor "
                                   "that the members were given")
        if labels is not None:
            output = of_label(logits, labels).sum()
        elif self.mode == "sum":
            output = logits.sum()
        else:
            output = (logits.amax(2) if self.mode == "max" else logits.amin(2)).sum()
        gradients, = self.gradients(output, [images])
        if gradients is None:
            raise ValueError("the logits do not depend on these images: pass the tensor that the members were given")
        return self.tried(cosine(in_float32(gradients)), [images], output)
