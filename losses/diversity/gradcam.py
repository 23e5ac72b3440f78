"""Saliency diversity, the loss of SDDE: members that look at different parts of an image."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .base import Members, choice, in_float32, of_label
from .second_order import SecondOrderDiversityLoss
from .similarity import SIMILARITIES

GRADCAM_MODES = ("gt_logit", "gt_prob", "alt_logits", "alt_probs", "small_logits")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "abs": torch.abs, "none": lambda maps: maps}


class GradCAMDiversityLoss(SecondOrderDiversityLoss):
    """Mean over samples and pairs of the similarity between members' GradCAM maps (SDDE, equations 3 to 5).

    A map is activation(Σ_c w_c A_c), where A are a member's feature maps and w_c is the mean over pixels of
    ∂output/∂A_c. A border of `padding` pixels is cut off, and the rest is standardized, so the default is the
    correlation of two maps, in [−1/(N−1), 1]. Both A and w are differentiated: the loss reaches the weights before and
    after the maps, and needs a network with second derivatives (no torch.compile of the network alone, no fused
    attention kernels).

    It needs labels (B), logits (N, B, L) and the feature_maps from which the logits were computed: a list of N maps
    (B, C, H, W), or one tensor (N, B, C, H, W) if the members' later layers were given (slices of) this tensor.
    BatchNorm between maps and logits must be in eval mode: in training mode it mixes the samples of the batch, and the
    w of a sample would contain gradients of other samples. The first call warns about this.

    Args:
        mode: the output: the label's logit (published) or probability, the mean of the other classes' logits or
            probabilities, or the mean of the smaller half of all logits.
        similarity: "cosine" (published), "iou", "logdet" or "expcosine".
        padding: number of pixels to cut off at every side.
        activation: "relu" (published), "abs" or "none".

    After a call `dead_fraction` is the share of the N·B maps that are zero everywhere (a 0-dim tensor, on the device).
    A dead map has no gradient and no similarity to other maps, so a member could avoid the loss by dead maps. The loss
    of one member is 0.
    ValueError if the padding leaves less than two pixels of a map, or if the logits were not computed from the maps,
    for instance because the maps were stacked after the forward pass. RuntimeError, with the usual causes, if the
    network has no second derivatives.
    """

    needs = ("labels", "logits", "feature_maps")
    dead_fraction: Tensor | None = None

    def __init__(
        self, mode: str = "gt_logit", similarity: str = "cosine", padding: int = 1, activation: str = "relu"
    ) -> None:
        self.mode = choice("mode", mode, GRADCAM_MODES)
        self.similarity = choice("similarity", similarity, tuple(SIMILARITIES))
        self.activation = choice("activation", activation, tuple(ACTIVATIONS))
        if padding < 0:
            raise ValueError(f"padding must be 0 or more, got {padding}")
        self.padding = padding

    def value(self, labels: Tensor, logits: Tensor, feature_maps: Members | None) -> Tensor:
        if logits.shape[2] < 2 and not self.mode.startswith("gt"):
            raise ValueError(f"GradCAMDiversityLoss({self.mode!r}) needs at least two classes")
        maps = self.checked_maps(feature_maps, logits)
        output = self.output(logits, labels)
        found = self.gradients(output, maps)
        gradients = [in_float32(gradient) for gradient in found if gradient is not None]
        if len(gradients) < len(maps):
            raise ValueError(_why_unconnected(feature_maps))
        stacked = isinstance(feature_maps, Tensor)
        weights = (gradients[0] if stacked else torch.stack(gradients)).mean((3, 4))  # (N, B, C)
        a = in_float32(maps[0]) if stacked else torch.stack([in_float32(m) for m in maps])  # (N, B, C, H, W)
        cams = ACTIVATIONS[self.activation](torch.einsum("nbc,nbchw->nbhw", weights, a))
        if self.padding:
            cams = cams[:, :, self.padding : -self.padding, self.padding : -self.padding]
        self.dead_fraction = (cams.detach() == 0).all(3).all(2).float().mean()
        return self.tried(SIMILARITIES[self.similarity](standardized(cams.flatten(2))), maps, output)

    def output(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over members and samples: one backward pass gives every sample its own gradients."""
        others = logits.shape[2] - 1
        if self.mode == "gt_logit":
            return of_label(logits, labels).sum()
        if self.mode == "alt_logits":
            return ((logits.sum(2) - of_label(logits, labels)) / others).sum()
        if self.mode == "small_logits":
            ranked = logits.detach() + 1e-4 * torch.randn_like(logits)  # the noise settles which of equals is smaller
            half = logits.shape[2] // 2
            smaller = ranked.topk(half, 2, largest=False).indices  # (N, B, ⌊L/2⌋), those below the median
            return logits.gather(2, smaller).sum() / half
        p = of_label(logits.softmax(2), labels)
        return p.sum() if self.mode == "gt_prob" else ((1 - p) / others).sum()

    def checked_maps(self, maps: Members | None, logits: Tensor) -> list[Tensor]:
        """The tensors for the derivatives: a list of N, or of the one stacked tensor."""
        n, b = logits.shape[:2]
        if maps is None or len(maps) != n:
            raise self.needs_error(f"feature_maps=, a list of {n} maps (B, C, H, W), one a member, got "
                                   f"{'none' if maps is None else len(maps)}")
        if isinstance(maps, Tensor) and maps.dim() != 5:
            raise ValueError(f"stacked feature_maps must be (N, B, C, H, W), got {tuple(maps.shape)}")
        for m in maps:
            if m.dim() != 4 or len(m) != b:
                raise ValueError(f"feature_maps must be (B, C, H, W) with B = {b}, got {tuple(m.shape)}")
            if not m.requires_grad:
                raise ValueError("feature_maps are detached: pass the maps from which the logits were computed")
            height, width = (side - 2 * self.padding for side in m.shape[2:])
            if height < 1 or width < 1 or height * width < 2:  # one pixel has no pattern: its map would always be 0
                left = "nothing" if height < 1 or width < 1 else "a single pixel"
                raise ValueError(
                    f"a padding of {self.padding} leaves {left} of maps of {m.shape[2]}×{m.shape[3]} pixels")
        return [maps] if isinstance(maps, Tensor) else list(maps)


def _why_unconnected(maps: Members | None) -> str:
    if isinstance(maps, Tensor):
        return ("the logits were not computed from this stacked tensor of feature_maps. Pass the list of the members' "
                "own maps, or the tensor that their later layers were given; a tensor stacked after the "
                "forward pass does not work")
    return ("the logits do not depend on these feature_maps: pass the maps from which they were computed, a list of N, "
            "neither detached nor copied. Maps and logits of a network compiled by torch.compile do not depend on each "
            "other: compile network and loss together as one function, or neither")


def standardized(cams: Tensor) -> Tensor:
    """(N, B, D) → mean 0 and (biased) standard deviation 1 over the pixels; a constant map becomes 0."""
    centered = cams - cams.mean(2, keepdim=True)
    variance = centered.square().mean(2, keepdim=True)
    flat = variance == 0  # √ has no gradient there
    deviation = torch.where(flat, torch.zeros_like(variance), torch.where(flat, 1, variance).sqrt())
    return centered / (deviation + 1e-6)
