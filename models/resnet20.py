"""ResNet-20 for 32×32 images (He et al., arXiv 1512.03385, section 4.2): 0.27 million parameters, in neither paper."""
import torch.nn.functional as F
from torch import nn

from .network import BaseNetwork, initialize_convolutions
from .resnet import BasicBlock, make_layers, stages_of, stem


class PaddedShortcut(nn.Module):
    """The shortcut without parameters (option A): every other pixel, new channels zero."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.stride, self.new_channels = stride, width - channels

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class SmallBlock(BasicBlock):
    make_shortcut = PaddedShortcut


class ResNet20(BaseNetwork):
    """Three stages of three blocks, 16×32×32, 32×16×16 and 64×8×8; F = 64. 269,722 parameters with ten classes."""

    def __init__(self, num_classes, head):
        super().__init__(64, num_classes, head)
        self.stem = stem(16)
        self.layers = make_layers((3, 3, 3), SmallBlock, 16, (16, 32, 64))
        initialize_convolutions(self)

    def stages(self, images):
        return stages_of(self.layers, self.stem(images))
