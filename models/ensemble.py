"""N networks of one kind as one module."""
import torch
from torch import nn


class Ensemble(nn.Module):
    """`members` is the list of networks, each with its own head; one state dict holds all of them.

    Args:
        members: networks with the forward of `BaseNetwork`; at least one.
    """

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images, return_features=False):
        """Images (B, 3, H, W) for all, or (N, B, 3, H, W), a batch per member → logits (N, B, C).

        With `return_features` the tuple (logits, features, maps): lists of N, each member's features (B, F), and the
        maps (B, channels, h, w) of its last stage but one, which SDDE takes for its saliency (LeNet 16×5×5,
        ResNet18 256×8×8, ResNet50 1024×14×14): the very nodes that its logits come from.
        """
        own = images if images.dim() == 5 else [images] * len(self.members)
        if len(own) != len(self.members):
            raise ValueError(f"batches of images for {len(own)} members, there are {len(self.members)}")
        if not return_features:
            return torch.stack([member(batch) for member, batch in zip(self.members, own)])
        outputs = [member(batch, return_features=True) for member, batch in zip(self.members, own)]
        logits, features, stages = zip(*outputs)
        return torch.stack(logits), list(features), [maps[-2] for maps in stages]
