"""The official array formats → (images (n, H, W, C) uint8, labels (n) int64). Readers get verified bytes."""
import gzip
import hashlib
import io
import pickle
import struct
import zlib

import numpy as np
from scipy.io import loadmat

MOST_IDX = 1 << 30  # bytes: what an unverified .gz may unpack to


def read_cifar(batches):
    """CIFAR's pickled batches, rows of 3072 bytes, channel by channel. Unpickled only because their MD5 is official."""
    batches = [pickle.loads(batch, encoding="bytes") for batch in batches]
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = [label for batch in batches for label in batch.get(b"labels", batch.get(b"fine_labels"))]
    return images, np.array(labels)


def read_idx(parts):
    """MNIST's idx files, gzipped or not: images (n, H, W) and labels (n), uint8. ValueError when they are others."""
    images, labels = (_idx_array(part) for part in parts)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"images of shape {images.shape} with labels of shape {labels.shape}")
    return images[..., None], labels


def _idx_array(part):
    if part[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(part)) as file:
                part = file.read(MOST_IDX + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"an incomplete or altered .gz ({error})") from error
    if not 4 <= len(part) <= MOST_IDX or part[:3] != b"\0\0\x08":  # two zeros, then the type (8: uint8)
        raise ValueError("not an idx file of bytes")
    dimensions = part[3]
    shape = struct.unpack_from(f">{dimensions}I", part, 4) if len(part) > 4 + 4 * dimensions else (-1,)
    if len(part) != 4 + 4 * dimensions + np.prod(shape, dtype=np.int64):
        raise ValueError(f"{len(part):,} bytes do not hold an array of {shape}")
    return np.frombuffer(part, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def md5_of_unpacked(path):
    """The MD5 of what a .gz holds; "" when it is no .gz, or an implausibly large one."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with gzip.open(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
                if size > MOST_IDX:
                    return ""
    except (EOFError, OSError, zlib.error):
        return ""
    return digest.hexdigest()


def read_emnist(parts):
    """EMNIST's idx files: images lie transposed there, and letters count from 1."""
    images, labels = read_idx(parts)
    return images.swapaxes(1, 2), labels.astype(np.int64) - 1


def read_svhn(parts):
    """SVHN's MATLAB file; its label 10 is the digit 0."""
    content = loadmat(io.BytesIO(parts[0]))
    return content["X"].transpose(3, 0, 1, 2), content["y"].ravel() % 10


READERS = {
    "cifar10": read_cifar, "cifar100": read_cifar, "svhn": read_svhn, "mnist": read_idx, "fashion_mnist": read_idx,
    "notmnist": read_idx, "emnist_letters": read_emnist,
}
