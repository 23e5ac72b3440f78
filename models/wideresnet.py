"""WideResNet-28-10 for 32×32 images, with two details of the published code that its numbers depend on: every
convolution has a bias, and the final batch normalization has momentum 0.9."""
from torch import nn

from .network import BaseNetwork, initialize_convolutions, relu
from .resnet import make_layers, stages_of


class WideBlock(nn.Module):
    conv_bn_pairs = (("conv1", "bn2"),)  # bn1 comes before any convolution

    def __init__(self, channels, width, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1)  # the stride is on the second convolution
        self.shortcut = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Conv2d(channels, width, 1, stride)

    def forward(self, x):
        residual = self.conv2(relu(self.bn2(self.conv1(relu(self.bn1(x))))))
        return residual + self.shortcut(x)


class WideResNet2810(BaseNetwork):
    """Three groups of four blocks of width 160, 320, 640; no dropout; F = 640. The last stage's maps are those after
    the final BN and ReLU. Biases keep torch's default initialisation."""

    def __init__(self, num_classes, head):
        super().__init__(640, num_classes, head)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.groups = make_layers((4, 4, 4), WideBlock, 16, (160, 320, 640))
        self.bn = nn.BatchNorm2d(640, momentum=0.9)
        initialize_convolutions(self)

    def stages(self, images):
        first, second, third = stages_of(self.groups, self.stem(images))  # (B, 160, 32, 32) … (B, 640, 8, 8)
        return [first, second, relu(self.bn(third))]
