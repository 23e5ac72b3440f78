"""Batches, already on the device: 28×28 and 32×32 sets lie there whole as uint8, ImageNet comes through workers."""
import copy

import numpy as np
import torch
from PIL import Image

from data import transforms
from data.datasets import CATALOG, how_to_get, image_folder
from data.sampling import class_balanced, share, shuffled, stream
from data.sources.images import fitted
from data.splits import available, digest_of, labels_of, names_of, read_split, training_classes

__all__ = ["ResidentImages", "available", "digest_of", "labels_of", "names_of", "open_set", "read_split", "resized"]


def open_set(name, split, data_dir, device, like=None, statistics=None, **reading):
    """A ResidentImages, or FolderImages for ImageNet and its outliers: both know __len__, train_batches, eval_batches.

    Args:
        like: the in-distribution set whose image size, and statistics by default, an outlier set gets; default `name`.
        statistics: (mean, std) of each channel, for pixels in [0, 1].
        reading: how FolderImages reads (on_bad_image, decode, workers); of no use to the others.

    UserError, with the command to type, when the split is not there or is damaged.
    """
    like_name, like = like or name, CATALOG[like or name]
    statistics = statistics or (like.mean, like.std)
    if like.folders:
        from data.image_folder import FolderImages  # here, because importing torchvision takes longer than a demo run

        return FolderImages(
            image_folder(name, split, data_dir), device, like.size, statistics, advice=how_to_get(name, data_dir),
            classes=training_classes(name, split, data_dir), keeps=CATALOG[name].keeps, **reading)
    return ResidentImages(*read_split(name, split, data_dir, like_name), device, like.size, statistics)


class ResidentImages:
    """A whole split on the device as uint8, cropped and flipped there in batch.

    Everything random about an epoch is drawn at its start, on the CPU, from (seed, epoch) alone: a run that is taken
    up in the middle of an epoch, or on another device, sees the same crops in the same order.
    """

    def __init__(self, images, labels, device, size, statistics):
        images = resized(images, size)
        # a copy of its own in the order that convolutions read: (n, C, H, W)
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.size = size
        if self.images.shape[1] == 1 and all(len(set(values)) == 1 for values in statistics):
            statistics = [values[:1] for values in statistics]  # grey: three channels in the memory of one
        self.mean, self.std = (torch.tensor(values, device=device) for values in statistics)  # (3) or (1) each
        self._padded = None, None  # (padding, images), made at the first training batch

    def __len__(self):
        return len(self.labels)

    def subset(self, index):
        """Some of the images, by their positions (k)."""
        part = copy.copy(self)
        index = torch.as_tensor(index, device=self.labels.device)
        part.images, part.labels, part._padded = self.images[index], self.labels[index], (None, None)
        return part

    def steps(self, batch_size, per_class=0):
        """Batches an epoch."""
        return len(self) // batch_size if per_class else -(-len(self) // batch_size)

    def train_batches(self, batch_size, seed, epoch, padding, flip, start=0, members=1, per_class=0, shard=(0, 1),
                      order=("shuffle", 0)):
        """Yields (inputs (B, 3, H, W) float32, targets (B)) from batch `start` on; the last batch may be smaller.

        Args:
            padding: pixels around an image before the random crop; None, as 0: shuffled images as they are in testing.
            members: with N > 1 every member gets batches of its own: (N, B, 3, H, W) and (N, B).
            per_class: with K > 0 class-balanced batches, see order.class_balanced.
            shard: (k, n), process k of n gets its part of every batch, which may be empty.
            order: the random stream of the order, and which of an epoch's passes this is.
        """
        padding = padding or 0
        if self._padded[0] != padding:
            self._padded = padding, transforms.pad(self.images, padding)
        plan = [self._plan(batch_size, seed, epoch, member, padding, flip, per_class, order)
                for member in range(members)]
        plan = [torch.stack(tensors).to(self.labels.device) for tensors in zip(*plan)]  # (N, n) each
        length = plan[0].shape[1]
        for first in range(start * batch_size, length, batch_size):
            part = share(min(batch_size, length - first), shard)
            index, top, left, mirrored = (
                tensor[:, first : first + batch_size][:, part].flatten() for tensor in plan)  # (N·B)
            images = transforms.crop(self._padded[1], index, top, left, self.size)
            if flip:
                images = transforms.flip(images, mirrored)
            images, targets = transforms.normalise(images, self.mean, self.std), self.labels[index]
            if members > 1:
                images, targets = images.unflatten(0, (members, -1)), targets.unflatten(0, (members, -1))  # (N, B, …)
            yield images, targets

    def _plan(self, batch_size, seed, epoch, member, padding, flip, per_class, order):
        """An epoch of one member: images in order, corners of their crops, mirrored or not; (n) each, on the CPU."""
        generator = stream(seed, order[0], epoch=epoch, member=member, step=order[1])
        index = (class_balanced(self.labels.cpu(), batch_size, per_class, generator) if per_class
                 else shuffled(len(self), generator))
        generator = stream(seed, "augment", epoch=epoch, member=member)
        corners = torch.from_numpy(generator.integers(0, 2 * padding + 1, (2, len(index))))
        return index, *corners, torch.from_numpy(generator.random(len(index))) < (0.5 if flip else 0)

    def eval_batches(self, batch_size=None, shard=(0, 1)):
        """Yields every image once, in order, neither cropped nor flipped; process k of n its part of them.

        Args:
            batch_size: None: 500, but on a CPU so many that the networks' maps stay in its caches: 32, of 28×28 256.
        """
        batch_size = batch_size or (500 if self.labels.device.type != "cpu" else 32 if self.size > 28 else 256)
        part = share(len(self), shard)
        for images, labels in zip(self.images[part].split(batch_size), self.labels[part].split(batch_size)):
            yield transforms.normalise(images, self.mean, self.std), labels


def resized(images, size):
    """(n, H, W, C) uint8 → (n, size, size, C), with the bits of torchvision's Resize and CenterCrop of PIL images."""
    if images.shape[1:3] == (size, size):
        return images
    squeezed = images.squeeze(-1) if images.shape[-1] == 1 else images
    return np.stack([np.asarray(fitted(Image.fromarray(image), size)).reshape(size, size, -1) for image in squeezed])
