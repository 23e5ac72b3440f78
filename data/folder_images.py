"""ImageNet and its like: JPEG files in class folders, through worker processes."""
import os

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from files import UserError

from . import augment


class FolderImages:
    """<class>/<image> through a DataLoader: RandomResizedCrop and flip to train, resize and centre crop to test."""

    def __init__(self, root, device, like, advice):
        try:
            self.files = ImageFolder(root)
        except FileNotFoundError as error:
            raise UserError(f"{root} holds no class folders. {advice}") from error
        self.size, self.device = like.size, device
        self.mean, self.std = torch.tensor(like.mean, device=device), torch.tensor(like.std, device=device)

    def __len__(self):
        return len(self.files)

    def train_batches(self, batch_size, seed, epoch, padding, flip, start=0):
        generator = torch.Generator().manual_seed(augment.epoch_seed(seed, epoch))
        order = torch.randperm(len(self), generator=generator)[start * batch_size :].tolist()
        transform = v2.Compose([v2.RandomResizedCrop(self.size), v2.RandomHorizontalFlip(0.5 if flip else 0)])
        yield from self._batches(transform, batch_size, order, generator)

    def eval_batches(self, batch_size=250):
        transform = v2.Compose([v2.Resize(int(self.size / 0.875)), v2.CenterCrop(self.size)])
        yield from self._batches(transform, batch_size, range(len(self)))

    def _batches(self, transform, batch_size, order, generator=None):
        self.files.transform = v2.Compose([transform, v2.PILToTensor()])  # uint8 (3, H, W): a quarter of the traffic
        loader = torch.utils.data.DataLoader(
            self.files, batch_size, sampler=order, generator=generator, num_workers=min(os.cpu_count(), 16),
            pin_memory=self.device.type == "cuda",
        )
        for images, labels in loader:
            images = images.to(self.device, non_blocking=True)
            yield augment.normalise(images, self.mean, self.std), labels.to(self.device, non_blocking=True)
