"""The benchmark without downloads: scikit-learn's handwritten digits and its two photographs, as 28×28 images."""
import numpy as np
from PIL import Image


def _digits(classes):
    from sklearn.datasets import load_digits  # here, because importing it takes longer than most of what `prepare` does

    content = load_digits()
    keep = np.isin(content.target, classes)
    pixels = (content.images[keep] * (255 / 16)).round().astype(np.uint8)  # (n, 8, 8), published as 0 … 16
    images = [np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BILINEAR)) for image in pixels]
    return np.stack(images)[..., None], content.target[keep] - classes[0]


def digits():
    """Digits 0–6: of each class every third image, in scikit-learn's order, is for testing."""
    images, labels = _digits(range(7))
    rank = np.zeros(len(labels), dtype=int)  # of an image within its class
    for label in range(7):
        rank[labels == label] = np.arange(np.sum(labels == label))
    test = rank % 3 == 2
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}


def digits_789():
    return {"test": _digits(range(7, 10))}


def photo_patches():
    """All 28×28 patches of a grid over the two photographs; the label is the photograph."""
    from sklearn.datasets import load_sample_images

    patches, labels = [], []
    for label, photo in enumerate(load_sample_images().images):
        rows, columns = photo.shape[0] // 28, photo.shape[1] // 28
        grid = photo[: rows * 28, : columns * 28].reshape(rows, 28, columns, 28, 3).swapaxes(1, 2)
        patches.append(grid.reshape(-1, 28, 28, 3))
        labels += [label] * len(patches[-1])
    return {"test": (np.concatenate(patches), np.array(labels))}


MAKERS = {"digits": digits, "digits_789": digits_789, "photo_patches": photo_patches}
