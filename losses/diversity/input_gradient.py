"""Members whose answers react to different pixels: the cosine of their input gradients."""
import torch

from .base import choice, class_labels, full_precision, in_float32, member_logits, of_label
from .similarity import cosine

MODES = ("max", "min", "gt", "sum")


class InputGradientDiversityLoss:
    """Mean over samples and pairs of the cosine between ∂outputₙ/∂imageₙ; in [−1/(N−1), 1].

    Called with images (N, B, …) requiring gradients, the very tensor that the members were given, logits (N, B, L) and,
    for "gt", labels (B).

    Args:
        mode: which logit is differentiated: the "max" or "min" one, that of the label ("gt"), or the "sum" of all.
    """

    def __init__(self, mode):
        self.mode = choice("mode", mode, MODES)

    def __call__(self, images=None, labels=None, logits=None, features=None, feature_maps=None):
        logits = member_logits("InputGradientDiversityLoss", logits)
        if images is None or not images.requires_grad or images.dim() < 3 or images.shape[:2] != logits.shape[:2]:
            raise ValueError("InputGradientDiversityLoss needs images=, (N, B, …) requiring gradients, one copy for "
                             "each member and the very tensor that the members were given")
        with full_precision(logits):
            if self.mode == "gt":
                output = of_label(logits, class_labels("InputGradientDiversityLoss", labels, logits))
            else:
                output = {"max": lambda: logits.amax(2), "min": lambda: logits.amin(2), "sum": lambda: logits.sum(2)}[
                    self.mode]()
            gradients, = torch.autograd.grad(output.sum(), images, create_graph=True, allow_unused=True)
            if gradients is None:
                raise ValueError("the logits do not depend on these images: pass the very tensor that the members got")
            return cosine(in_float32(gradients))
