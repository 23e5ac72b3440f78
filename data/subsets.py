"""Some images of a set, selected by OpenOOD's lists or by ours, and the differences from OpenOOD's selection."""
import hashlib
from dataclasses import dataclass, field

import numpy as np

from data.datasets import CATALOG, OPENOOD
from data.image_files import WNID
from data.openood_lists import JPEG_COPIES, OVERLAPPING
from data.splits import Split, available


@dataclass(frozen=True)
class Subset:
    """Some images of a set."""

    name: str  # in CATALOG
    index: dict  # split → positions (k) int64 in the order in which the split is loaded
    expected: int  # so many images OpenOOD has there
    note: str = ""  # how these differ from OpenOOD's; "" if they are the same images
    splits: dict = field(default_factory=dict, repr=False, compare=False)  # split → its Split
    remark: str = ""  # how the same images are stored otherwise; it makes nothing incomparable

    def __len__(self):
        return sum(len(positions) for positions in self.index.values())


class OpenSplits:
    """The Splits of a data folder for the networks of one in-distribution set, each opened once."""

    def __init__(self, data_dir, id_dataset):
        self.data_dir, self.id_dataset = data_dir, id_dataset
        self._opened = {}

    def get(self, name, split="test"):
        if (name, split) not in self._opened:
            self._opened[name, split] = Split.open(name, split, self.data_dir, self.id_dataset)
        return self._opened[name, split]

    def available(self, name, split="test"):
        return (name, split) in self._opened or available(name, split, self.data_dir, self.id_dataset)

    def subset(self, name, index, expected, note=""):
        splits = {split: self.get(name, split) for split in index}
        names = any(split.names for split in splits.values())  # those of OpenOOD's own files
        copies = self.id_dataset in OPENOOD and name in JPEG_COPIES and not names
        return Subset(name, index, expected, note, splits,
                      "OpenOOD tests on JPEG copies of these images" if copies else "")


class UnknownClasses(Exception):
    """Images of a set that shares classes with the in-distribution set, and nothing tells which these are."""


def without_overlap(dataset, split):
    """Positions of the images whose class is not one of `dataset`'s. UnknownClasses when that cannot be known."""
    overlapping = OVERLAPPING.get((dataset, split.name), "").split()
    if not overlapping:
        return np.arange(len(split))
    classes = [name.split("/")[0] for name in split.names or ()]
    are_classes = all(map(WNID.fullmatch, classes)) if WNID.fullmatch(overlapping[0]) else len(set(classes)) > 1
    if not classes or not are_classes:
        raise UnknownClasses(f"left out: some of its classes are {CATALOG[dataset].title}'s, too, and its images do "
                             f"not lie in class folders. {split.advice}, with --fresh, from class folders")
    return np.array([k for k, name in enumerate(classes) if name not in overlapping], dtype=np.int64)


def balanced_subset(labels, count, key):
    """Positions (count), ascending, of a class-balanced choice that depends on the key (a text) and labels alone."""
    order = sorted(range(len(labels)), key=lambda k: hashlib.md5(f"{key} {k}".encode()).digest())
    seen, rank = {}, {}
    for k in order:
        rank[k] = seen.get(labels[k], 0)
        seen[labels[k]] = rank[k] + 1
    return np.array(sorted(sorted(order, key=rank.get)[:count]), dtype=np.int64)
