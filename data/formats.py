"""Publishers' formats → (images (n, H, W, C) uint8, labels (n) int64). Readers get verified bytes."""
import gzip
import io
import pickle
import struct

import numpy as np
from PIL import Image
from scipy.io import loadmat

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def read_cifar(batches):
    """CIFAR's pickled batches, rows of 3072 bytes, channel by channel. Unpickled only because their MD5 is official."""
    batches = [pickle.loads(batch, encoding="bytes") for batch in batches]
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = [label for batch in batches for label in batch.get(b"labels", batch.get(b"fine_labels"))]
    return images, np.array(labels)


def read_idx(parts):
    """MNIST's gzipped idx files: images, then labels."""
    arrays = []
    for part in parts:
        raw = gzip.decompress(part)
        dimensions = raw[3]  # bytes 0 and 1 are zero, 2 is the type (8: uint8), 3 the number of dimensions
        shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
        arrays.append(np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape))
    images, labels = arrays
    return images[..., None], labels


def read_svhn(parts):
    """SVHN's MATLAB file; its label 10 is the digit 0."""
    content = loadmat(io.BytesIO(parts[0]))
    return content["X"].transpose(3, 0, 1, 2), content["y"].ravel() % 10


READERS = {
    "cifar10": read_cifar, "cifar100": read_cifar, "svhn": read_svhn, "mnist": read_idx, "fashion_mnist": read_idx,
}


def class_folders(root):
    """The class folders below `root` in sorted order, and the image files of each."""
    classes = sorted(folder for folder in root.iterdir() if folder.is_dir())
    return [(c, sorted(file for file in c.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)) for c in classes]


def read_class_folders(root, size):
    """<class>/<image> of size × size pixels; labels number the sorted class names. ValueError on another image size."""
    images, labels = [], []
    for label, (_, files) in enumerate(class_folders(root)):
        for file in files:
            image = np.asarray(Image.open(file).convert("RGB"))
            if image.shape[:2] != (size, size):
                raise ValueError(f"{file} is {image.shape[1]}×{image.shape[0]} pixels, expected {size}×{size}")
            images.append(image)
            labels.append(label)
    return np.array(images, dtype=np.uint8).reshape(-1, size, size, 3), np.array(labels, dtype=np.int64)
