"""Data sets in image files, like ImageNet, read by worker processes. Each crop is a function of (seed, epoch, image).

So a run is the same run with any number of workers, on any number of ranks, and when it is resumed.
"""
import copy
import os
import sys

import torch
from torch.utils.data import DataLoader

from data import transforms
from data.image_crops import Crops, collate, collate_arrays
from data.sampling import rank_slice
from utils.io import OUT_OF_RESOURCES, UserError, system_error

SHARED_MEMORY = "/dev/shm"
PREFETCHED = 4  # batches a worker


class FolderImages:
    """RandomResizedCrop and flip to train; resize the shorter side to size/0.875 and centre crop to test.

    Args:
        files, labels: paths, and a class number each.
        size, normalization: pixels a side, and (mean, std) of each channel for pixels in [0, 1].
        class_names: in label order.
        on_unreadable: "stop" raises UserError for a file that cannot be read; "skip" names it on standard error and
            continues, in training with the next readable file in its place, in testing without it.
        workers: processes that read; None: as many as cores, at most 16.

    `unreadable` has the files that could not be read so far, `cmyk` those that were CMYK (made RGB, as always).
    """

    def __init__(self, files, labels, device, size, normalization, class_names=None, on_unreadable="stop",
                 workers=None):
        self.files, self.labels = list(files), torch.tensor(labels, dtype=torch.int64)
        self.size, self.device, self.classes = size, device, class_names
        self.mean, self.std = (torch.tensor(values, device=device) for values in normalization)  # (3) each
        self.on_unreadable = on_unreadable
        self.workers = min(os.cpu_count(), 16) if workers is None else workers
        self.unreadable, self.cmyk = {}, set()

    def __len__(self):
        return len(self.files)

    def subset(self, index):
        """Some of the images, by their positions (k)."""
        part = copy.copy(self)
        part.files, part.labels = [self.files[k] for k in index], self.labels[torch.as_tensor(index)]
        return part

    def augmented(self, order, slices, seed, epoch, padding, flip):
        """As ResidentImages.augmented; `padding` only says, when it is None, not to crop at random."""
        members = len(order)
        batches = [[(image, member) for member in range(members) for image in order[member, part].tolist()]
                   for part in slices]
        crops = self._crops() if padding is None else self._crops((seed, epoch), flip)
        for images, labels in self._batches(crops, batches):
            if members > 1:
                images, labels = images.unflatten(0, (members, -1)), labels.unflatten(0, (members, -1))  # (N, B, …)
            yield images, labels

    def eval_batches(self, batch_size=250, shard=(0, 1)):
        """Yields every image once, in order, without those that are skipped; rank k of n its part of them."""
        indices = range(len(self))[rank_slice(len(self), shard)]
        batches = [[(i, 0) for i in indices[k : k + batch_size]] for k in range(0, len(indices), batch_size)]
        yield from self._batches(self._crops(), batches)

    def _crops(self, seed_and_epoch=None, flip=False):
        return Crops(self.files, self.labels, self.size, seed_and_epoch, flip)

    def _batches(self, crops, batches):
        """Normalised images (B, 3, s, s) and labels (B) on the device, for batches of keys of `crops`."""
        arrays = self.workers and not self._fits_shared_memory(max(map(len, batches), default=0))
        loader = DataLoader(
            crops, batch_sampler=batches, num_workers=self.workers, pin_memory=self.device.type == "cuda",
            collate_fn=collate_arrays if arrays else collate, prefetch_factor=PREFETCHED if self.workers else None)
        for images, labels in prefetch_to_device(self._reported(loader), self.device):
            if not len(labels):  # of a batch smaller than the number of ranks, or of unreadable files only
                images = torch.empty(0, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
            yield transforms.normalise(images, self.mean, self.std), labels

    def _fits_shared_memory(self, batch_size):
        """Whether the batches of all workers fit, with as much to spare. Containers have 64 MB by default."""
        needed = self.workers * PREFETCHED * batch_size * 3 * self.size**2
        free = shared_memory_left()
        return free is None or free > 2 * needed

    def _reported(self, loader):
        """The batches of a loader as tensors; what it reports of unreadable and CMYK files is noted."""
        for images, labels, unreadable, cmyk, failure in worker_errors_explained(loader):
            if failure:
                raise UserError(failure)
            self.cmyk.update(cmyk)
            for file, error in unreadable:
                if self.on_unreadable == "stop":
                    raise UserError(f"{file} cannot be read ({error}). Replace it, or continue without such files: "
                                    "--on-bad-image skip")
                if file not in self.unreadable:
                    print(f"skipped {file}: {error}", file=sys.stderr)
                self.unreadable[file] = error
            yield torch.as_tensor(images), torch.as_tensor(labels)


def shared_memory_left():
    """Bytes, or None where it is not a file system of its own."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return None
    return found.f_bavail * found.f_frsize


def worker_errors_explained(loader):
    """The batches of a loader; an error of its processes becomes a UserError."""
    try:
        yield from loader
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
            raise system_error(error, "the images") from error
        if "DataLoader worker" in str(error) or isinstance(error, OSError):
            raise UserError(f"a process that reads images failed ({str(error).splitlines()[0]}). Memory or "
                            f"{SHARED_MEMORY} may be too small: use fewer --workers, or --workers 0") from error
        raise


def prefetch_to_device(batches, device):
    """(images, labels) on the device. On a GPU the next batch is copied while the caller works on this one."""
    if device.type != "cuda":
        yield from ((images.to(device), labels.to(device)) for images, labels in batches)
        return
    stream, coming = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = [part.to(device, non_blocking=True) for part in batch]
        if coming is not None:
            yield coming
        torch.cuda.current_stream(device).wait_stream(stream)
        for part in copied:
            part.record_stream(torch.cuda.current_stream(device))
        coming = copied
    if coming is not None:
        yield coming
