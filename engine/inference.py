"""A run's logits: on disk, or from the network if they are not there yet. The network is run once on every image."""
import zipfile

import numpy as np
import torch
from tqdm import tqdm

from data import corruptions
from data.loaders import digest_of, open_set
from engine import checkpoint, devices, distributed
from engine.build import build_model
from engine.train_step import channels_last
from engine.training_loss import add_member_dim
from models.fuse_conv_bn import fuse_conv_bn
from utils.io import UserError, written_whole
from utils.run_dir import file_digest

CHECKPOINTS = {"last": ("weights.pt", "logits"), "best": ("weights_best.pt", "logits_best")}  # name → file, folder


class LogitsCache:
    """The members' logits (N, n, C) float32 and labels (n) of any set, under one of a run's two checkpoints.

    Args:
        run, config: as run_dir.load_run gives them.
        which: "last" or "best".
        loader_options: how image files are read, see FolderImages.

    Rank 0 gets arrays; the other ranks, which only help to make them, get None.
    `unreadable` counts the images of a set that could not be read.
    """

    def __init__(self, run, config, which, data_dir, device, loader_options):
        if which == "best" and config["best_epoch"] == run.recipe.epochs:
            which = "last"  # they are the same weights
        self.file, self.folder = (run.folder / part for part in CHECKPOINTS[which])
        self.run, self.num_classes, self.title = run, config["num_classes"], f"{which} checkpoint on"
        self.data_dir, self.device, self.loader_options = data_dir, device, loader_options
        self.normalization = run.recipe.mean, run.recipe.std
        self.unreadable = {}
        self._model = self._weights_digest = None

    def logits(self, name, split="test"):
        """logits and labels (−1 for OOD images) of a split of a set."""
        key, dataset = name if split == "test" else f"{name}_{split}", self.run.dataset
        digest = digest_of(name, split, self.data_dir, dataset)
        return self.cached(key, digest, name == dataset, lambda: open_set(
            name, split, self.data_dir, self.device, like=dataset, statistics=self.normalization,
            **self.loader_options))

    def corrupted_logits(self, name, corruption, severity):
        """The same of a set's images under one corruption."""
        digest = corruptions.digest_of(name, corruption, severity, self.data_dir)
        return self.cached(f"{name}_{corruption}_{severity}", digest, True, lambda: corruptions.open_corrupted(
            name, corruption, severity, self.data_dir, self.device, self.normalization))

    def cached(self, key, digest, is_id, open_fn):
        path, source = self.folder / f"{key}.npz", f"{digest} by {self.weights_digest}"
        found = read(path, source) if distributed.is_main() else None
        if distributed.broadcast_from_main(found is None):
            found = forward(self.model, open_fn(), f"{self.title} {key}")
            if found is None:
                return None
            logits, labels, unreadable = found
            if not np.isfinite(logits).all():
                raise UserError(f"the network of {self.run} answers {key} with NaN or infinity: its training diverged. "
                                "Train it again with --fresh and a lower --lr")
            found = logits, labels if is_id else np.full_like(labels, -1), unreadable
            with written_whole(path) as out:
                np.savez(out, logits=logits, labels=found[1], unreadable=unreadable, source=source)
        if found is None:
            return None
        if found[2]:
            self.unreadable[key] = int(found[2])
        return found[:2]

    @property
    def weights_digest(self):
        """The logits of other weights must not be taken for these."""
        if self._weights_digest is None:
            try:
                self._weights_digest = file_digest(self.file)
            except FileNotFoundError:
                raise UserError(f"{self.file} is missing: train the run again with --fresh") from None
        return self._weights_digest

    @property
    def model(self):
        if self._model is None:
            self._model = fuse_conv_bn(load_model(self.run, self.num_classes, self.file)).to(
                self.device, memory_format=torch.channels_last)
        return self._model


def load_model(run, num_classes, file):
    """The trained network, or Ensemble, of a run, on the CPU. UserError when the file holds other weights."""
    model = build_model(run, num_classes)
    try:
        model.load_state_dict(checkpoint.load_state(file))
    except FileNotFoundError:
        raise UserError(f"{file} is missing: train the run again with --fresh") from None
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(f"{file} does not hold the weights of {run.model} with {run.method.head}: "
                        f"{str(error).splitlines()[-1].strip()}") from error
    return model


def read(path, source):
    """(logits, labels, unreadable) if they were made from the very images and weights that are there now, else None."""
    try:
        with np.load(path) as content:
            if content["source"] != source:
                return None
            logits, labels, unreadable = content["logits"], content["labels"], content["unreadable"]
            fits = logits.ndim == 3 and labels.shape == logits.shape[1:2] and np.isfinite(logits).all()
            return (logits, labels, unreadable) if fits else None
    except (OSError, KeyError, ValueError, EOFError, TypeError, MemoryError, zipfile.BadZipFile, NotImplementedError):
        return None  # absent or damaged: make it again


@torch.inference_mode()
def forward(model, data, title):
    """(logits (N, n, C) float32, labels (n), unreadable images) on rank 0, None on the others.

    In plain float32, whatever the training was in. A GPU is waited for only once, at the end.
    """
    logits, labels = [], []
    rank, world_size = distributed.rank_and_world_size()
    with tqdm(total=len(data), unit="img", desc=title, disable=None if rank == 0 else True, leave=False) as progress:
        for images, targets in data.eval_batches(shard=(rank, world_size)):
            logits.append(on_host(add_member_dim(model(channels_last(images))).float()))  # (N, B, C)
            labels.append(on_host(targets))
            progress.update(len(targets) * world_size)
    devices.synchronize(next(model.parameters()).device)
    parts = distributed.gather_to_main((
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
def accuracy_of(model, data, stop, bf16=False):
    """Share of correct images over all ranks, by the mean of the members' logits.

    None after a signal (`stop.signal`); with several ranks all of them finish the pass.
    """
    model.eval()
    counts = torch.zeros(2, device=next(model.parameters()).device, dtype=torch.int64)  # correct, seen
    for images, labels in data.eval_batches(shard=distributed.rank_and_world_size()):
        if stop.signal and not distributed.is_distributed():
            return None
        with torch.autocast(counts.device.type, torch.bfloat16, enabled=bf16):
            logits = add_member_dim(model(images)).mean(0)  # (B, C)
        counts[0] += (logits.argmax(1) == labels).sum()
        counts[1] += len(labels)
    correct, seen = distributed.all_reduce_sum(counts).tolist()
    return correct / seen
