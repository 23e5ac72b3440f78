"""Saliency diversity, the loss of SDDE: members that look at different places of an image."""
import torch

from .base import choice, class_labels, full_precision, in_float32, member_logits, of_label
from .similarity import SIMILARITIES

MODES = ("gt_logit", "gt_prob", "alt_logits", "alt_probs", "small_logits")
ACTIVATIONS = {"relu": torch.relu, "abs": torch.abs, "none": lambda maps: maps}


class GradCAMDiversityLoss:
    """Mean over samples and pairs of the similarity between members' GradCAM maps (SDDE, equations 3 to 5).

    A map is activation(Σ_c w_c A_c), A a member's feature maps and w_c the mean over pixels of ∂output/∂A_c; a border
    of `padding` pixels is cut off and the rest standardised, so that the default is the correlation of two maps, in
    [−1/(N−1), 1]. Both A and w are differentiated: the loss reaches the weights on both sides of the maps.

    Called with labels (B), logits (N, B, L) and feature_maps, a list of N maps (B, C, H, W) that the logits were made
    from. Samples must not mix between maps and logits: BatchNorm in eval mode.

    Args:
        mode: the output: the label's logit (published) or probability, the mean of the other classes' logits or
            probabilities, or that of the smaller half of all logits.
        similarity: "cosine" (published), "iou", "logdet" or "expcosine".
        padding: pixels cut off at every side.
        activation: "relu" (published), "abs" or "none".

    After a call `dead_fraction` is the share of the N·B maps that are zero everywhere (a 0-dim tensor, on the device):
    such a map is like no other and has no gradient, so a member can escape by dying. One member: 0.
    ValueError when the padding leaves less than two pixels of a map, for maps that the logits do not come from, and for
    a stacked tensor of maps, whose slices are made after the fact and lead nowhere.
    """

    def __init__(self, mode="gt_logit", similarity="cosine", padding=1, activation="relu"):
        self.mode = choice("mode", mode, MODES)
        self.similarity = choice("similarity", similarity, tuple(SIMILARITIES))
        self.activation = choice("activation", activation, tuple(ACTIVATIONS))
        if padding < 0:
            raise ValueError(f"padding must be 0 or more, got {padding}")
        self.padding = padding
        self.dead_fraction = None

    def __call__(self, images=None, labels=None, logits=None, features=None, feature_maps=None):
        logits = member_logits("GradCAMDiversityLoss", logits)
        labels = class_labels("GradCAMDiversityLoss", labels, logits)
        if logits.shape[2] < 2 and not self.mode.startswith("gt"):
            raise ValueError(f"GradCAMDiversityLoss({self.mode!r}) needs at least two classes")
        maps = self.checked(feature_maps, logits)
        with full_precision(logits):
            gradients = torch.autograd.grad(
                self.output(logits, labels), maps, create_graph=True, allow_unused=True)
            if any(gradient is None for gradient in gradients):
                raise ValueError("the logits do not depend on these feature_maps: pass the maps that they were made "
                                 "from, a list of N, neither detached nor copied")
            weights = torch.stack([in_float32(g).mean((2, 3)) for g in gradients])  # (N, B, C)
            a = torch.stack([in_float32(m) for m in maps])  # (N, B, C, H, W)
            cams = ACTIVATIONS[self.activation](torch.einsum("nbc,nbchw->nbhw", weights, a))
            if self.padding:
                cams = cams[:, :, self.padding : -self.padding, self.padding : -self.padding]
            self.dead_fraction = (cams.detach() == 0).all(3).all(2).float().mean()
            return SIMILARITIES[self.similarity](standardised(cams.flatten(2)))

    def output(self, logits, labels):
        """Summed over members and samples, so that one backward pass gives every sample's own gradients."""
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

    def checked(self, maps, logits):
        if isinstance(maps, torch.Tensor):
            raise ValueError("feature_maps must be a list of the members' own maps: the slices of a stacked tensor are "
                             "made after the forward pass, so that the logits do not come from them")
        if maps is None or len(maps) != len(logits):
            raise ValueError(f"GradCAMDiversityLoss needs feature_maps=, a list of {len(logits)} maps (B, C, H, W), "
                             f"one a member, got {'none' if maps is None else len(maps)}")
        for m in maps:
            if m.dim() != 4 or len(m) != logits.shape[1]:
                raise ValueError(f"feature_maps must be (B, C, H, W) with B = {logits.shape[1]}, got {tuple(m.shape)}")
            if not m.requires_grad:
                raise ValueError("feature_maps are detached: pass the maps that the logits were made from")
            height, width = (side - 2 * self.padding for side in m.shape[2:])
            if height < 1 or width < 1 or height * width < 2:  # one pixel has no pattern: its map would always be 0
                left = "nothing" if height < 1 or width < 1 else "a single pixel"
                raise ValueError(
                    f"a padding of {self.padding} leaves {left} of maps of {m.shape[2]}×{m.shape[3]} pixels")
        return list(maps)


def standardised(cams):
    """(N, B, D) → mean 0 and (biased) standard deviation 1 over the pixels; a constant map becomes 0."""
    centred = cams - cams.mean(2, keepdim=True)
    variance = centred.square().mean(2, keepdim=True)
    flat = variance == 0  # √ has no gradient there
    deviation = torch.where(flat, torch.zeros_like(variance), torch.where(flat, 1, variance).sqrt())
    return centred / (deviation + 1e-6)
