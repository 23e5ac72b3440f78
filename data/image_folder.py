"""ImageNet and its like: image files through worker processes, each image's crop a function of (seed, epoch, image).

So a run is the same run with any number of workers, on any number of processes, and when it is taken up again.
"""
import copy
import os
import sys

import torch
from torch.utils.data import DataLoader

from data import transforms
from data.image_crops import Crops, as_lists, as_tensors, finished
from data.imagenet_files import labelled_files
from data.sampling import class_balanced, share, shuffled, stream
from utils.io import UserError


class FolderImages:
    """RandomResizedCrop and flip to train; resize the shorter side to size/0.875 and centre crop to test.

    Args:
        root: see image_files.labelled_files.
        size, statistics: pixels a side, and (mean, std) of each channel for pixels in [0, 1].
        keeps: see image_files.labelled_files.
        classes: names of the classes in the order of their numbers, from another split; None: the folders' own.
        on_bad_image: of a file that cannot be read: "stop" raises UserError, "skip" names it on standard error and
            goes on, in training with the next readable file in its place, in testing without it.
        decode: "cpu" in the workers by Pillow; "device": by torchvision where the batch lies (nvJPEG on a GPU), with
            crops and resizing there too. The pixels differ by rounding, the crops do not.
        workers: processes that read; None: as many as cores, at most 16.

    `bad` lists the files that could not be read so far, `converted` those that were CMYK (made RGB, as always).
    """

    def __init__(self, root, device, size, statistics, advice="", classes=None, keeps=None, on_bad_image="stop",
                 decode="cpu", workers=None):
        self.files, labels, self.classes = labelled_files(root, classes, advice, keeps)
        self.labels = torch.tensor(labels)
        self.size, self.device = size, device
        self.mean, self.std = (torch.tensor(values, device=device) for values in statistics)  # (3) each
        self.on_bad_image, self.decode = on_bad_image, decode
        self.workers = min(os.cpu_count(), 16) if workers is None else workers
        self.bad, self.converted = {}, set()

    def __len__(self):
        return len(self.files)

    def subset(self, index):
        """Some of the images, by their positions (k)."""
        part = copy.copy(self)
        part.files, part.labels = [self.files[k] for k in index], self.labels[torch.as_tensor(index)]
        return part

    def steps(self, batch_size, per_class=0):
        return len(self) // batch_size if per_class else -(-len(self) // batch_size)

    def train_batches(self, batch_size, seed, epoch, padding, flip, start=0, members=1, per_class=0, shard=(0, 1),
                      order=("shuffle", 0)):
        """As ResidentImages.train_batches; `padding` only says, when it is None, not to crop at random."""
        keys = []  # of each member: (n, 2) of image and member
        for member in range(members):
            generator = stream(seed, order[0], epoch=epoch, member=member, step=order[1])
            index = class_balanced(self.labels, batch_size, per_class, generator) if per_class else shuffled(
                len(self), generator)
            keys.append(torch.stack([index, torch.full_like(index, member)], 1).tolist())
        batches = []
        for first in range(start * batch_size, len(keys[0]), batch_size):
            part = share(len(keys[0][first : first + batch_size]), shard)
            batches.append([key for k in keys for key in k[first : first + batch_size][part]])
        crops = self._crops() if padding is None else self._crops((seed, epoch), flip)
        for images, labels in self._batches(crops, batches):
            if members > 1:
                images, labels = images.unflatten(0, (members, -1)), labels.unflatten(0, (members, -1))  # (N, B, …)
            yield images, labels

    def eval_batches(self, batch_size=250, shard=(0, 1)):
        indices = range(len(self))[share(len(self), shard)]
        batches = [[(i, 0) for i in indices[k : k + batch_size]] for k in range(0, len(indices), batch_size)]
        yield from self._batches(self._crops(), batches)

    def _crops(self, chance=None, flip=False):
        return Crops(self.files, self.labels, self.size, chance, flip, whole=self.decode == "cpu")

    def _batches(self, crops, batches):
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            crops, batch_sampler=batches, num_workers=self.workers, pin_memory=on_gpu and self.decode == "cpu",
            collate_fn=as_lists if self.decode == "device" else as_tensors,
            prefetch_factor=4 if self.workers else None)
        for images, labels in ahead(self._noted(loader), self.device):
            if not len(labels):  # of a batch smaller than the number of processes, or of unreadable files only
                images = torch.empty(0, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
            elif self.decode == "device":
                images = finished(images, self.size, self.device)
            yield transforms.normalise(images, self.mean, self.std), labels

    def _noted(self, loader):
        """The batches of a loader, without what it reports of bad and of CMYK files."""
        for images, labels, bad, converted in loader:
            self.converted.update(converted)
            for file, error in bad:
                if self.on_bad_image == "stop":
                    raise UserError(f"{file} cannot be read ({error}). Replace it, or go on without such files: "
                                    "--on-bad-image skip")
                if file not in self.bad:
                    print(f"skipped {file}: {error}", file=sys.stderr)
                self.bad[file] = error
            yield images, labels


def ahead(batches, device):
    """(images, labels) on the device; on a GPU the next batch is copied while the caller works on this one.

    Images that are still encoded (a list) stay where they are.
    """
    if device.type != "cuda":
        yield from ((x if isinstance(x, list) else x.to(device), y.to(device)) for x, y in batches)
        return
    stream, coming = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = [part if isinstance(part, list) else part.to(device, non_blocking=True) for part in batch]
        if coming is not None:
            yield coming
        torch.cuda.current_stream(device).wait_stream(stream)
        for part in copied:
            if not isinstance(part, list):
                part.record_stream(torch.cuda.current_stream(device))
        coming = copied
    if coming is not None:
        yield coming
