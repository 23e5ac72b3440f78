"""Files with the class of each image, for folders without class folders, in the forms that are in use. Nothing is
moved.

Kaggle's LOC_val_solution.csv, the development kit's ground truth with its meta.mat, a list "file class" a line, or a
class a line for images in the order of their numbers. Columns are separated by spaces, tabs, commas or semicolons, in
any encoding; names may hold spaces.
"""
import csv
import re
from collections import Counter
from pathlib import PurePosixPath

from utils.io import UserError, read_text

KAGGLE, DEVKIT = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt"
ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet's
LABEL_LISTS = ("val.txt", "val_map.txt", ANNOTATIONS, "labels.txt")  # a file name and its class a line
IN_ORDER = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt")  # a class per line
NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")
WNID = re.compile(r"n\d{8}")  # a name of ImageNet's classes
CLASS_NUMBER, ANY_NUMBER = re.compile(r"[0-9]{1,9}"), re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.I)


def labels_beside(root, paths, classes=()):
    """{path: class name} by the file of labels with the images, in `root`, or beside it; None where there is none.

    Args:
        paths: of image files in one folder, relative to root.
        classes: names of the classes in the order of their numbers, for lists that give numbers.
    UserError when a list says nothing of an image, or numbers classes that are not known.
    """
    for place in dict.fromkeys([root / PurePosixPath(paths[0]).parent, root, root.parent] if paths else ()):
        for find in (_kaggle, _devkit, _list, _in_order):
            if found := find(place, paths):
                path, labels = found
                return _complete(path, root, paths, _named(path, labels, classes))
    return None


def annotated_labels(root, paths):
    """The same by Tiny ImageNet's val_annotations.txt alone."""
    for place in dict.fromkeys([root, root / PurePosixPath(paths[0]).parent] if paths else ()):
        if (place / ANNOTATIONS).is_file():
            return labels_of_annotations(read_text(place / ANNOTATIONS), place / ANNOTATIONS, paths)
    return None


def labels_of_annotations(text, path, paths):
    """The same by its text."""
    return _complete(path, PurePosixPath(path).parent, paths, _of_lines(path, text, paths))


def _named(path, labels, classes):
    """Numbers, from 0, become class names, unless classes are called by numbers."""
    numbers = [label for label in labels.values() if CLASS_NUMBER.fullmatch(label)]
    if len(numbers) < len(labels) or not labels or set(numbers) <= set(classes):
        return labels
    if not classes:
        raise UserError(f"{path} numbers its classes, but there is no training folder that names them")
    if all(map(CLASS_NUMBER.fullmatch, classes)):  # 7 may be the name 07, but never the place of another number
        called = {int(name): name for name in classes}
        if strange := [number for number in numbers if int(number) not in called or len(called) < len(classes)]:
            raise UserError(f"{path} has a class {strange[0]}, and the classes of the training folder are called by "
                            f"other numbers, from {min(called)} to {max(called)}: write these names into it")
        return {image: called[int(label)] for image, label in labels.items()}
    if "0" not in numbers and not any(map(_says_class_0, read_text(path).splitlines())):
        raise UserError(f"{path} has no class 0, so it is unknown whether its numbers begin at 0 or at 1. Write the "
                        "names of the classes into it")
    if (most := max(map(int, numbers))) >= len(classes):
        raise UserError(f"{path} numbers a class {most}, and there are {len(classes)} classes, from 0")
    return {image: classes[int(label)] for image, label in labels.items()}


def _says_class_0(line):
    """Whether a line, of whatever image, ends with the class 0, which is not the last number of a box."""
    *before, last = re.split(r"[\s,;]+", line.replace('"', " ").strip(" \t,;"))
    return last == "0" and not (len(before) > 1 and ANY_NUMBER.fullmatch(before[-1]))


def _complete(path, root, paths, labels):
    if missing := [image for image in paths if image not in labels]:
        raise UserError(f"{path} has no label for {len(missing)} of the {len(paths)} images in {root}, for "
                        f"instance {missing[0]}")
    if strange := sorted(name for name in set(labels.values()) if "/" in name or name.startswith(".")):
        raise UserError(f"{path} has a class {strange[0]!r}, which cannot be the name of a class folder: write another")
    return labels


# ---- each kind of file: (path, {image: label as text}) or None ----

def _kaggle(place, paths):
    path = place / KAGGLE
    if not path.is_file():
        return None
    text = read_text(path)
    try:
        rows = csv.DictReader(text.splitlines(), delimiter=_separator(text))
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path} has no columns ImageId and PredictionString: put Kaggle's own file there")
        rows = list(rows)
    except csv.Error as error:
        raise UserError(f"{path} is damaged ({error}): put Kaggle's own file there") from error
    by_name = _by_name(paths)
    labels = {}
    for row in rows:
        image, words = by_name.get((row["ImageId"] or "").strip()), (row["PredictionString"] or "").split()
        if image and words:
            _put(labels, image, words[0], path)
    return path, labels


def _put(labels, image, label, path):
    if labels.setdefault(image, label) != label:
        raise UserError(f"{path} gives {image} two classes, {labels[image]} and {label}: remove one of the lines")


def _devkit(place, paths):
    path = next((path for depth in ("", "*/", "*/*/") for path in sorted(place.glob(depth + DEVKIT))), None)
    return path and (path, _by_number(path, devkit_names(path), paths))


def _list(place, paths):
    path = next((place / name for name in LABEL_LISTS if (place / name).is_file()), None)
    return path and (path, _of_lines(path, read_text(path), paths))


def _in_order(place, paths):
    path = next((place / name for name in IN_ORDER if (place / name).is_file()), None)
    return path and (path, _by_number(path, [_class_of_line(path, line) for line in
                                             read_text(path).rstrip().splitlines()], paths))


def _class_of_line(path, line):
    """The class of a line that has nothing else: a wnid, which words may follow, or the whole line."""
    words = line.replace('"', " ").split()
    if not words:
        raise UserError(f"{path} has an empty line between its classes, so it is unknown which image each is of")
    return words[0] if WNID.fullmatch(words[0]) else " ".join(words)


def devkit_names(path):
    """The wnid of each validation image, by its number, from the ILSVRC 2012 development kit."""
    from scipy.io import loadmat  # here, because few need it

    meta_file = path.parent / "meta.mat"
    try:
        meta = loadmat(meta_file, squeeze_me=True)["synsets"]
        wnids = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in meta}
        return [wnids[int(number)] for number in read_text(path).split()]
    except UserError:
        raise
    except Exception as error:  # SciPy raises many kinds
        raise UserError(f"{path} and its {meta_file.name} cannot be used ({error!r}): unpack the development kit again"
                        ) from error


def _by_number(path, labels, paths):
    """Line k is the label of image number k, whichever images are there."""
    numbers = {image: NUMBER.fullmatch(PurePosixPath(image).stem) for image in paths}
    if any(numbers.values()):
        if strange := [image for image, found in numbers.items() if not found]:
            raise UserError(f"{path} tells classes by the numbers of images, and {strange[0]} has none: move it away")
        numbers = {image: int(found[1]) for image, found in numbers.items()}
        if not 1 <= min(numbers.values()) <= max(numbers.values()) <= len(labels):
            raise UserError(f"{path} has {len(labels)} lines, and there is an image number {max(numbers.values())}: "
                            "they do not belong together")
        return {image: labels[number - 1] for image, number in numbers.items()}
    if len(labels) != len(paths):
        raise UserError(f"{path} has {len(labels)} lines, and there are {len(paths)} images whose names do not tell "
                        "their numbers: they must be as many")
    if sorted(paths) != sorted(paths, key=_natural):
        raise UserError(f"{path} has a class a line, and the order of the images cannot be known: {sorted(paths)[1]} "
                        "comes second by its letters and not by its number. Write names with leading zeros")
    return dict(zip(sorted(paths), labels))


def _natural(path):
    """A key that sorts names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,18})", path)]


def _of_lines(path, text, paths):
    """image → label of the lines of a list; lines of other images are passed over."""
    by_name, labels = _by_name(paths), {}
    for line in text.splitlines():
        name, *columns = _columns(line, by_name) or [""]
        if columns and columns[0]:
            _put(labels, image := by_name[_bare(name)], columns[0], path)
            if len(columns) > 1 and not _is_first(columns):
                raise UserError(f"{path} has several words or numbers after {image}, and it is unknown which is the "
                                "class. Write a tab between the file and its class, and nothing else")
    return labels


def _is_first(columns):
    """Whether the first of several columns must be the class: a wnid, or a name before numbers only."""
    first, *others = columns
    return bool(WNID.fullmatch(first)) or not ANY_NUMBER.fullmatch(first) and all(map(ANY_NUMBER.fullmatch, others))


def _columns(line, by_name):
    """The columns of a line: separated by tabs, semicolons, commas or spaces, which names may hold, too."""
    for separator in "\t;,":
        words = _split(line, separator)
        if len(words) > 1 and _bare(words[0]) in by_name:
            return words
    words = _split(" ".join(line.split()), " ")
    for count in range(1, len(words)):  # the shortest name that is an image's
        name = " ".join(words[:count])
        if _bare(name) in by_name:
            return [name, *words[count:]]
    return []


def _split(line, separator):
    """The columns of a line, without quotes around them; the last ones are not empty."""
    try:
        words = [word.strip() for row in csv.reader([line], delimiter=separator, skipinitialspace=True) for word in row]
    except csv.Error:  # longer than any name
        return []
    while words and not words[-1]:
        words.pop()
    return words


def _bare(name):
    return PurePosixPath(name.strip('"').replace("\\", "/")).name


def _by_name(paths):
    """The bare name of an image, with and, where only one has it, without its ending → its path."""
    stems = Counter(PurePosixPath(path).stem for path in paths)
    names = {stem: path for path in paths if stems[stem := PurePosixPath(path).stem] == 1}
    return names | {PurePosixPath(path).name: path for path in paths}


def _separator(text):
    first = text.split("\n", 1)[0]
    return max(",;\t", key=first.count)
