"""Image files, in folders or archives → arrays at the sizes that networks take, or class folders for ImageNet's loader.

A picture's name is <class>/<file>, its class the folder that it lies in; pictures are in the order of their names,
which is ImageFolder's. At most a few hundred are in memory at a time; the arrays of one set have at most 125 MB.
"""
import hashlib
import io
import itertools
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.io import UserError

from data.sources import archives
from data.sources.formats import IMAGE_SUFFIXES

ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet's validation images lie in one folder; this tells their classes
# OpenOOD writes these sets as single files whose names tell label and place in the publisher's order
NUMBERED = {"mnist": r"(?P<label>\d)_(?P<index>\d+)", "svhn": r"(?P<index>\d+)_(?P<label>\d)"}
NUMBERED["fashion_mnist"] = NUMBERED["mnist"]


class Pictures:
    """Listed but not yet read: names, labels (the rank of the class among the classes here), and `read`."""

    def __init__(self, paths, classes, numbered=None):
        """paths: of all image files; classes: path → class; numbered: a pattern of NUMBERED if the names tell it."""
        self._paths = {}
        for path in paths:
            name = f"{classes(path)}/{PurePosixPath(path).name}"
            if name in self._paths:
                raise UserError(f"there are two pictures {name}: {path} and {self._paths[name]}")
            self._paths[name] = path
        found = [re.fullmatch(numbered, PurePosixPath(name).stem) for name in self._paths] if numbered else []
        self.numbered = bool(found) and all(found)
        if self.numbered:
            order = sorted(zip(found, self._paths), key=lambda pair: int(pair[0]["index"]))
            self.names, self.labels = [name for _, name in order], np.array([int(m["label"]) for m, _ in order])
        else:
            self.names = sorted(self._paths, key=lambda name: tuple(name.split("/")))
            folders = sorted({name.split("/")[0] for name in self.names})
            rank = {folder: k for k, folder in enumerate(folders)}
            self.labels = np.array([rank[name.split("/")[0]] for name in self.names], dtype=np.int64)

    def __len__(self):
        return len(self.names)

    def read(self):
        """Yields (name, bytes) in any order."""
        for name, path in self._paths.items():
            yield name, (self.root / path).read_bytes()


class FolderPictures(Pictures):
    def __init__(self, root, numbered=None):
        self.root = Path(root)
        paths = [os.path.relpath(os.path.join(folder, file), root)
                 for folder, _, files in os.walk(root, followlinks=True) for file in files if _is_picture(file)]
        annotations = self.root / ANNOTATIONS
        classes = _annotated(annotations.read_text()) if annotations.is_file() else _folder
        super().__init__(paths, classes, numbered)
        # class folders straight below the root are what ImageFolder wants; an empty one counts as a class, too
        self.nested = all(len(PurePosixPath(path).parts) == 2 for path in paths)
        self.folders = sum(entry.is_dir() for entry in os.scandir(root))


class ArchivePictures(Pictures):
    """`path` has been verified. UserError when it is unsafe, implausibly large, or holds no picture below `inside`."""

    def __init__(self, path, inside, expected):
        self.path, root = path, PurePosixPath(inside)
        names = archives.members(path, archives.Limits.of_pictures(expected))
        below = [name for name in names if PurePosixPath(name).is_relative_to(root)]
        annotations = next((name for name in below if PurePosixPath(name).name == ANNOTATIONS), None)
        below_root = lambda name: _folder(PurePosixPath(name).relative_to(root))
        classes = _annotated(self._text(annotations)) if annotations else below_root
        super().__init__([name for name in below if _is_picture(name)], classes)
        if not self.names:
            raise UserError(f"{path} holds no pictures{f' below {inside}' if inside else ''}")

    def _text(self, member):
        return next(archives.read(self.path, [member]))[1].decode()

    def read(self):
        names = {path: name for name, path in self._paths.items()}
        for path, content in archives.read(self.path, names):
            yield names[path], content


def _is_picture(path):
    path = PurePosixPath(path)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _folder(path):
    return PurePosixPath(path).parent.name or "images"


def _annotated(text):
    classes = dict(line.split("\t")[:2] for line in text.splitlines() if "\t" in line)
    return lambda path: classes.get(PurePosixPath(path).name, "unknown")


def fitted(image, size):
    """A PIL image → size × size, with the bits of torchvision's Resize (bilinear, shorter side) and CenterCrop."""
    if image.size == (size, size):
        return image
    sides = [size * side // min(image.size) for side in image.size]
    image = image.resize(sides, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in sides)
    return image.crop((left, top, left + size, top + size))


def to_arrays(pictures, sizes, exact=0, title=""):
    """{size: (n, size, size, 3) uint8}, the positions of the pictures that they hold, and the names of those left out.

    Args:
        exact: the side that every picture must have; 0: any.

    A picture that no decoder can read is left out. UserError when these are more than one in a hundred, or when one has
    another size than `exact`: then this is another set.
    """
    place = {name: k for k, name in enumerate(pictures.names)}
    arrays = {size: np.zeros((len(place), size, size, 3), np.uint8) for size in sizes}
    left_out = []

    def decode(item):
        name, content = item
        try:
            image = Image.open(io.BytesIO(content)).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return name
        if exact and image.size != (exact, exact):
            raise UserError(f"{name} is {image.size[0]}×{image.size[1]} pixels, expected {exact}×{exact}")
        for size, array in arrays.items():
            array[place[name]] = fitted(image, size)
        return None

    contents, bar = pictures.read(), tqdm(total=len(place), unit="img", desc=title, disable=None, leave=False)
    with bar, ThreadPoolExecutor(min(os.cpu_count(), 8)) as pool:  # Pillow lets go of Python's lock while it works
        while some := list(itertools.islice(contents, 256)):
            left_out += filter(None, pool.map(decode, some))
            bar.update(len(some))
    if len(left_out) > len(place) / 100:
        raise UserError(f"{len(left_out)} of {len(place)} pictures cannot be read, {left_out[0]} for one")
    keep = np.setdiff1d(np.arange(len(place)), [place[name] for name in left_out])
    if left_out:
        arrays = {size: array[keep] for size, array in arrays.items()}
    return arrays, keep, sorted(left_out)


def unpack(pictures, folder, title=""):
    """Write the pictures as <folder>/<class>/<file>, whole or not at all. Returns a SHA-256 of names and contents."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    digests = {}
    bar = tqdm(pictures.read(), total=len(pictures), unit="img", desc=title, disable=None, leave=False)
    try:
        for name, content in bar:
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            digests[name] = hashlib.sha256(content).hexdigest()
        clear(folder)
        part.replace(folder)
    except OSError as error:
        raise UserError(f"could not write {folder}: {error.strerror}. Make room, or choose another --data-dir"
                        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder_digest(digests)


def link(pictures, folder):
    """Let `folder` lead to the pictures where they are. Returns a SHA-256 of names and sizes."""
    clear(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if pictures.nested:
        folder.symlink_to(pictures.root.resolve(), target_is_directory=True)
    else:
        folder.mkdir()
        (folder / "images").symlink_to(pictures.root.resolve(), target_is_directory=True)
    return listing_digest(folder)


def clear(folder):
    """Take away what an earlier `unpack` or `link` has put there, never what a link leads to."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def folder_digest(digests):
    return hashlib.sha256("\n".join(f"{name} {digests[name]}" for name in sorted(digests)).encode()).hexdigest()


def content_digest(folder):
    """What `unpack` returned, computed from the files that are there now."""
    return folder_digest({name: hashlib.sha256(content).hexdigest() for name, content in FolderPictures(folder).read()})


def listing_digest(folder):
    pictures = FolderPictures(folder)
    return folder_digest({name: os.path.getsize(folder / path) for name, path in pictures._paths.items()})
