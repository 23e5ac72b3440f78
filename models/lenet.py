"""LeNet for 28×28 images of three channels, as SDDE trains it (grayscale digits arrive as three equal channels)."""
import torch
import torch.nn.functional as F
from torch import nn

from . import fast_lenet
from .network import BaseNetwork

# while torch.export makes a graph: the plain form is what other runtimes do best
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # PyTorch 2.6 has only the latter


class LeNet(BaseNetwork):
    """Convolutions 3 → 6 → 16 → 120 of 5×5, then 120 → 84; F = 84. The last two stages' maps: 16×5×5 and 120×1×1."""

    image_size = 28

    def __init__(self, num_classes, head):
        super().__init__(84, num_classes, head)
        self.conv1 = nn.Conv2d(3, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.conv3 = nn.Conv2d(16, 120, 5)
        self.fc = nn.Linear(120, 84)

    def stages(self, images):
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(f"LeNet takes images (B, 3, 28, 28), got {tuple(images.shape)}")
        if images.device.type == "cpu" and not is_exporting():
            return fast_lenet.stages(self, images)  # the same numbers up to rounding, in half the time
        first = F.max_pool2d(F.relu(self.conv1(images)), 2)  # (B, 6, 14, 14)
        second = F.max_pool2d(F.relu(self.conv2(first)), 2)  # (B, 16, 5, 5)
        return [second, F.relu(self.conv3(second))]  # (B, 120, 1, 1)

    def embed(self, maps):
        return F.relu(self.fc(maps.flatten(1)))  # (B, 84)
