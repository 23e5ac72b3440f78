"""ResNet34 and ResNet18 for 32×32 images (no max-pool, stride-1 stem), torchvision's ResNet18 and 50 for ImageNet."""
from torch import nn

from .network import BaseNetwork, initialize_convolutions, relu


def projection(channels, width, stride):
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class BasicBlock(nn.Module):
    conv_bn_pairs = ("conv1", "bn1"), ("conv2", "bn2")
    make_shortcut = staticmethod(projection)  # where the input has another shape than the output

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = self.make_shortcut(channels, width, stride)

    def forward(self, x):
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(residual + self.shortcut(x))


def stem(width=64):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def make_layers(counts, block=BasicBlock, channels=64, widths=(64, 128, 256, 512)):
    """Layers of so many blocks, of these widths; all but the first layer halve the sides of the maps."""
    layers = nn.ModuleList()
    for count, width, stride in zip(counts, widths, (1, 2, 2, 2)):
        blocks = [block(channels, width, stride)] + [block(width, width, 1) for _ in range(count - 1)]
        layers.append(nn.Sequential(*blocks))
        channels = width
    return layers


def stages_of(layers, x):
    """The maps that each layer ends with; of 32×32 images 64×32×32, 128×16×16, 256×8×8, 512×4×4."""
    maps = []
    for layer in layers:
        x = layer(x)
        maps.append(x)
    return maps


class ResNet34(BaseNetwork):
    """Basic blocks 3, 4, 6, 3 of width 64, 128, 256, 512; F = 512. The last BN weight of a residual branch starts at
    zero, so that every block starts as its shortcut."""

    def __init__(self, num_classes, head):
        super().__init__(512, num_classes, head)
        self.stem = stem()
        self.layers = make_layers((3, 4, 6, 3))
        initialize_convolutions(self)
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def stages(self, images):
        return stages_of(self.layers, self.stem(images))


class ResNet18Small(BaseNetwork):
    """ResNet18 for 32×32 images as SDDE trains it: basic blocks 2, 2, 2, 2 of width 64 to 512, F = 512.

    11,173,962 parameters with 10 classes; convolutions start as PyTorch draws them, every BN weight at one.
    """

    def __init__(self, num_classes, head):
        super().__init__(512, num_classes, head)
        self.stem = stem()
        self.layers = make_layers((2, 2, 2, 2))

    def stages(self, images):
        return stages_of(self.layers, self.stem(images))


class TorchvisionResNet(BaseNetwork):
    """A ResNet of torchvision; its keys are torchvision's behind `body.`."""

    def __init__(self, name, num_features, num_classes, head, **options):
        from torchvision import models  # here, because importing it takes longer than a demo run

        super().__init__(num_features, num_classes, head)
        self.body = getattr(models, name)(**options)
        del self.body.fc
        for block in self.body.modules():  # BasicBlock, Bottleneck, and the stem of ResNet itself
            block.conv_bn_pairs = [(f"conv{k}", f"bn{k}") for k in (1, 2, 3) if hasattr(block, f"bn{k}")]

    def stages(self, images):
        body = self.body
        first = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # (B, 64, H/4, W/4)
        return stages_of([body.layer1, body.layer2, body.layer3, body.layer4], first)  # … (B, F, H/32, W/32)


class ResNet18(TorchvisionResNet):
    """For ImageNet as DisMax trains it, the last BN weight of a residual branch zero at first; F = 512."""

    def __init__(self, num_classes, head):
        super().__init__("resnet18", 512, num_classes, head, zero_init_residual=True)


class ResNet50(TorchvisionResNet):
    """For ImageNet as SDDE trains it; F = 2048."""

    def __init__(self, num_classes, head):
        super().__init__("resnet50", 2048, num_classes, head)
