"""ResNet-20 for 32×32 images (He et al., arXiv 1512.03385, section 4.2): 0.27 million parameters, in neither paper."""
import torch.nn.functional as F
from torch import nn

from .network import BaseNetwork, initialize_convolutions
from .resnet import BasicBlock, stages_of


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
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layers = nn.ModuleList()
        channels = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            self.layers.append(nn.Sequential(
                SmallBlock(channels, width, stride), SmallBlock(width, width, 1), SmallBlock(width, width, 1)))
            channels = width
        initialize_convolutions(self)

    def stages(self, images):
        return stages_of(self.layers, self.stem(images))
