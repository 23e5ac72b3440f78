"""ImageNet's files as users keep them: class folders, or a flat folder with a file of labels. Nothing is moved."""
import csv
from pathlib import Path

from scipy.io import loadmat

from utils.io import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
KAGGLE, DEVKIT = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt"
LISTS = ("val.txt", "val_map.txt", "val_annotations.txt", "labels.txt")  # a file name and its class a line
IN_ORDER = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt")  # a class a line, files in order


def labelled_files(root, classes=None, advice="", keeps=None):
    """(files, labels, classes): paths below `root` in a fixed order, a class number each, and what the numbers mean.

    Args:
        root: a folder of class folders (images at any depth in them), or of images with a file of labels in it or
            beside it: Kaggle's LOC_val_solution.csv, the development kit's ground truth with its meta.mat, a list
            "file class" a line (the class a wnid, or a number from 0 among the sorted classes), or a class a line.
        classes: names in the order of their numbers, when another split has settled them; else the sorted names.
        advice: ends the message when there is nothing.
        keeps: class name → whether it is wanted; numbers count the wanted ones. None: all are.

    UserError when there are no images, an image has no label, or a class is not among `classes`.
    """
    root = Path(root)
    keeps = keeps or (lambda name: True)
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    pairs = [(file, folder.name) for folder in folders if keeps(folder.name) for file in images_below(folder)]
    if not pairs and root.is_dir() and not any(map(images_below, folders)):
        pairs = [(file, name) for file, name in flat(root, classes) if keeps(name)]
    if not pairs:
        raise UserError(f"{root} holds no class folders with images, and no images with a file of labels. {advice}")
    classes = [name for name in classes or sorted({name for _, name in pairs}) if keeps(name)]
    number = {name: k for k, name in enumerate(classes)}
    strange = sorted({name for _, name in pairs} - number.keys())
    if strange:
        raise UserError(f"{root} has {len(strange)} classes that the training folder has not, {strange[0]} for one: "
                        "both must have the same class names")
    return [str(file) for file, _ in pairs], [number[name] for _, name in pairs], classes


def images_below(folder):
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def flat(root, classes):
    """(file, class name) pairs of a folder without class folders; [] when it has no images."""
    files = images_below(root)
    if not files:
        return []
    by_name = {file.name: file for file in files} | {file.stem: file for file in files}
    for place in (root, root.parent):
        if (path := place / KAGGLE).is_file():
            with open(path) as file:
                named = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
        elif (path := next(iter(place.rglob(DEVKIT)), place)).is_file():
            named = dict(zip((file.name for file in files), devkit_names(path)))
        elif path := next((place / name for name in LISTS if (place / name).is_file()), None):
            lines = (line.split() for line in path.read_text().splitlines())
            named = {Path(words[0]).name: words[1] for words in lines if len(words) > 1}
        elif path := next((place / name for name in IN_ORDER if (place / name).is_file()), None):
            names = path.read_text().split()
            if len(names) != len(files):
                raise UserError(f"{path} has {len(names)} lines, {root} {len(files)} images: they must be as many")
            named = dict(zip((file.name for file in files), names))
        else:
            continue
        if all(name.isdigit() for name in named.values()):
            if not classes:
                raise UserError(f"{path} numbers its classes, and there is no training folder that says which is which")
            named = {file: classes[int(name)] for file, name in named.items() if int(name) < len(classes)}
        pairs = sorted((by_name[name], label) for name, label in named.items() if name in by_name)
        if len(pairs) < len(files):
            unnamed = next(file for file in files if file not in {pair[0] for pair in pairs})
            raise UserError(f"{path} says nothing of {len(files) - len(pairs)} of the {len(files)} images in {root}, "
                            f"{unnamed.name} for one")
        return pairs
    raise UserError(f"{root} holds {len(files)} images without class folders: put a file of labels into it or beside "
                    f"it, for instance {KAGGLE} or {LISTS[0]} with a file and its class a line")


def devkit_names(path):
    """The wnid of each validation image, in the order of the files, from the ILSVRC 2012 development kit."""
    meta = loadmat(path.parent / "meta.mat", squeeze_me=True)["synsets"]
    wnids = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in meta}
    return [wnids[int(number)] for number in path.read_text().split()]
