"""Training images per second in CIFAR's size: batches made on the device, compared with torchvision's transforms."""
import os

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

import recipes
from benchmarks.timing import alternate, summary
from data.datasets import CATALOG
from data.loaders import ResidentImages, TrainLoader

BATCH = 64


class CIFAR10Images(torch.utils.data.Dataset):
    """The baseline: a PIL image, then crop, flip, tensor, normalise; as torchvision's own CIFAR10 does."""

    def __init__(self, images, labels):
        cifar = CATALOG["cifar10"]
        self.images, self.labels = images, labels
        self.transform = v2.Compose([
            v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(cifar.mean, cifar.std)])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def run(machine, device, quick):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)  # what is in them changes no time
    labels = rng.integers(0, 10, 50_000)
    resident = ResidentImages(images, labels, device, 32, (CATALOG["cifar10"].mean, CATALOG["cifar10"].std))
    few = 5_000 if quick else 10_000
    loader = TrainLoader(resident, recipes.DISMAX_CIFAR10.changed(batch_size=BATCH), seed=1)
    epochs = iter(range(1, 1000))

    def ours():
        return sum(len(targets) for _, targets in loader.epoch(next(epochs)))

    def with_workers(workers):
        loader = torch.utils.data.DataLoader(
            CIFAR10Images(images[:few], labels[:few]), BATCH, shuffle=True, num_workers=workers,
            persistent_workers=workers > 0, pin_memory=device.type == "cuda")

        def fn():
            for inputs, targets in loader:
                inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            return few
        return fn

    workers = min(8, os.cpu_count())
    baselines = {f"DataLoader, {n} workers": with_workers(n) for n in (0, workers)}
    rates = alternate({"ours": ours, **baselines}, 3 if quick else 7, device)
    fastest = max(baselines, key=lambda name: np.median(rates[name]))
    yield {"what": "input pipeline, 32×32 crop and flip, batch 64", "unit": "images/s", "target": {"ratio": 10},
           **summary(rates, fastest)}
