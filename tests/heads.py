"""Heads whose classes are well apart, for tests of temperature, thresholds and detection."""
import math

import torch
import torch.nn.functional as F

from losses import LOSSES

HEADS = ("softmax", "isomax", "isomaxplus", "dismax")


def made(name, classes=5, temperature=1.0, sharp=1.0):
    """A head whose classes are well apart, and `features(n)` of its classes with their labels."""
    torch.manual_seed(0)
    head = LOSSES[name][0](16, classes, temperature).eval()
    centres = torch.randn(classes, 16)
    with torch.no_grad():
        (head.weights if name == "softmax" else head.prototypes).copy_(sharp * centres)

    def features(n, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(classes, (n,), generator=generator)
        return centres[labels] + torch.randn(n, 16, generator=generator), labels

    return head, features


def by_cdist(features, prototypes, scale):
    """DisMax's logits as its release computes them."""
    unit = F.normalize(features), F.normalize(prototypes)
    distances = scale * torch.cdist(*unit, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(2)
    return -(distances + distances.mean(1, keepdim=True))
