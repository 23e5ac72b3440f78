"""Losses that keep the members of an ensemble apart, and outlier exposure (SDDE, arXiv 2305.11616, and its baselines):

    diversity = GradCAMDiversityLoss()
    loss = cross_entropy + 0.005 * diversity(images=x, labels=y, logits=z, features=f, feature_maps=maps)

All are called alike, return a scalar to be minimised, and take what they need; the rest may be left out:
    images        (N, B, …)  the very tensor that the members were given, requiring gradients; InputGradient
    labels        (B)        classes, the same for all members; ADP, DICE, GradCAM, InputGradient("gt")
    logits        (N, B, L)  ADP, NCL, OE, GradCAM, InputGradient
    features      list of N  (B, D); DICE
    feature_maps  list of N  (B, C, H, W), or (N, B, C, H, W), nodes of the graph that the logits come from; GradCAM
They compute in float32, or float64 if given that, also inside autocast. A loss of one's own is a DiversityLoss.
"""
from .adp import ADPDiversityLoss
from .base import DiversityLoss
from .dice import DiceDiscriminator, DiceDiversityLoss
from .gradcam import GradCAMDiversityLoss
from .input_gradient import InputGradientDiversityLoss
from .ncl import NCLDiversityLoss
from .outlier_exposure import OEDiversityLoss

__all__ = [
    "ADPDiversityLoss", "DiceDiscriminator", "DiceDiversityLoss", "DiversityLoss", "GradCAMDiversityLoss",
    "InputGradientDiversityLoss", "NCLDiversityLoss", "OEDiversityLoss",
]
