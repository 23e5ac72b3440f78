"""What `prepare` has made, read back: is it there, what is in it, what are its images called."""
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from data.datasets import CATALOG, array_file, how_to_get, image_folder
from data.imagenet_files import labelled_files
from utils.io import UserError


def available(name, split, data_dir, like=None):
    """Whether the split has been prepared for the networks of `like`; without it, in any form."""
    if name not in CATALOG:
        return False
    in_folders = CATALOG[name].folders and image_folder(name, split, data_dir).is_dir()
    if like and CATALOG[like].folders:
        return in_folders
    sizes = [CATALOG[like].size] if like else CATALOG[name].sizes or [0]
    return (not like and in_folders) or any(array_file(name, split, data_dir, size).exists() for size in sizes)


def digest_of(name, split, data_dir, like=None):
    """A string that changes with the images: the SHA-256 of a prepared split, the file count of an image folder.

    Args:
        like: as for open_set; photographs are prepared in several sizes.
    """
    manifest = Path(data_dir) / name / "manifest.json"
    if CATALOG[like or name].folders and (like or not manifest.exists()):
        root = image_folder(name, split, data_dir)
        keeps = CATALOG[name].keeps or (lambda folder: True)
        classes = [folder for folder in root.glob("*/") if folder.is_dir() and keeps(folder.name)]
        return f"{sum(len(os.listdir(f)) for f in classes or [root] if f.is_dir())} files in {len(classes)} folders"
    try:
        record = json.loads(manifest.read_text())["splits"][split]
        size = CATALOG[like or name].size
        return record["files"][array_file(name, split, data_dir, size).name]["sha256"] if like else record["sha256"]
    except FileNotFoundError as error:
        raise UserError(f"{name} is not in {data_dir}. {how_to_get(name, data_dir)}") from error
    except (KeyError, ValueError) as error:
        raise UserError(f"{manifest} does not know the split {split!r}. {how_to_get(name, data_dir)}") from error


def read_split(name, split, data_dir, like=None):
    """A prepared split: images (n, H, W, C) uint8, labels (n) int64; photographs in the size of `like`'s networks."""
    return _read(name, split, data_dir, like, "images", "labels")


def names_of(name, split, data_dir, like=None):
    """<class>/<file> of every image of a split, in the order in which it is loaded; None where images have no names."""
    if CATALOG[like or name].folders:
        files = _labelled_files(name, split, data_dir)[0]
        return [f"{Path(file).parent.name}/{Path(file).name}" for file in files]
    try:
        return np.char.decode(_read(name, split, data_dir, like, "names")[0], "utf-8").tolist()
    except UserError:
        return None


def labels_of(name, split, data_dir, like=None):
    """(n) int64 in the order in which a split is loaded."""
    if CATALOG[like or name].folders:
        return np.array(_labelled_files(name, split, data_dir)[1], dtype=np.int64)
    return _read(name, split, data_dir, like, "labels")[0]


def training_classes(name, split, data_dir):
    """The class names that number the labels of a set of folders: those of its training split, or None for its own."""
    train = image_folder(name, "train", data_dir) if CATALOG[name].folders and split != "train" else None
    return sorted(f.name for f in train.iterdir() if f.is_dir()) if train and train.is_dir() else None


def _labelled_files(name, split, data_dir):
    return labelled_files(image_folder(name, split, data_dir), training_classes(name, split, data_dir),
                          how_to_get(name, data_dir), CATALOG[name].keeps)


def _read(name, split, data_dir, like, *keys):
    sizes = CATALOG[name].sizes
    size = CATALOG[like].size if like else (*sizes, 0)[0]
    if like and not CATALOG[name].size and size not in sizes:
        raise UserError(f"{name} is not prepared for networks of {size} pixels, but for those of "
                        f"{', '.join(map(str, sizes)) or 'ImageNet'}")
    path = array_file(name, split, data_dir, size)
    try:
        with np.load(path) as content:
            return tuple(content[key] for key in keys)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. {how_to_get(name, data_dir)}") from error
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}). {how_to_get(name, data_dir)}, with --fresh") from error
