"""Any folder of images as an OOD set, in any layout and without preparation."""
import hashlib
import os
import sys
from functools import cached_property
from pathlib import Path

import numpy as np

from data.datasets import CATALOG
from data.decode import UnreadableImage, open_rgb, resize_center_crop
from data.image_files import find_images, printable_path, report_skipped
from data.splits import Split
from data.user_sets import check_name
from utils.io import UserError


class OODFolder(Split):
    """All images below a folder, as OOD images for the networks of `id_dataset`: `files`, and for small networks
    `images`, which are decoded when they are asked for.

    Args:
        name: of the set in tables; letters, digits and _.
        path: the folder; how it is arranged does not matter. Files that are no images are named and left out.
        id_dataset: in CATALOG.

    unreadable: {file: why} of those that could not be decoded so far; `images` is without them.
    note: what a table must say of the set.
    UserError when the name is taken, or when the folder is missing or holds no image.
    """

    def __init__(self, name, path, id_dataset):
        check_name(name)
        self.name, self.split, self.id_dataset, self.root = name, "test", id_dataset, Path(path)
        self.size, self.record, self.unreadable = CATALOG[id_dataset].size, {}, {}
        if not self.root.is_dir():
            raise UserError(f"--ood {name}={path}: there is no such folder")
        paths, skipped = find_images(self.root)
        if skipped:
            print("\n".join(report_skipped(skipped, self.root)), file=sys.stderr)
        if not paths:
            raise UserError(f"--ood {name}={path}: the folder holds no images")
        self.files, self.names = [str(self.root / path) for path in paths], paths
        self.labels, self.class_names = np.zeros(len(paths), np.int64), None
        self.advice = f"Name another folder: --ood {name}=DIR"
        self.note = self._overlap()

    @property
    def source(self):
        return f"folder {self.root}"

    def _overlap(self):
        """Says which folders have the name of an in-distribution class, whose images might be no OOD images."""
        known = {text.lower() for text in CATALOG[self.id_dataset].class_names}
        same = sorted({part for path in self.names for part in path.split("/")[:-1] if part.lower() in known})
        if not same:
            return ""
        return (f"its folders {', '.join(same[:5])}{' …' * (len(same) > 5)} have names of classes of "
                f"{CATALOG[self.id_dataset].title}")

    @cached_property
    def digest(self):
        """Of names, lengths and times of change."""
        content = hashlib.sha256()
        for file, name in zip(self.files, self.names):
            found = os.stat(file)
            content.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
        return f"{len(self.files)} files, {content.hexdigest()}"

    @property
    def images(self):
        arrays = []
        for file in self.files:
            try:
                with open_rgb(file) as image:
                    arrays.append(np.asarray(resize_center_crop(image, self.size)))
            except UnreadableImage as error:
                if file not in self.unreadable:
                    print(f"skipped {printable_path(file)}: {error}", file=sys.stderr)
                self.unreadable[file] = str(error)
        if not arrays:
            raise UserError(f"none of the {len(self.files)} images below {self.root} can be read")
        return np.stack(arrays)
