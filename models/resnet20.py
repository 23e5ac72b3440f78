"""ResNet-20 for 32×32 images (He et al., arXiv 1512.03385, section 4.2): 0.27 million parameters, in neither paper."""
import torch.nn.functional as F
from torch import nn

from .network import BaseNetwork, initialize_convolutions, relu


class SmallBlock(nn.Module):
    """Two 3×3 convolutions; the shortcut has no parameters (option A): every other pixel, new channels zero."""

    conv_bn_pairs = ("conv1", "bn1"), ("conv2", "bn2")

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.new_channels = stride, width - channels

    def forward(self, x):
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return relu(residual + x)


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
        maps = [self.stem(images)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]
