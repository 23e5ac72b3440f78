"""The base class of the networks: logits, and optionally the features and maps behind them."""
import torch
import torch.nn.functional as F
from torch import nn


class BaseNetwork(nn.Module):
    """A body that turns images into maps, and a head, `.classifier`, that turns features into logits.

    Args:
        num_features: length F of the feature vector that this body makes.
        num_classes: number of classes C.
        head: called as head(num_features, num_classes), for instance a class of `losses`.
    """

    image_size = None  # pixels a side, where only one size will do

    def __init__(self, num_features, num_classes, head):
        super().__init__()
        self.classifier = head(num_features, num_classes)

    def forward(self, images, return_features=False):
        """(B, 3, H, W) → logits (B, C).

        With `return_features` the tuple (logits, features, maps): features (B, F) as the head saw them, and the maps
        (B, channels, h, w) that each stage of the body ended with, first to last, as nodes of the graph.
        """
        maps = self.stages(images)
        features = self.embed(maps[-1])
        logits = self.classifier(features)
        return (logits, features, maps) if return_features else logits

    def embed(self, maps):
        return maps.mean((2, 3))  # (B, F, h, w) → (B, F), global average pooling


def relu(x):
    """max(x, 0); in x's own memory where nobody will ask for a gradient, which a CPU's caches like."""
    return F.relu(x, inplace=not torch.is_grad_enabled())


def initialize_convolutions(network):
    """Kaiming normal, fan-out, ReLU gain for every convolution; BN weights 1 and biases 0 are torch's default."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
