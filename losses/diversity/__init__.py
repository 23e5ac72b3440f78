"""Diversity losses for the members of an ensemble, and outlier exposure (SDDE, arXiv 2305.11616, and its baselines):

    diversity = GradCAMDiversityLoss()
    loss = cross_entropy + 0.005 * diversity(images=x, labels=y, logits=z, features=f, feature_maps=maps)

All take the same arguments, return a scalar to be minimized, and use what they need; the others can be left out:
    images        (N, B, …)  the same tensor that the members were given, requiring gradients; InputGradient
    labels        (B)        classes, the same for all members; ADP, DICE, GradCAM, InputGradient("gt")
    logits        (N, B, L)  ADP, NCL, OE, GradCAM, InputGradient
    features      list of N  (B, D); DICE
    feature_maps  list of N  (B, C, H, W), or (N, B, C, H, W), from which the logits were computed; GradCAM
They compute in float32, or in float64 for float64 inputs, also inside autocast. Your own loss is a DiversityLoss.
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
