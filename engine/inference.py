"""A run's logits: on disk, or from the network if they are not there yet. The network is run once on every image."""
import zipfile

import numpy as np
import torch
from tqdm import tqdm

from data import corruptions
from data.loaders import digest_of, open_set
from engine import checkpoint, distributed
from engine.build import model_of
from engine.train_step import channels_last
from engine.training_loss import as_ensemble
from models.fuse_conv_bn import folded
from utils.io import UserError, written_whole

WEIGHTS = {"last": ("weights.pt", "logits"), "best": ("weights_best.pt", "logits_best")}  # name → file, folder


class Dumps:
    """The members' logits (N, n, C) float32 and labels (n) of any set, under one of a run's two states of weights.

    Args:
        weights: "last" or "best".
        reading: how image files are read, see FolderImages.

    The first process gets arrays; the others, which only help to make them, get None.
    `unreadable` counts the images of a set that could not be read.
    """

    def __init__(self, run, config, weights, data_dir, device, reading):
        if weights == "best" and config["best_epoch"] == config["recipe"]["epochs"]:
            weights = "last"  # they are the same weights
        self.file, self.folder = (run / part for part in WEIGHTS[weights])
        self.run, self.config, self.title = run, config, f"{weights} weights on"
        self.data_dir, self.device, self.reading = data_dir, device, reading
        self.dataset = config["run"]["dataset"]
        self.statistics = config["recipe"]["mean"], config["recipe"]["std"]
        self.unreadable = {}
        self._model = None

    def of(self, name, split="test"):
        """logits and labels (−1 for outliers) of a split of a set."""
        key = name if split == "test" else f"{name}_{split}"
        digest = digest_of(name, split, self.data_dir, self.dataset)
        return self._saved(key, digest, name == self.dataset, lambda: open_set(
            name, split, self.data_dir, self.device, like=self.dataset, statistics=self.statistics, **self.reading))

    def of_corrupted(self, name, corruption, severity):
        """The same of a set's images under one corruption."""
        digest = corruptions.digest_of(name, corruption, severity, self.data_dir)
        return self._saved(f"{name}_{corruption}_{severity}", digest, True, lambda: corruptions.open_corrupted(
            name, corruption, severity, self.data_dir, self.device, self.statistics))

    def _saved(self, key, digest, is_id, opened):
        path = self.folder / f"{key}.npz"
        saved = read(path, digest) if distributed.is_main() else None
        if distributed.from_main(saved is None):
            saved = forward(self.model, opened(), f"{self.title} {key}")
            if saved is None:
                return None
            logits, labels, unreadable = saved
            if not np.isfinite(logits).all():
                raise UserError(f"the network of {self.run} answers {key} with NaN or infinity: its training diverged. "
                                "Train it again with --fresh and a lower --lr")
            saved = logits, labels if is_id else np.full_like(labels, -1), unreadable
            with written_whole(path) as out:
                np.savez(out, logits=logits, labels=saved[1], unreadable=unreadable, source=digest)
        if saved is None:
            return None
        if saved[2]:
            self.unreadable[key] = int(saved[2])
        return saved[:2]

    @property
    def model(self):
        if self._model is None:
            model = model_of(self.config)
            model.load_state_dict(checkpoint.load_state(self.file))
            self._model = folded(model).to(self.device, memory_format=torch.channels_last)
        return self._model


def read(path, digest):
    """(logits, labels, unreadable) if they were made from the very images that are there now, else None."""
    try:
        with np.load(path) as content:
            parts = content["logits"], content["labels"], content["unreadable"]
            return parts if content["source"] == digest else None
    except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # absent or damaged: make it again


@torch.inference_mode()
def forward(model, data, title):
    """(logits (N, n, C) float32, labels (n), unreadable images) on the first process, None on the others.

    In plain float32, whatever the training was in. A GPU is waited for only once, at the end.
    """
    logits, labels = [], []
    hidden = None if distributed.is_main() else True
    with tqdm(total=len(data), unit="img", desc=title, disable=hidden, leave=False) as bar:
        for images, targets in data.eval_batches(shard=distributed.shard()):
            logits.append(on_host(as_ensemble(model(channels_last(images))).float()))  # (N, B, C)
            labels.append(on_host(targets))
            bar.update(len(targets) * distributed.shard()[1])
    if next(model.parameters()).device.type == "cuda":
        torch.cuda.synchronize()
    parts = distributed.gathered((
        torch.cat(logits, 1).numpy(), torch.cat(labels).numpy(), len(getattr(data, "bad", ()))))
    if parts is None:
        return None
    logits, labels, unreadable = zip(*parts)
    return np.concatenate(logits, 1), np.concatenate(labels), sum(unreadable)


def on_host(tensor):
    """The tensor on the CPU; from a GPU by a copy that nobody waits for, whole at the next synchronisation."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


@torch.inference_mode()
def accuracy_of(model, images, stop, bf16=False):
    """Share of correct images over all processes, by the mean of the members' logits; None, on one process at once,
    after a signal."""
    model.eval()
    counts = torch.zeros(2, device=next(model.parameters()).device, dtype=torch.float64)  # correct, seen
    for batch, labels in images.eval_batches(shard=distributed.shard()):
        if stop.signal and not distributed.several():
            return None
        with torch.autocast(counts.device.type, torch.bfloat16, enabled=bf16):
            logits = as_ensemble(model(batch)).mean(0)
        counts[0] += (logits.argmax(1) == labels).sum()
        counts[1] += len(labels)
    correct, seen = distributed.summed(counts).tolist()
    return correct / seen
