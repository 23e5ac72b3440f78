"""The image files below a folder and their classes: one rule for all readers.

The class of an image is the folder below the set's root that it lies in, at any depth. Folders around all class folders
are passed over (val/val/<class>/…). Where no class folders are, a file of labels in the folder or beside it decides
(data/label_lists.py). What cannot be known is refused.
"""
import errno
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data.label_lists import KAGGLE, LABEL_LISTS, WNID, annotated_labels, labels_beside
from utils.io import OUT_OF_RESOURCES, UserError, system_error

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
# of file systems, archives and network disks, some of which keep deleted pictures; small letters
NO_FOLDERS = ("__macosx", "lost+found", "$recycle.bin", "recycler", "system volume information", "found.000",
              "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "network trash folder",
              "temporary items")
MOST_LEVELS = 100  # of folders; deeper ones are a mistake of some program
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}


# ---- which files are images ----

def find_images(root):
    """(paths, skipped): the image files below `root`, relative to it, in the order of their parts; [(path, why)].

    Links to files and folders are followed. Left out by name are hidden files and AppleDouble files, dangling links,
    links that lead in a circle, what is no regular file, and names that are not UTF-8. UserError when a folder cannot
    be read.
    """
    paths, skipped = [], []
    _walk(os.fspath(root), "", (), paths, skipped)
    return paths, skipped


def _walk(root, folder, above, paths, skipped):
    """above: (device, inode) of the folders on the way, to notice a circle."""
    here = os.path.join(root, folder)
    try:
        identity = os.stat(here)
        with os.scandir(here) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        if folder and error.errno in (errno.EACCES, errno.ENOENT, errno.ELOOP):
            skipped.append((folder, error.strerror))
            return
        raise system_error(error, here) or UserError(f"could not read {here}: {error.strerror}") from error
    if (identity.st_dev, identity.st_ino) in above:
        skipped.append((folder, "a circular link"))
        return
    above = (*above, (identity.st_dev, identity.st_ino))
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if _is_folder(entry):
            if reason := unfit_name(entry.name):
                skipped += [] if is_hidden(entry.name) else [(path, reason)]
            elif len(above) >= MOST_LEVELS:
                skipped.append((path, f"it lies more than {MOST_LEVELS} folders deep"))
            else:
                _walk(root, path, above, paths, skipped)
        elif is_image_name(entry.name):
            if reason := _unfit(entry):
                skipped.append((path, reason))
            else:
                paths.append(path)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_image_name(name):
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name):
    return name.startswith(".") or name.lower() in NO_FOLDERS


def _unfit(entry):
    """Why a file with an image's name is left out, or ""."""
    if reason := unfit_name(entry.name):
        return reason
    try:
        if entry.is_file(follow_symlinks=False) or stat.S_ISREG(entry.stat().st_mode):
            return ""
        return "not a regular file"
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise system_error(error, entry.path) from error
        return "a link to nowhere" if entry.is_symlink() else error.strerror


def unfit_name(path):
    """Why a path, of a folder or of an archive, is left out because of its name, or ""."""
    name = PurePosixPath(path).name
    if name.startswith("._"):
        return "an AppleDouble file of macOS"
    if any(is_hidden(part) for part in PurePosixPath(path).parts):
        return "hidden"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return ""


def report_skipped(skipped, where, most=5):
    """Lines that name what find_images left out."""
    lines = [f"left out {printable_path(os.path.join(where, path))}: {why}" for path, why in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"left out {len(skipped) - most:,} more files below {printable_path(os.fspath(where))}")
    return lines


def printable_path(path):
    """A path that may be no UTF-8, as text for any terminal."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


# ---- which class each shows ----

@dataclass(frozen=True)
class ImageTree:
    """The image files of a set, in the order of class and name, and the class of each."""

    root: object  # the folder (Path), or what the paths are relative to
    paths: list  # of each image, relative to the root
    classes: list  # the class name of each image
    names: list  # <class>/<rest of the path>, different for each image
    skipped: list = field(default_factory=list)  # [(path, why)]
    labelled: bool = True  # False: images without class folders and without a file of labels

    def __len__(self):
        return len(self.paths)

    @classmethod
    def open(cls, root, known=(), expected=0, lists=False):
        """The tree of a folder.

        Args:
            known: class names in the order of their numbers, if they are known from elsewhere.
            expected: the number of classes, if it is known.
            lists: whether files of labels beside the folder count, and not only Tiny ImageNet's in it.
        UserError when the classes cannot be known.
        """
        root = Path(root)
        paths, skipped = find_images(root) if root.is_dir() else ([], [])
        return cls.of(root, paths, skipped, known, expected, lambda paths: (
            labels_beside(root, paths, known) if lists else annotated_labels(root, paths)))

    @classmethod
    def of(cls, root, paths, skipped=(), known=(), expected=0, labels=lambda paths: None):
        """The tree of paths.

        Args:
            labels: paths of one folder of images → {path: class}, or None where no file of labels is.
        """
        level, found = class_level(paths, root, known, expected), None
        if level is None or _is_one_folder(paths, level, known):
            found = labels(paths)  # one folder of images: a file of labels may tell classes
        stray = [path for path in paths if level is not None and found is None and path.count("/") <= level]
        skipped = [*skipped, *((path, "it lies beside the class folders") for path in stray)]
        if level == 0 and found is None and not stray:  # <class>/<image> is the name, for a million images, too
            names = sorted(paths, key=_in_order)
            return cls(root, names, [name.partition("/")[0] for name in names], names, skipped)
        if found is not None:
            rows = [(found[path], path.rsplit("/", 1)[-1], path) for path in paths]
        elif level is None:
            rows = [("images", path, path) for path in paths]
        else:
            rows = [(*path.split("/", level + 1)[level:], path) for path in paths if path.count("/") > level]
        named = [(f"{name}/{rest}", name, path) for name, rest, path in rows]
        if len({name for name, _, _ in named}) < len(named):  # a class in two folders
            named = [(f"{name}/{path}", name, path) for _, name, path in named]
        named.sort(key=lambda row: _in_order(row[0]))
        names, classes, paths = map(list, zip(*named)) if named else ([], [], [])
        return cls(root, paths, classes, names, skipped, found is not None or level is not None)


def _in_order(path):
    """A key that sorts paths by their parts."""
    return path.replace("/", "\0")


def _is_one_folder(paths, level, known):
    """Whether all images lie in one folder whose name need not be a class."""
    folders = {path.split("/", level + 1)[level] for path in paths if path.count("/") > level}
    return len(folders) == 1 and not WNID.fullmatch(*folders) and not folders <= set(known)


def class_level(paths, root="", known=(), expected=0):
    """How many folders stand above the class folders; None when all images lie in the root itself.

    Args:
        paths: of the images, relative to `root`, with slashes.
        known, expected: as for ImageTree.open.
    UserError when several levels of folders might be the classes.
    """
    depth = max((path.count("/") for path in paths), default=0)
    if not depth:
        return None
    known = set(known)
    for level in range(depth):
        names = {path.split("/", level + 1)[level] for path in paths if path.count("/") > level}
        below = {path.split("/", level + 2)[level + 1] for path in paths if path.count("/") > level + 1}
        straight = any(path.count("/") == level + 1 for path in paths)  # images lie in these very folders
        if not below or names <= known or all(map(WNID.fullmatch, names)) or len(names) == expected > 1:
            break
        if len(names) == 1 and (not straight or len(below) > 1):
            continue  # a folder around all the others
        if straight or len(below) == 1 and not below <= known:
            break  # <class>/images/…
        if not (below <= known or all(map(WNID.fullmatch, below)) or len(below) == expected):
            raise _ambiguous(root, sorted(names), sorted(below))
    if len(names) > 1 and names <= SPLITS and not names <= known:
        raise _ambiguous(root, sorted(names), sorted(below))
    return level


def _ambiguous(root, names, below):
    if set(names) <= SPLITS:
        return UserError(f"{root} holds {' and '.join(names)}: name one of these folders")
    return UserError(f"the images below {root} lie two folders deep ({names[0]}/{below[0]} and others). Which of the "
                     "two is the class is unknown: arrange them as <class>/<image>")


_reported = set()  # folders whose skipped files have been named by this process


def labelled_files(root, classes=None, advice="", keeps=None, expected=0, needed=True):
    """(files, labels, classes): paths below `root` in a fixed order, a class number each, and what the numbers mean.

    Args:
        root: a folder of class folders, or of images with a file of labels in it or beside it.
        classes: names in the order of their numbers, when another split has settled them; else the sorted names.
        advice: ends the message when there is nothing.
        keeps: class name → whether it is wanted; numbers count the wanted ones. None: all are.
        expected: the number of classes, if it is known; it helps to tell class folders from those around them.
        needed: whether the labels mean something, as those of OOD images do not.

    UserError when there are no images, an image has no label, or a class is not among `classes`.
    """
    tree = ImageTree.open(root, classes or (), expected, lists=needed)
    report(tree)
    if len(tree) and needed and not tree.labelled:
        raise UserError(f"{root} holds {len(tree)} images without class folders: put a file of labels into it or "
                        f"beside it, for instance {KAGGLE} or {LABEL_LISTS[0]} with a file and its class a line")
    keeps = keeps or (lambda name: True)
    wanted = {name: keeps(name) for name in set(tree.classes)}
    rows = sorted(((path, name) for path, name in zip(tree.paths, tree.classes) if wanted[name]),
                  key=lambda row: _in_order(row[0]))
    if not rows:
        raise UserError(f"{root} holds no class folders with images, and no images with a file of labels. {advice}")
    classes = [name for name in classes or sorted(wanted) if keeps(name)]
    number = {name: k for k, name in enumerate(classes)}
    if strange := sorted({name for _, name in rows} - number.keys()):
        raise UserError(f"{root} has {len(strange)} classes that the training folder does not have, for instance "
                        f"{strange[0]}: both must have images of the same classes")
    return [str(tree.root / path) for path, _ in rows], [number[name] for _, name in rows], classes


def class_names(root):
    """The names of a folder's classes, sorted: those that images are there of; [] where the folder is missing.

    The usual <class>/<image> is looked at without listing every image.
    """
    root = Path(root)
    if not root.is_dir():
        return []
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not unfit_name(folder.name)]
    filled = [folder.name for folder in folders if _has_image(folder)]
    if len(filled) < 2 or len(filled) < len(folders):
        filled = sorted(set(ImageTree.open(root).classes))
    return filled


def _has_image(folder):
    with os.scandir(folder) as entries:
        return any(is_image_name(entry.name) and not _unfit(entry) for entry in entries)


def report(tree):
    """Name the files that were left out, once a process."""
    if tree.skipped and tree.root not in _reported:
        _reported.add(tree.root)
        print("\n".join(report_skipped(tree.skipped, tree.root)), file=sys.stderr)
