"""A network for evaluation: batch normalization after a convolution becomes part of the convolution."""
import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fuse_conv_bn(network):
    """A copy in evaluation mode with the same answers, up to rounding: logits differ by less than 1e-4 of the largest.

    With fixed statistics, batch normalisation multiplies a channel and shifts it, which the kernels and the bias of
    the convolution before it can do. `conv_bn_pairs` of a module names such pairs of its convolutions and norms; in an
    nn.Sequential they stand one after the other. All other batch normalisation stays.

    Args:
        network: a BaseNetwork, or an Ensemble of such; it is left as it is.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        for convolution, norm in conv_bn_pairs(module):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    return network


def conv_bn_pairs(module):
    """Names of a module's parts that follow one another as convolution and batch normalisation."""
    if not isinstance(module, nn.Sequential):
        return getattr(module, "conv_bn_pairs", ())
    return [(a, b) for (a, first), (b, second) in pairwise(module.named_children())
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)]
