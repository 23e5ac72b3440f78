"""CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich 2019): the test images under 19 corruptions in 5 severities.

Official: data/cifar10_c/<corruption>.npy holds 50,000 images, those of severity s at [10000(s − 1), 10000 s), in the
order of the test split, and labels.npy their labels.
Made here: data/cifar10_c/<corruption>-<severity>.npy. They are NOT CIFAR-10-C; `note` says so for tables.
data/sources/corruptions.py brings the former and makes the latter. The official arrays are preferred wherever they are.
"""
import hashlib
from pathlib import Path

import numpy as np

from data.datasets import CATALOG, CORRUPTED, how_to_get
from data.manifest import read_manifest
from utils.io import UserError, system_error

# the 15 that the benchmark's mean is over, and the 4 that its authors keep for validation
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression")
VALIDATION = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
ARRAYS = (*CORRUPTIONS, *VALIDATION)
SEVERITIES = (1, 2, 3, 4, 5)


def available_corruptions(name, data_dir):
    """[(corruption, severity)] that data_dir holds of cifar10_c or cifar100_c, in the order above."""
    return [(c, s) for c in ARRAYS for s in SEVERITIES if _find(name, c, s, data_dir)[0].exists()]


def read_corrupted(name, corruption, severity, data_dir):
    """images (n, 32, 32, 3) uint8 and labels (n) int64 of one corruption in one severity.

    UserError, with the command to type, when it is not there, damaged, or another array.
    """
    if corruption not in ARRAYS or severity not in SEVERITIES:
        raise UserError(f"{name} has no {corruption!r} in severity {severity}: choose from {', '.join(ARRAYS)}; 1 … 5")
    path, is_official = _find(name, corruption, severity, data_dir)
    size = CATALOG[name].size
    try:
        labels = np.load(path.with_name("labels.npy" if is_official else "labels-made.npy"), mmap_mode="r")
        images = np.load(path, mmap_mode="r")  # no memory is taken for what a damaged header says
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3) or labels.ndim != 1:
            raise ValueError(f"it holds {images.dtype} of shape {images.shape}")
        if is_official and (len(images) % 5 or len(labels) != len(images)) or len(labels) < len(images):
            raise ValueError(f"it has {len(images):,} images, and there are {len(labels):,} labels")
        n = len(images) // 5 if is_official else len(images)
        part = slice(n * (severity - 1), n * severity) if is_official else slice(n)
        return np.array(images[part]), np.array(labels[part], dtype=np.int64)
    except FileNotFoundError as error:
        dataset = name.removesuffix("_c")
        raise UserError(f"{name} has no {corruption} in severity {severity} in {data_dir}. {how_to_get(name)}, or make "
                        f"it: python data/sources/corruptions.py {dataset} --severity {severity}") from error
    except (OSError, ValueError, EOFError) as error:
        raise system_error(error, path) or UserError(
            f"{corruption} in {path.parent} is damaged ({error}). {how_to_get(name)}, with --fresh") from error


def open_corrupted(name, corruption, severity, data_dir, device, normalization=None):
    """The ResidentImages of one corruption in one severity.

    Args:
        normalization: (mean, std) of each channel, for pixels in [0, 1]; by default of the set that it is made from.
    """
    from data.loaders import ResidentImages  # here, because the rest needs no torch

    clean = next(CATALOG[dataset] for dataset, corrupted in CORRUPTED.items() if corrupted == name)
    images, labels = read_corrupted(name, corruption, severity, data_dir)
    return ResidentImages(images, labels, device, clean.size, normalization or (clean.mean, clean.std))


def corruption_digest(name, corruption, severity, data_dir):
    """A string that changes with the images: their MD5, or a sample's for files that prepare.py has not seen."""
    path, _ = _find(name, corruption, severity, data_dir)
    try:
        kept = read_manifest(Path(data_dir) / name)["splits"]["test"]["files"][path.name]
        if kept["bytes"] == path.stat().st_size:
            return f"{kept['md5']} {severity}"
    except (FileNotFoundError, KeyError, UserError):
        pass
    return f"{_sample_digest(path)} {severity}"


def _sample_digest(path):
    """Of a file's length and of 64 blocks of it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for k in range(64):
            file.seek(size * k // 64)
            digest.update(file.read(4096))
    return f"sample {digest.hexdigest()}"


def note(name, corruption, severity, data_dir):
    """What a table must say about it; "" for the official arrays."""
    if _find(name, corruption, severity, data_dir)[1]:
        return ""
    return (f"not {CATALOG[name].title} but made from the test images with the package imagecorruptions, "
            "whose parameters are ImageNet-C's")


def _find(name, corruption, severity, data_dir):
    """(path, whether it is the official array, which holds all severities); the array made here may not exist."""
    folder = Path(data_dir) / name
    official = folder / f"{corruption}.npy"
    is_official = official.exists()
    return official if is_official else folder / f"{corruption}-{severity}.npy", is_official
