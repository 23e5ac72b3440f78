"""Image files in folders or archives → arrays in the networks' sizes, or class folders for ImageNet's loader.

The class of an image is what data/image_files.py says; images are in the order of class and file name. At most a few
hundred are in memory at a time; the arrays of one set have at most 125 MB.
"""
import hashlib
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from data.decode import UnreadableImage, open_rgb, resize_center_crop
from data.image_files import ImageTree, is_image_name, unfit_name
from data.label_lists import ANNOTATIONS, labels_of_annotations
from data.sources import archives
from utils.io import OUT_OF_RESOURCES, UserError, decode_text, system_error

# OpenOOD writes these sets as single files whose names tell label and place in the official order
NUMBERED = {"mnist": r"(?P<label>\d)_(?P<index>\d+)", "svhn": r"(?P<index>\d+)_(?P<label>\d)"}
NUMBERED["fashion_mnist"] = NUMBERED["mnist"]
AT_ONCE = 256, 256 << 20  # images and bytes in memory while they are decoded


class ImageSource:
    """Images that are listed but not yet read: names, labels (the rank of the class among the classes here), `read`."""

    def __init__(self, tree, numbered=None):
        """numbered: a pattern of NUMBERED if the names may tell labels and order."""
        self.tree, self.skipped = tree, tree.skipped
        found = [re.fullmatch(numbered, PurePosixPath(name).stem) for name in tree.names] if numbered else []
        self.numbered = bool(found) and all(found)
        self.names, self.paths = tree.names, dict(zip(tree.names, tree.paths))
        if self.numbered:
            order = sorted(zip(found, tree.names), key=lambda pair: int(pair[0]["index"]))
            self.names, self.labels = [name for _, name in order], np.array([int(m["label"]) for m, _ in order])
        else:
            rank = {name: k for k, name in enumerate(sorted(set(tree.classes)))}
            self.labels = np.array([rank[name] for name in tree.classes], dtype=np.int64)

    def __len__(self):
        return len(self.names)


class FolderSource(ImageSource):
    """The images below a folder. UserError when their classes cannot be known."""

    def __init__(self, root, numbered=None, classes=0):
        self.root = Path(root)
        super().__init__(ImageTree.open(root, expected=classes), numbered)
        self.classes = len(set(self.tree.classes))

    def read(self):
        """Yields (name, bytes, or an UnreadableImage) in any order."""
        for name, path in self.paths.items():
            try:
                yield name, (self.root / path).read_bytes()
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    raise system_error(error, self.root / path) from error
                yield name, UnreadableImage(error.strerror)


class ArchiveSource(ImageSource):
    """The images of an archive below `inside`. `path` has been verified.

    UserError when it is unsafe, implausibly large, or holds no image there.
    """

    def __init__(self, path, inside, expected, classes=0):
        self.path, root = path, PurePosixPath(inside)
        below = {str(PurePosixPath(name).relative_to(root)): name
                 for name in archives.members(path, archives.Limits.of_images(expected))
                 if PurePosixPath(name).is_relative_to(root)}
        images = {name: unfit_name(name) for name in below if is_image_name(name)}
        skipped = [(name, reason) for name, reason in images.items() if reason]
        annotations = next((name for name in below if PurePosixPath(name).name == ANNOTATIONS), None)

        def labels(paths):
            text = decode_text(next(archives.read_members(path, [below[annotations]]))[1])
            return labels_of_annotations(text, f"{path}/{below[annotations]}", paths)

        wanted = [name for name, reason in images.items() if not reason]
        super().__init__(ImageTree.of(path, wanted, skipped, expected=classes,
                                      labels=labels if annotations else lambda paths: None))
        if not self.names:
            raise UserError(f"{path} holds no images{f' below {inside}' if inside else ''}")
        self._members = {below[path]: name for name, path in self.paths.items()}

    def read(self):
        for member, content in archives.read_members(self.path, self._members):
            yield self._members[member], content


def to_arrays(source, sizes, exact=0, title="", unreadable=0.01):
    """{size: (n, size, size, 3) uint8}, the positions of the images that they hold, and the names of those left out.

    Args:
        exact: the side that every image must have; 0: any.
        unreadable: the share of images that may be left out because they cannot be decoded; one always may.

    UserError when more are unreadable, or when one has another size than `exact`: then this is another set.
    """
    place = {name: k for k, name in enumerate(source.names)}
    arrays = {size: np.zeros((len(place), size, size, 3), np.uint8) for size in sizes}
    left_out = {}

    def decode(item):
        name, content = item
        try:
            if isinstance(content, UnreadableImage):
                raise content
            with open_rgb(content) as image:
                if exact and image.size != (exact, exact):
                    raise UserError(f"{name} is {image.size[0]}×{image.size[1]} pixels, expected {exact}×{exact}")
                for size, array in arrays.items():
                    array[place[name]] = resize_center_crop(image, size)
        except UnreadableImage as error:
            left_out[name] = str(error)

    bar = tqdm(total=len(place), unit="img", desc=title, disable=None, leave=False)
    with bar, ThreadPoolExecutor(min(os.cpu_count(), 8)) as pool:  # Pillow releases Python's lock while it works
        for some in _chunks(source.read()):
            list(pool.map(decode, some))
            bar.update(len(some))
    if len(left_out) > max(1, len(place) * unreadable):
        name, reason = min(left_out.items())
        raise UserError(f"{len(left_out)} of {len(place)} images cannot be read, for instance {name} ({reason})")
    keep = np.setdiff1d(np.arange(len(place)), [place[name] for name in left_out])
    if left_out:
        arrays = {size: array[keep] for size, array in arrays.items()}
    return arrays, keep, sorted(left_out)


def _chunks(contents):
    """Lists of (name, content) of so many images and bytes as AT_ONCE says."""
    some, size = [], 0
    for name, content in contents:
        some.append((name, content))
        size += len(content) if isinstance(content, bytes) else 0
        if len(some) >= AT_ONCE[0] or size >= AT_ONCE[1]:
            yield some
            some, size = [], 0
    if some:
        yield some


def unpack(source, folder, title=""):
    """Write the images as <folder>/<class>/<file>, whole or not at all. Returns a SHA-256 of names and contents."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    digests = {}
    bar = tqdm(source.read(), total=len(source), unit="img", desc=title, disable=None, leave=False)
    try:
        for name, content in bar:
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            digests[name] = hashlib.sha256(content).hexdigest()
        remove_images(folder)
        part.replace(folder)
    except OSError as error:
        raise system_error(error, folder, "write") or UserError(
            f"could not write {folder}: {error.strerror}. Make room, or choose another --data-dir") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder_digest(digests)


def link(source, folder):
    """Let `folder` lead to the images where they are. Returns a SHA-256 of names and sizes."""
    remove_images(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if any("/" in path for path in source.tree.paths):
        folder.symlink_to(source.root.resolve(), target_is_directory=True)
    else:
        folder.mkdir()
        (folder / "images").symlink_to(source.root.resolve(), target_is_directory=True)
    return listing_digest(folder)


def remove_images(folder):
    """Remove what an earlier `unpack` or `link` has put there, never what a link leads to."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def folder_digest(digests):
    return hashlib.sha256("\n".join(f"{name} {digests[name]}" for name in sorted(digests)).encode()).hexdigest()


def unpacked_digest(folder):
    """What `unpack` returned, computed from the files that are there now."""
    return folder_digest({name: hashlib.sha256(content).hexdigest() for name, content in FolderSource(folder).read()
                          if isinstance(content, bytes)})


def listing_digest(folder):
    return folder_digest({name: os.path.getsize(folder / path) for name, path in FolderSource(folder).paths.items()})
