"""The logits and features of a run: from disk, or from the network, which runs once on every image."""
import copy
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from data import corruptions
from data.loaders import open_split
from engine import checkpoint, devices, distributed
from engine.build import build_model, members_of
from engine.train_step import channels_last
from engine.training_loss import add_member_dim
from models.fuse_conv_bn import fuse_conv_bn
from utils.io import UserError, atomic_write
from utils.npz import Damaged, read_arrays
from utils.run_dir import weights_digest

CHECKPOINT_FILES = {"last": "weights.pt", "best": "weights_best.pt"}
SUFFIXES = {"last": "", "best": "_best"}  # of the folders logits/ and features/


@dataclass(frozen=True)
class Outputs:
    """The outputs of the N members for the n readable images of a split.

    logits: (N, n, C) float32.
    labels: (n) int64, −1 for OOD images.
    positions: (n) in the split, ascending; images that cannot be read have none.
    unreadable: number of these.
    features: (N, n, F) float32 as the heads saw them, or None where nobody asked.
    """

    logits: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    unreadable: int = 0
    features: np.ndarray = None

    def rows(self, index):
        """Where images of the split, by their positions (k) ascending, stand here; without those that are not."""
        if not len(self.positions):
            return index[:0]
        at = np.searchsorted(self.positions, index).clip(max=len(self.positions) - 1)
        return at[self.positions[at] == index]


class LogitsCache:
    """The Outputs of any Split for one of the two checkpoints of a run.

    Args:
        run, config: as run_dir.load_run gives them.
        which: "last" or "best".
        features: whether `outputs` has features, too.
        bf16: run the network in bfloat16 autocast.
        loader_options: how image files are read, see FolderImages.

    Rank 0 gets Outputs; the other ranks compute their part and get None.
    `unreadable` counts the images of a set that could not be read.
    """

    def __init__(self, run, config, which, device, features=False, bf16=False, loader_options=None):
        if which == "best" and config["best_epoch"] == run.recipe.epochs:
            which = "last"  # they are the same weights
        self.run, self.config, self.num_classes, self.device = run, config, config["num_classes"], device
        self.features, self.bf16 = features, bf16
        self.file, self.suffix = run.folder / CHECKPOINT_FILES[which], SUFFIXES[which]
        self.title = f"{which} checkpoint on"
        self.loader_options = loader_options or {}
        self.normalization = run.recipe.mean, run.recipe.std
        self.unreadable = {}
        self._model = self._weights_digest = None

    def outputs(self, split, subset=None):
        """The Outputs of a Split; None too when it has no image that can be read.

        Args:
            subset: positions (k) of the only images wanted; their number is part of the file's name.
        """
        key = split.name if split.split == "test" else f"{split.name}_{split.split}"
        if subset is not None:
            key += f"_{len(subset)}"

        def images():
            whole = open_split(split, self.device, self.normalization, **self.loader_options)
            return whole if subset is None else whole.subset(subset)

        return self._cached(key, split.digest, split.name == self.run.dataset, images, self.features, split)

    def corrupted_outputs(self, name, corruption, severity, data_dir):
        """The Outputs of a set's images under one corruption."""
        digest = corruptions.corruption_digest(name, corruption, severity, data_dir)
        return self._cached(f"{name}_{corruption}_{severity}", digest, True, lambda: corruptions.open_corrupted(
            name, corruption, severity, data_dir, self.device, self.normalization))

    def _cached(self, key, images_digest, is_id, open_images, features=False, split=None):
        source = f"{images_digest} by {self.weights_digest}" + " in bfloat16" * self.bf16
        paths = [self.run.folder / f"{kind}{self.suffix}" / f"{key}.npz" for kind in ("logits", "features")]
        found = read_outputs(paths[: 1 + features], source) if distributed.is_main() else None
        if found is not None and found.logits.shape[::2] != (self.run.method.members, self.num_classes):
            found = None  # of another network
        if distributed.broadcast_from_main(found is None):
            found = forward(self.model, open_images(), f"{self.title} {key}", self.bf16, features,
                            getattr(split, "files", None))
            if found is None:
                return None
            self._check(found, key)
            if not is_id:
                found = Outputs(found.logits, np.full_like(found.labels, -1), *list(vars(found).values())[2:])
            write_outputs(*paths, source, found)
        if found is not None and found.unreadable:
            self.unreadable[key] = found.unreadable
        return found if found is not None and len(found.labels) else None

    def _check(self, found, key):
        if not all(np.isfinite(values).all() for values in (found.logits, found.features) if values is not None):
            raise UserError(f"the network of {self.run} gives NaN or infinity for {key}: its training diverged. "
                            "Train it again with --fresh and a lower --lr")

    @property
    def weights_digest(self):
        """Distinguishes these logits from those of other weights."""
        if self._weights_digest is None:
            self._weights_digest = weights_digest(self.run.folder, self.config, self.file.name)
        return self._weights_digest

    @property
    def model(self):
        if self._model is None:
            self._model = fuse_conv_bn(load_model(self.run, self.num_classes, self.file)).to(
                self.device, memory_format=torch.channels_last)
        return self._model

    @property
    def heads(self):
        """The members' heads, on the CPU."""
        return [copy.deepcopy(member.classifier).cpu() for member in members_of(self.model)]


def load_model(run, num_classes, file):
    """The trained network, or Ensemble, of a run, on the CPU. UserError when the file holds other weights, or NaN."""
    model = build_model(run, num_classes)
    try:
        state = checkpoint.load_state(file)
        model.load_state_dict(state)
        for name, tensor in model.state_dict().items():  # load_state_dict turns any type into any other
            if tensor.is_floating_point() and not state.get(name, tensor).is_floating_point():
                raise TypeError(f"{name} is of type {state[name].dtype}")
    except FileNotFoundError:
        raise UserError(f"{file} is missing: train the run again with --fresh") from None
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(f"{file} does not hold the weights of {run.model} with {run.method.head}: "
                        f"{str(error).strip().splitlines()[-1].strip()}") from error
    checkpoint.check_finite(model, file)
    return model


# ---- files ----

def write_outputs(logits_file, features_file, source, outputs):
    with atomic_write(logits_file) as out:
        np.savez(out, logits=outputs.logits, labels=outputs.labels, positions=outputs.positions,
                 unreadable=outputs.unreadable, source=source)
    if outputs.features is not None:
        with atomic_write(features_file) as out:
            np.savez(out, features=outputs.features, source=source)


def read_outputs(paths, source):
    """The Outputs in one or two files, if they were made from the very images and weights that are there now, else
    None."""
    content = arrays_of_source(paths[0], source, ("logits", "labels", "positions", "unreadable"))
    if content is None:
        return None
    logits, labels, positions, unreadable = content
    if not (logits.dtype == np.float32 and labels.dtype == positions.dtype == np.int64 and logits.ndim == 3
            and labels.shape == positions.shape == logits.shape[1:2] and np.isfinite(logits).all()
            and unreadable.shape == () and unreadable.dtype.kind in "iu"):
        return None
    if len(paths) == 1:
        return Outputs(logits, labels, positions, int(unreadable))
    content = arrays_of_source(paths[1], source, ("features",))
    if content is None or content[0].dtype != np.float32 or content[0].shape[:2] != logits.shape[:2]:
        return None
    return Outputs(logits, labels, positions, int(unreadable), *content)


def arrays_of_source(path, source, keys):
    """Arrays of an .npz file, or None when it is absent, damaged, or of another source."""
    try:
        found, *content = read_arrays(path, "source", *keys)
    except (OSError, UserError, Damaged):
        return None
    return content if found.tolist() == source else None


# ---- the network ----

@torch.inference_mode()
def forward(model, data, title, bf16=False, want_features=False, files=None):
    """The Outputs of all images of `data` on rank 0, None on the other ranks.

    In float32, whatever the training was in, unless `bf16`. A GPU is waited for only once, at the end.

    Args:
        files: of the images, where some may be unreadable; by default data.files.
    """
    logits, labels, features = [], [], [[] for _ in members_of(model)]
    hooks = [member.classifier.register_forward_pre_hook(
        lambda _, inputs, kept=kept: kept.append(on_host(inputs[0].float())))
        for member, kept in zip(members_of(model), features)] if want_features else []
    rank, world_size = distributed.rank_and_world_size()
    device = next(model.parameters()).device
    with tqdm(total=len(data), unit="img", desc=title, disable=None if rank == 0 else True, leave=False) as progress:
        for images, targets in data.eval_batches(shard=(rank, world_size)):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                answers = model(channels_last(images))
            logits.append(on_host(add_member_dim(answers).float()))  # (N, B, C)
            labels.append(on_host(targets))
            progress.update(len(targets) * world_size)
    for hook in hooks:
        hook.remove()
    devices.synchronize(device)
    unreadable = getattr(data, "unreadable", {})
    parts = distributed.gather_to_main((
        torch.cat(logits, 1).numpy(), torch.cat(labels).numpy(), set(unreadable),
        torch.stack([torch.cat(kept) for kept in features]).numpy() if want_features else None))
    return None if parts is None else joined(parts, getattr(data, "files", files))


def joined(parts, files):
    """The Outputs of all ranks' parts."""
    logits, labels, unreadable, features = zip(*parts)
    logits, labels, unreadable = np.concatenate(logits, 1), np.concatenate(labels), set().union(*unreadable)
    positions = np.arange(len(labels))
    if unreadable:
        positions = np.array([k for k, file in enumerate(files) if file not in unreadable], dtype=np.int64)
    features = None if features[0] is None else np.concatenate(features, 1)
    return Outputs(logits, labels, positions, len(unreadable), features)


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
