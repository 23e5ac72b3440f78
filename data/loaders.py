"""Batches on the device: 28×28 and 32×32 sets are kept there as uint8; worker processes read ImageNet."""
import copy

import numpy as np
import torch

from data import transforms
from data.datasets import CATALOG
from data.decode import resize_arrays
from data.sampling import batch_slices, epoch_order, rank_slice, steps_of, stream
from data.splits import Split


def open_set(name, split, data_dir, device, id_dataset=None, normalization=None, **loader_options):
    """The images of a split of a set; as open_split.

    Args:
        id_dataset: the in-distribution set whose image size, and normalization by default, the images get; by default
            the set itself.
    """
    return open_split(Split.open(name, split, data_dir, id_dataset), device, normalization, **loader_options)


def open_split(split, device, normalization=None, **loader_options):
    """A ResidentImages, or FolderImages for networks of ImageNet's kind: what TrainLoader and evaluation take.

    Args:
        normalization: (mean, std) of each channel, for pixels in [0, 1]; by default the in-distribution set's.
        loader_options: how FolderImages reads (on_unreadable, workers); of no use to ResidentImages.

    UserError, with the command to type, when the split is damaged.
    """
    info = CATALOG[split.id_dataset]
    normalization = normalization or (info.mean, info.std)
    if info.folders:
        from data.image_folder import FolderImages  # here, because importing torchvision takes longer than a demo run

        return FolderImages(split.files, split.labels, device, info.size, normalization, split.class_names,
                            **loader_options)
    images = split.images
    resident = ResidentImages(images, split.labels[: len(images)], device, info.size, normalization)
    resident.unreadable = getattr(split, "unreadable", {})  # files of a folder that `images` is without
    return resident


class TrainLoader:
    """The batches of a training run. Each epoch is a function of seed and epoch alone.

    A run that is resumed in the middle of an epoch, on another device or on another number of ranks, gets the same
    crops of the same images in the same order.

    Args:
        dataset: ResidentImages or FolderImages.
        recipe: has batch_size (over all ranks), padding, flip, and per_class (0: shuffled batches).
        members: with N > 1 every member gets batches of its own.
        rank: (rank, world size); each rank gets its part of every batch, which may be empty.
    """

    def __init__(self, dataset, recipe, seed, members=1, rank=(0, 1)):
        self.dataset, self.recipe, self.seed, self.members, self.rank = dataset, recipe, seed, members, rank

    def __len__(self):
        """Steps an epoch."""
        return steps_of(len(self.dataset), self.recipe.batch_size, self.recipe.per_class)

    def epoch(self, epoch, start=0):
        """Yields (inputs (B, 3, H, W) float32, targets (B)) from step `start` on; the last batch may be smaller.

        With N > 1 members (N, B, 3, H, W) and (N, B).
        """
        recipe = self.recipe
        order = epoch_order(self.dataset.labels, self.seed, epoch, self.members, recipe.batch_size, recipe.per_class)
        # images of a class stay on one rank, because DICE compares them
        slices = batch_slices(order.shape[1], recipe.batch_size, start, self.rank, recipe.per_class or 1)
        return self.dataset.augmented(order, slices, self.seed, epoch, recipe.padding, recipe.flip)


class OutlierLoader:
    """The batches of outlier exposure: neither cropped nor flipped, in a new order at each pass over the set.

    As published, every epoch begins a new pass, and the last, smaller batch of a pass is kept.
    """

    def __init__(self, dataset, batch_size, seed, rank=(0, 1)):
        self.dataset, self.batch_size, self.seed, self.rank = dataset, batch_size, seed, rank

    def epoch(self, epoch, start=0):
        """Yields images (B, 3, H, W) float32 without end, from step `start` on."""
        steps = steps_of(len(self.dataset), self.batch_size)
        while True:
            order = epoch_order(self.dataset.labels, self.seed, epoch, name="outliers", step=start // steps)
            slices = batch_slices(len(self.dataset), self.batch_size, start % steps, self.rank)
            for images, _ in self.dataset.augmented(order, slices, self.seed, epoch, None, False):
                yield images
                start += 1


class ResidentImages:
    """A whole split on the device as uint8, cropped and flipped there in batch.

    Everything random about an epoch is drawn at its start, on the CPU.

    Args:
        images: (n, H, W, C) uint8, C = 1 or 3; they are resized to `size`.
        labels: (n) int64.
        normalization: (mean, std) of each channel, for pixels in [0, 1].
    """

    def __init__(self, images, labels, device, size, normalization):
        images = resize_arrays(images, size)
        # a copy of its own in the order that convolutions read: (n, C, H, W)
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
        self.size = size
        if self.images.shape[1] == 1 and all(len(set(values)) == 1 for values in normalization):
            normalization = [values[:1] for values in normalization]  # grayscale: three channels in the memory of one
        self.mean, self.std = (torch.tensor(values, device=device) for values in normalization)  # (3) or (1) each
        self._padded = None, None  # (padding, images), made at the first training batch

    def __len__(self):
        return len(self.labels)

    def subset(self, index):
        """Some of the images, by their positions (k)."""
        part = copy.copy(self)
        index = torch.as_tensor(index, device=self.labels.device)
        part.images, part.labels, part._padded = self.images[index], self.labels[index], (None, None)
        return part

    def augmented(self, order, slices, seed, epoch, padding, flip):
        """Yields (inputs, targets) of an epoch; see TrainLoader.

        Args:
            order: (N, n) images of each member.
            slices: of the n, one a batch.
            padding: pixels around an image before the random crop; None, as 0: images as they are in testing.
        """
        padding, members = padding or 0, len(order)
        if self._padded[0] != padding:
            self._padded = padding, transforms.pad(self.images, padding)
        drawn = [draw_crops(order.shape[1], seed, epoch, member, padding, flip) for member in range(members)]
        order, top, left, flipped = (tensor.to(self.labels.device) for tensor in (
            order, *(torch.stack(tensors) for tensors in zip(*drawn))))  # (N, n) each
        for part in slices:
            index = order[:, part].flatten()  # (N·B)
            images = transforms.crop(
                self._padded[1], index, top[:, part].flatten(), left[:, part].flatten(), self.size)
            if flip:
                images = transforms.flip(images, flipped[:, part].flatten())
            images, targets = transforms.normalise(images, self.mean, self.std), self.labels[index]
            if members > 1:
                images, targets = images.unflatten(0, (members, -1)), targets.unflatten(0, (members, -1))  # (N, B, …)
            yield images, targets

    def eval_batches(self, batch_size=None, shard=(0, 1)):
        """Yields every image once, in order, neither cropped nor flipped; rank k of n its part of them.

        Args:
            batch_size: None: 500, but on a CPU so many that the networks' maps stay in its caches: 32, of 28×28 256.
        """
        if batch_size is None:
            on_cpu = 32 if self.size > 28 else 256
            batch_size = on_cpu if self.labels.device.type == "cpu" else 500
        part = rank_slice(len(self), shard)
        for images, labels in zip(self.images[part].split(batch_size), self.labels[part].split(batch_size)):
            yield transforms.normalise(images, self.mean, self.std), labels


def draw_crops(count, seed, epoch, member, padding, flip):
    """Corners (top, left) of the crops of an epoch, and whether each is flipped; (n) each, on the CPU."""
    generator = stream(seed, "augment", epoch=epoch, member=member)
    top, left = torch.from_numpy(generator.integers(0, 2 * padding + 1, (2, count)))
    return top, left, torch.from_numpy(generator.random(count)) < (0.5 if flip else 0)
