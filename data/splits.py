"""Split: the images of one split of a data set, with their properties, opened once and passed on."""
import hashlib
import os
import weakref
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from data.datasets import CATALOG, array_file, how_to_get, image_folder
from data.image_files import WNID, class_names, labelled_files
from data.manifest import read_manifest
from data.user_sets import known
from utils.io import UserError
from utils.npz import Damaged, array_headers, read_arrays

LENGTHS = 10_000  # files of a split whose lengths are compared


class Split:
    """Some images, in a fixed order, for networks of `id_dataset`'s image size. Arrays are read when they are needed.

    name, split, id_dataset: names.
    size: pixels a side that networks take.
    digest: a string that changes with the images.
    verified: whether a published checksum covers the images.
    source: where they came from, for people.
    labels: (n) int64, read-only.
    names: <class>/<file> of every image, or None where images have no names.
    class_names: in label order, or None where nobody says.
    """

    @staticmethod
    def open(name, split, data_dir, id_dataset=None):
        """The Split of a prepared set; ImageNet's and its OOD sets' images stay in files.

        Args:
            id_dataset: the in-distribution set whose networks are to see the images; by default the set itself.
        UserError, with the command to type, when the split is not there, is damaged, or is another than was prepared.
        """
        for wanted in (name, id_dataset or name):
            if not known(wanted, data_dir):
                raise UserError(f"unknown data set {wanted!r}: choose from {', '.join(CATALOG)}")
        kind = FolderSplit if CATALOG[id_dataset or name].folders else ArraySplit
        return kind(name, split, data_dir, id_dataset)

    def __init__(self, name, split, data_dir, id_dataset=None):
        self.name, self.split, self.data_dir = name, split, Path(data_dir)
        self.id_dataset = id_dataset or name
        self.size = CATALOG[self.id_dataset].size
        self.advice = how_to_get(name, data_dir)
        self.record = self._recorded()

    def _recorded(self):
        """What the manifest says of the split; {} where there is no manifest."""
        try:
            splits = read_manifest(self.data_dir / self.name)["splits"]
        except FileNotFoundError:
            return {}
        except UserError as error:
            raise UserError(f"{error}. {self.advice}, with --fresh") from error
        return splits.get(self.split, {})

    def __len__(self):
        return len(self.labels)

    def __repr__(self):
        return f"<{type(self).__name__} {self.name} {self.split}>"

    @property
    def verified(self):
        return self.record.get("verified") is True

    @property
    def source(self):
        return self.record.get("source", "")

    @property
    def origin_note(self):
        """What a table must say of where the images came from, or ""."""
        if self.verified or not self.record:
            return ""
        twice = self.record.get("also_in_train", 0)
        return "from files that no checksum covers" + f", {twice:,} of them training images, too" * bool(twice)


class ArraySplit(Split):
    """A split in an .npz file: images (n, H, W, C) uint8."""

    def __init__(self, name, split, data_dir, id_dataset=None):
        super().__init__(name, split, data_dir, id_dataset)
        own, sizes = CATALOG[name].size, CATALOG[name].sizes
        size = self.size if id_dataset or not sizes else sizes[0]
        if id_dataset and not own and size not in sizes:
            raise UserError(f"{name} is not prepared for networks of {size} pixels, but for those of "
                            f"{', '.join(map(str, sizes)) or 'ImageNet'}")
        self.path = array_file(name, split, data_dir, size)
        self.image_size = own or size  # in the file
        self._images = lambda: None
        self._check()

    def _check(self):
        """Whether the file is the one that was prepared: its length, shapes, types and checksums, not its content."""
        self._headers = self._read(array_headers)
        if not self.record:
            raise UserError(f"{self.data_dir / self.name / 'manifest.json'} has no split {self.split!r}. "
                            f"{self.advice}")
        kept = self.record.get("files", {}).get(self.path.name)
        if kept is None or not isinstance(kept.get("sha256"), str) or not {"images", "labels"} <= self._headers.keys():
            raise self._changed("it is another file")
        (shape, dtype, _), (label_shape, label_dtype, _) = self._headers["images"], self._headers["labels"]
        count = self.record.get("images")
        if len(shape) != 4 or shape[1:3] != (self.image_size,) * 2 or shape[3] not in (1, 3) or dtype != np.uint8:
            raise self._changed(f"its images are {dtype} of shape {shape}")
        if label_shape != shape[:1] or label_dtype != np.int64 or shape[0] != count:
            raise self._changed(f"it has {shape[0]:,} images and labels of shape {label_shape}, and {count:,} images "
                                "were prepared")
        if "crc32" in kept and kept["crc32"] != {key: crc for key, (_, _, crc) in self._headers.items()}:
            raise self._changed("its content has changed")
        if os.path.getsize(self.path) != kept["bytes"]:
            raise self._changed(f"it has {os.path.getsize(self.path):,} bytes, but {kept['bytes']:,} were written")

    def _changed(self, how):
        return UserError(f"{self.path} differs from what was prepared: {how}. {self.advice}, with --fresh")

    def _read(self, reader, *keys):
        try:
            return reader(self.path, *keys)
        except FileNotFoundError as error:
            raise UserError(f"{self.path} is missing. {self.advice}") from error
        except Damaged as error:
            raise UserError(f"{self.path} is damaged ({error}). {self.advice}, with --fresh") from error

    @property
    def digest(self):
        return self.record["files"][self.path.name]["sha256"]

    @cached_property
    def labels(self):
        labels, = self._read(read_arrays, "labels")
        classes = CATALOG[self.name].classes
        if CATALOG[self.name].mean and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise self._changed(f"its labels go from {labels.min()} to {labels.max()}, and there are {classes} classes")
        labels.setflags(write=False)
        return labels

    @property
    def images(self):
        """(n, H, W, C) uint8. Read once for as long as somebody holds them."""
        images = self._images()
        if images is None:
            images, = self._read(read_arrays, "images")
            self._check_old_manifest(images)
            self._images = weakref.ref(images)
        return images

    def _check_old_manifest(self, images):
        """Manifests had no CRCs once; their SHA-256 is of the whole content."""
        kept = self.record["files"][self.path.name]
        if "crc32" not in kept and content_digest(images, self.labels) != kept["sha256"]:
            raise self._changed("its content has changed")

    @cached_property
    def names(self):
        if "names" not in self._headers:
            return None
        return np.char.decode(self._read(read_arrays, "names")[0], "utf-8").tolist()

    @cached_property
    def class_names(self):
        if CATALOG[self.name].class_names or self.names is None:
            return list(CATALOG[self.name].class_names) or None
        by_label = dict(zip(self.labels.tolist(), (name.split("/")[0] for name in self.names)))
        return [by_label.get(label, str(label)) for label in range(max(by_label, default=-1) + 1)]


class FolderSplit(Split):
    """A split in image files: `files`, paths."""

    def __init__(self, name, split, data_dir, id_dataset=None):
        super().__init__(name, split, data_dir, id_dataset)
        self.root = image_folder(name, split, data_dir)
        info, settled = CATALOG[name], training_classes(name, split, data_dir)
        self.files, labels, classes = labelled_files(
            self.root, settled, self.advice, info.keeps, info.classes, needed=bool(info.mean))
        if "imagenet1k" in (name, info.part_of):
            self._refuse_foreign(classes)
        self.classes_here = len(set(labels))
        if info.mean:
            labels, classes = self._numbered(labels, classes, settled)
        self.labels, self.class_names = np.array(labels, dtype=np.int64), classes
        self.labels.setflags(write=False)
        if "folder" in self.record and self.record["folder"].get("images") != len(self.files):
            raise UserError(f"{self.root} differs from what was prepared: it has {len(self.files):,} images, but "
                            f"{self.record['folder'].get('images'):,} were prepared. {self.advice}, with --fresh")

    def _refuse_foreign(self, classes):
        """UserError when some folders, but not all, have other names than ImageNet's classes: they shift numbers."""
        foreign = [name for name in classes if not WNID.fullmatch(name)]
        if 0 < len(foreign) < len(classes):
            raise UserError(f"{self.root} has images in {foreign[0]}, which is no class of ImageNet, among "
                            f"{len(classes)} classes: move it away, here and in the training folder")

    def _numbered(self, labels, classes, settled):
        """The labels and classes of a set that networks learn: every class must have the number that it was learned as.

        UserError when there are more classes than the set has, or some of a test split's without a training split.
        """
        info = CATALOG[self.name]
        if info.class_names:
            number = {name: k for k, name in enumerate(info.class_names)}
            return [number[classes[label]] for label in labels], list(info.class_names)
        too_few = self.split != "train" and not settled and len(classes) < info.classes
        if len(classes) > info.classes or too_few:
            raise UserError(f"{self.root} has {len(classes)} classes, and {info.title} has {info.classes}: which "
                            f"number each of them has is unknown{' without the training folder' if too_few else ''}")
        return labels, classes

    @cached_property
    def digest(self):
        """Of all names, and of the lengths of at most LENGTHS of the files: a million would take minutes."""
        content = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        for file in self.files[:: len(self.files) // LENGTHS + 1]:
            content.update(f"\0{os.path.getsize(file)}".encode())
        return f"{len(self.files)} files in {self.classes_here} folders, names {content.hexdigest()[:12]}"

    @cached_property
    def names(self):
        classes, labels = self.class_names, self.labels.tolist()
        return [f"{classes[label]}/{PurePosixPath(file).name}" for label, file in zip(labels, self.files)]


def available(name, split, data_dir, id_dataset=None):
    """Whether the split has been prepared for the networks of `id_dataset`; without it, in any form."""
    if not known(name, data_dir):
        return False
    in_folders = CATALOG[name].folders and image_folder(name, split, data_dir).is_dir()
    if id_dataset and CATALOG[id_dataset].folders:
        return in_folders
    sizes = [CATALOG[id_dataset].size] if id_dataset else CATALOG[name].sizes or [0]
    return (not id_dataset and in_folders) or any(
        array_file(name, split, data_dir, size).exists() for size in sizes)


def training_classes(name, split, data_dir):
    """The class names that number the labels of a set of folders: those of its training split, or None for its own."""
    if not CATALOG[name].folders or split == "train":
        return None
    return class_names(image_folder(name, "train", data_dir)) or None


def content_digest(images, labels):
    """The SHA-256 of images and labels."""
    content = hashlib.sha256(np.ascontiguousarray(images).data)
    content.update(np.ascontiguousarray(labels).data)
    return content.hexdigest()


def read_split(name, split, data_dir, id_dataset=None):
    """A prepared split: images (n, H, W, C) uint8, labels (n) int64; natural images in the size of `id_dataset`'s."""
    opened = ArraySplit(name, split, data_dir, id_dataset)
    return opened.images, opened.labels.copy()
