"""The baseline: straightforward networks, losses and input.

Float32, eager, images and weights in the default memory order, distances by cdist, softmax and its logarithm one after
the other, members of an ensemble one after another, images from a DataLoader, the loss read in every step.
"""
import copy
import math
import os

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from losses import DisMaxLossFirstPart


class PlainLeNet(torch.nn.Module):
    """LeNet with the weights of ours; the maps are those of the second block."""

    def __init__(self, ours):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(3, 6, 5, padding=2), torch.nn.Conv2d(6, 16, 5)
        self.conv3, self.fc = torch.nn.Conv2d(16, 120, 5), torch.nn.Linear(120, 84)
        self.classifier = copy.deepcopy(ours.classifier)
        self.load_state_dict(ours.state_dict())

    def forward(self, images, return_features=False):
        maps = F.max_pool2d(F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(images)), 2))), 2)
        features = F.relu(self.fc(F.relu(self.conv3(maps)).flatten(1)))
        logits = self.classifier(features)
        return (logits, features, [maps, None]) if return_features else logits


class PlainLinear(torch.nn.Linear):
    def __init__(self, ours):
        super().__init__(ours.num_features, ours.num_classes)
        self.load_state_dict({"weight": ours.weights, "bias": ours.bias})


class PlainDisMax(torch.nn.Module):
    """As published: every difference of every feature, not a matrix product."""

    def __init__(self, ours):
        super().__init__()
        self.prototypes, self.distance_scale = (
            torch.nn.Parameter(p.detach().clone()) for p in (ours.prototypes, ours.distance_scale))

    def forward(self, features):
        unit = F.normalize(features), F.normalize(self.prototypes)
        distances = torch.cdist(*unit, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(2)
        distances = self.distance_scale.abs() * distances
        return -(distances + distances.mean(1, keepdim=True))


def network_like(network):
    """The same network on its device, weights copied. Only LeNet and the heads of ours are written in another form."""
    copied = PlainLeNet(network) if type(network).__name__ == "LeNet" else copy.deepcopy(network)
    head = PlainDisMax if isinstance(network.classifier, DisMaxLossFirstPart) else PlainLinear
    copied.classifier = head(network.classifier)
    return copied.to(next(network.parameters()).device, memory_format=torch.contiguous_format).train()


def dismax_loss(logits, labels):
    """As published, but for its printing and its C×C identity matrix."""
    return -torch.log(torch.softmax(10 * logits, 1)[torch.arange(len(labels), device=labels.device), labels]).mean()


def loss_of(members, images, labels):
    """Of a batch per member, (N, B, 3, H, W) and (N, B): the mean of the members' losses, and their logits."""
    logits = [member(x) for member, x in zip(members, images)]
    losses = [(dismax_loss if isinstance(member.classifier, PlainDisMax) else F.cross_entropy)(z, y)
              for member, z, y in zip(members, logits, labels)]
    return sum(losses) / len(members), logits


def sdde_loss_of(members, images, labels, aux_images, aux_labels, weight):
    """`loss_of` and then, as published, the mean cosine of the standardised GradCAM maps: all forward passes on images
    that ask for gradients, a backward pass of its own for each member's maps."""
    loss, logits = loss_of(members, images.clone().requires_grad_(), labels)  # first: it moves the BN statistics
    saliency = []
    for member, x in zip(members, torch.stack([aux_images] * len(members)).requires_grad_()):
        member.eval()
        z, _, stages = member(x, return_features=True)
        member.train()
        maps = stages[-2]
        gradient, = torch.autograd.grad(z.gather(1, aux_labels[:, None]).sum(), maps, create_graph=True)
        cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1))[:, 1:-1, 1:-1].flatten(1)
        cam = (cam - cam.mean(1, keepdim=True)) / (cam.std(1, correction=0, keepdim=True) + 1e-6)
        saliency.append(cam / (cam.norm(dim=1, keepdim=True) + 1e-6))
    unit = torch.stack(saliency, 1)  # (B, N, pixels)
    pairs = ~torch.eye(len(members), dtype=torch.bool, device=unit.device)
    return loss + weight * (unit @ unit.mT)[:, pairs].mean(), logits


class PILImages(torch.utils.data.Dataset):
    """PIL images, grayscale ones made RGB, through torchvision's transforms one by one.

    Args:
        images: (n, H, W, C) uint8.
        recipe: a recipes.Recipe, which says how training images are cropped, flipped and normalised.
        resized: whether the transforms begin with Resize and CenterCrop, as SDDE's do.
    """

    def __init__(self, images, labels, recipe, training=True, resized=False):
        side = images.shape[1]
        self.images, self.labels = images.squeeze(-1) if images.shape[3] == 1 else images, labels
        self.transform = v2.Compose([
            *([v2.Resize(side), v2.CenterCrop(side)] if resized else []),
            *([v2.RandomCrop(side, padding=recipe.padding)] if training else []),
            *([v2.RandomHorizontalFlip()] if training and recipe.flip else []),
            v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(recipe.mean, recipe.std)])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index]).convert("RGB")), self.labels[index]


def loader(images, batch, device, shuffle=True, side_by_side=1, workers=None):
    """A DataLoader whose workers stay; by default one a core and at most 8, shared by loaders that run side by side."""
    if workers is None:
        workers = max(1, min(8, os.cpu_count()) // side_by_side)
    return torch.utils.data.DataLoader(images, batch, shuffle=shuffle, num_workers=workers,
                                       persistent_workers=workers > 0, pin_memory=device.type == "cuda")
