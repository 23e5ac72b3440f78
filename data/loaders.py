"""Batches, already on the device: 28×28 and 32×32 sets lie there whole as uint8, ImageNet comes through workers."""
import numpy as np
import torch
from PIL import Image

from . import augment
from .catalog import CATALOG, how_to_get, image_folder
from .pictures import fitted
from .prepared import available, digest_of, labels_of, names_of, read_split

__all__ = ["ResidentImages", "available", "digest_of", "labels_of", "names_of", "open_set", "read_split", "resized"]


def open_set(name, split, data_dir, device, like=None):
    """A ResidentImages, or FolderImages for ImageNet and its outliers: both know __len__, train_batches, eval_batches.

    Args:
        like: the in-distribution set whose image size and normalisation an outlier set gets; default `name`.

    UserError, with the command to type, when the split is not there or is damaged.
    """
    like = like or name
    if CATALOG[like].folders:
        from .folder_images import FolderImages  # here, because importing torchvision takes longer than a demo run

        return FolderImages(image_folder(name, split, data_dir), device, CATALOG[like], how_to_get(name, data_dir))
    return ResidentImages(*read_split(name, split, data_dir, like), device, CATALOG[like])


class ResidentImages:
    """A whole split on the device as uint8, cropped and flipped there in batch.

    Everything random about an epoch is drawn at its start, on the CPU, from (seed, epoch) alone: a run that is taken
    up in the middle of an epoch, or on another device, sees the same crops in the same order.
    """

    def __init__(self, images, labels, device, like):
        images = resized(images, like.size)
        # a copy of its own in the order that convolutions read: (n, C, H, W)
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.size = like.size
        self.mean, self.std = torch.tensor(like.mean, device=device), torch.tensor(like.std, device=device)
        self._padded = None, None  # (padding, images), made at the first training batch

    def __len__(self):
        return len(self.labels)

    def train_batches(self, batch_size, seed, epoch, padding, flip, start=0):
        """Yields (inputs (B, 3, H, W) float32, targets (B)) from batch `start` on; the last batch may be smaller."""
        if self._padded[0] != padding:
            self._padded = padding, augment.pad(self.images, padding)
        generator = torch.Generator().manual_seed(augment.epoch_seed(seed, epoch))
        n = len(self)
        order = torch.randperm(n, generator=generator)
        corners = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
        flipped = torch.rand(n, generator=generator) < (0.5 if flip else 0)
        plan = [tensor.to(self.labels.device) for tensor in (order, corners[0], corners[1], flipped)]
        for first in range(start * batch_size, n, batch_size):
            index, top, left, mirrored = (tensor[first : first + batch_size] for tensor in plan)
            images = augment.crop(self._padded[1], index, top, left, self.size)
            if flip:
                images = augment.flip(images, mirrored)
            yield augment.normalise(images, self.mean, self.std), self.labels[index]

    def eval_batches(self, batch_size=500):
        """Yields every image once, in order, neither cropped nor flipped."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size)):
            yield augment.normalise(images, self.mean, self.std), labels


def resized(images, size):
    """(n, H, W, C) uint8 → (n, size, size, C), with the bits of torchvision's Resize and CenterCrop of PIL images."""
    if images.shape[1:3] == (size, size):
        return images
    squeezed = images.squeeze(-1) if images.shape[-1] == 1 else images
    return np.stack([np.asarray(fitted(Image.fromarray(image), size)).reshape(size, size, -1) for image in squeezed])
