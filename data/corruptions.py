"""CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich 2019): the test images under 19 corruptions in 5 severities.

Official: data/cifar10_c/<corruption>.npy holds 50,000 images, those of severity s at [10000(s − 1), 10000 s), in the
order of the test split, and labels.npy their labels.
Made here: data/cifar10_c/<corruption>-<severity>.npy. They are NOT CIFAR-10-C; `note` says so for tables.
data/sources/corruptions.py brings the former and makes the latter. The official arrays are preferred wherever they are.
"""
import json
from pathlib import Path

import numpy as np

from data.datasets import CATALOG, CORRUPTED, how_to_get
from utils.io import UserError

# the 15 that the benchmark's mean is over, and the 4 that its authors keep for validation
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression")
VALIDATION = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
ARRAYS = (*CORRUPTIONS, *VALIDATION)
SEVERITIES = (1, 2, 3, 4, 5)


def available(name, data_dir):
    """[(corruption, severity)] that data_dir holds of cifar10_c or cifar100_c, in the order above."""
    return [(c, s) for c in ARRAYS for s in SEVERITIES if any(path.exists() for path in _paths(name, c, s, data_dir))]


def read_corrupted(name, corruption, severity, data_dir):
    """images (n, 32, 32, 3) uint8 and labels (n) int64 of one corruption in one severity.

    UserError, with the command to type, when it is not there or damaged.
    """
    if corruption not in ARRAYS or severity not in SEVERITIES:
        raise UserError(f"{name} has no {corruption!r} in severity {severity}: choose from {', '.join(ARRAYS)}; 1 … 5")
    official, own = _paths(name, corruption, severity, data_dir)
    try:
        if official.exists():
            labels = np.load(official.with_name("labels.npy"))
            images = np.load(official, mmap_mode="r")
            n = len(images) // 5
            part = slice(n * (severity - 1), n * severity)
            return np.array(images[part]), labels[part].astype(np.int64)
        labels = np.load(own.with_name("labels-made.npy"))
        images = np.load(own)
        return images, labels[: len(images)].astype(np.int64)
    except FileNotFoundError as error:
        dataset = name.removesuffix("_c")
        raise UserError(f"{name} has no {corruption} in severity {severity} in {data_dir}. {how_to_get(name)}, or make "
                        f"it: python data/sources/corruptions.py {dataset} --severity {severity}") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{corruption} in {official.parent} is damaged ({error}). {how_to_get(name)}, with --fresh"
                        ) from error


def open_corrupted(name, corruption, severity, data_dir, device, normalization=None):
    """The ResidentImages of one corruption in one severity.

    Args:
        normalization: (mean, std) of each channel, for pixels in [0, 1]; by default of the set that it is made from.
    """
    from data.loaders import ResidentImages  # here, because the rest needs no torch

    clean = next(CATALOG[dataset] for dataset, corrupted in CORRUPTED.items() if corrupted == name)
    images, labels = read_corrupted(name, corruption, severity, data_dir)
    return ResidentImages(images, labels, device, clean.size, normalization or (clean.mean, clean.std))


def digest_of(name, corruption, severity, data_dir):
    """A string that changes with the images."""
    official, own = _paths(name, corruption, severity, data_dir)
    path = official if official.exists() else own
    manifest = json.loads((Path(data_dir) / name / "manifest.json").read_text())
    return f"{manifest['splits']['test']['files'][path.name]['md5']} {severity}"


def note(name, corruption, severity, data_dir):
    """What a table must say about it; "" for the official arrays."""
    if _paths(name, corruption, severity, data_dir)[0].exists():
        return ""
    return (f"not {CATALOG[name].title} but made from the test images with the package imagecorruptions, "
            "whose parameters are ImageNet-C's")


def _paths(name, corruption, severity, data_dir):
    folder = Path(data_dir) / name
    return folder / f"{corruption}.npy", folder / f"{corruption}-{severity}.npy"
