"""DenseNet-BC-100, growth 12, compression 0.5, for 32×32 images (Huang et al., arXiv 1608.06993)."""
import torch
import torch.nn.functional as F
from torch import nn

from .network import BaseNetwork, initialize_convolutions, relu

GROWTH = 12
LAYERS = 16  # bottleneck layers a block: (100 − 4) / 6


class Bottleneck(nn.Module):
    conv_bn_pairs = (("conv1", "bn2"),)  # bn1 comes before any convolution

    def __init__(self, channels):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * GROWTH, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x):
        new = self.conv2(relu(self.bn2(self.conv1(relu(self.bn1(x))))))
        return torch.cat([x, new], 1)  # (B, channels + GROWTH, h, w)


class Transition(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(relu(self.bn(x))), 2)  # (B, channels/2, h/2, w/2)


class DenseNetBC100(BaseNetwork):
    """Channels 24 → 216, 108 → 300, 150 → 342; F = 342. The last stage's maps are those after the final BN and ReLU."""

    def __init__(self, num_classes, head):
        super().__init__(342, num_classes, head)
        channels = 2 * GROWTH
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for block in range(3):
            if block > 0:
                self.transitions.append(Transition(channels))
                channels //= 2
            self.blocks.append(nn.Sequential(*(Bottleneck(channels + k * GROWTH) for k in range(LAYERS))))
            channels += LAYERS * GROWTH
        self.bn = nn.BatchNorm2d(channels)
        initialize_convolutions(self)

    def stages(self, images):
        first = self.blocks[0](self.stem(images))  # (B, 216, 32, 32)
        second = self.blocks[1](self.transitions[0](first))  # (B, 300, 16, 16)
        third = self.blocks[2](self.transitions[1](second))  # (B, 342, 8, 8)
        return [first, second, relu(self.bn(third))]
