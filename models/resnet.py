"""ResNet34 for 32×32 images (no max-pool, stride-1 stem) and torchvision's ResNet18 for ImageNet."""
import torch.nn.functional as F
from torch import nn

from .network import Network, initialize_convolutions


class BasicBlock(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class ResNet34(Network):
    """Basic blocks 3, 4, 6, 3 of width 64, 128, 256, 512; F = 512. The last BN weight of a residual branch starts at
    zero, so that every block starts as its shortcut."""

    def __init__(self, num_classes, head):
        super().__init__(512, num_classes, head)
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.layers = nn.ModuleList()
        channels = 64
        for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
            layer = [BasicBlock(channels, width, stride)] + [BasicBlock(width, width, 1) for _ in range(blocks - 1)]
            self.layers.append(nn.Sequential(*layer))
            channels = width
        initialize_convolutions(self)
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def stages(self, images):
        maps = [self.layers[0](self.stem(images))]  # (B, 64, 32, 32)
        for layer in self.layers[1:]:
            maps.append(layer(maps[-1]))  # (B, 128, 16, 16), (B, 256, 8, 8), (B, 512, 4, 4)
        return maps


class ResNet18(Network):
    """torchvision's ResNet18 with `zero_init_residual`; F = 512. Its keys are torchvision's behind `body.`."""

    def __init__(self, num_classes, head):
        from torchvision.models import resnet18  # here, because importing it takes longer than a demo run

        super().__init__(512, num_classes, head)
        self.body = resnet18(zero_init_residual=True)
        del self.body.fc

    def stages(self, images):
        body = self.body
        first = body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(images)))))  # (B, 64, H/4, W/4)
        second = body.layer2(first)  # (B, 128, H/8, W/8)
        third = body.layer3(second)  # (B, 256, H/16, W/16)
        return [first, second, third, body.layer4(third)]  # (B, 512, H/32, W/32)
