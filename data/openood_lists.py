"""OpenOOD's image lists: their names, and the image of a prepared set that each line means.

A list has a line per image, `relative/path label`; OOD images have −1. `prepare.py` copies the lists that it finds in a
mirror to data/benchmark_imglist/. Prepared natural images keep their file names. CIFAR, MNIST and SVHN have none:
OpenOOD numbers them in the official order, MNIST from 0, SVHN from 000001 (both write the label beside the number, and
every label fits), CIFAR within each class from 0001 (the convention of cifar2png; the lists cannot prove it).

A set that has neither file names nor such numbers (notMNIST in idx files) gets our own, <class>/<position>, which no
list of OpenOOD's has: lists that are written here can be read back.
"""
import re
from pathlib import Path, PurePosixPath

from data.datasets import CATALOG
from utils.io import UserError, read_text, write_text
from utils.script import say

LIST_LINE = re.compile(r'\s*"?(?P<image>[^"]*?[^"\s;,])"?[\s;,]+"?(?P<label>-?[0-9]{1,9})"?[\s;,]*')

# in-distribution set → its folder of lists, its validation and test list, and each OOD set's list; with the number
# of images in each
IMAGE_LISTS = {
    "mnist": ("mnist", {
        "validation": ("val_mnist", 996), "test": ("test_mnist", 9_004),
        "notmnist": ("test_notmnist", 17_724), "fashion_mnist": ("test_fashionmnist", 10_000),
        "textures": ("test_texture", 5_640), "cifar10": ("test_cifar10", 10_000), "tinyimagenet": ("test_tin", 10_000),
        "places365": ("test_places365", 36_500)}),
    "cifar10": ("cifar10", {
        "validation": ("val_cifar10", 1_000), "test": ("test_cifar10", 9_000),
        "cifar100": ("test_cifar100", 9_000), "tinyimagenet": ("test_tin", 7_793), "mnist": ("test_mnist", 70_000),
        "svhn": ("test_svhn", 26_032), "textures": ("test_texture", 5_640), "places365": ("test_places365", 35_195)}),
    "cifar100": ("cifar100", {
        "validation": ("val_cifar100", 1_000), "test": ("test_cifar100", 9_000),
        "cifar10": ("test_cifar10", 10_000), "tinyimagenet": ("test_tin", 6_526), "mnist": ("test_mnist", 70_000),
        "svhn": ("test_svhn", 26_032), "textures": ("test_texture", 5_640), "places365": ("test_places365", 33_773)}),
    "imagenet1k": ("imagenet", {
        "validation": ("val_imagenet", 5_000), "test": ("test_imagenet", 45_000),
        "ssb_hard": ("test_ssb_hard", 49_000), "ninco": ("test_ninco", 5_879),
        "inaturalist": ("test_inaturalist", 10_000),
        "textures": ("test_textures", 5_160), "openimage_o": ("test_openimage_o", 15_869)}),
}
IMAGE_LISTS["imagenet200"] = "imagenet200", {
    **IMAGE_LISTS["imagenet1k"][1], "validation": ("val_imagenet200", 1_000), "test": ("test_imagenet200", 9_000)}
# the classes whose images none of these lists names: they show a class of the in-distribution set
OVERLAPPING = {
    ("cifar10", "tinyimagenet"):
        "n01641577 n01644900 n01855672 n02002724 n02056570 n02058221 n02085620 n02094433 n02099601 n02099712 n02106662 "
        "n02113799 n02123045 n02123394 n02124075 n02814533 n03100240 n03447447 n03662601 n03670208 n03796401 n03977966 "
        "n04146614 n04285008",
    ("cifar100", "tinyimagenet"):
        "n01443537 n01698640 n01742172 n01774384 n01774750 n01944390 n01983481 n02129165 n02132136 n02165456 n02206856 "
        "n02233338 n02279972 n02281406 n02403003 n02437312 n02480495 n02481823 n02504458 n02793495 n02823428 n02843684 "
        "n02917067 n03085013 n03179701 n03201208 n03637318 n03649909 n03796401 n03937543 n03983396 n04099969 n04146614 "
        "n04311004 n04328186 n04366367 n04399382 n04417672 n04465501 n04487081 n07579787 n07720875 n07734744 n07747607 "
        "n09193705 n09246464 n09428293",
    ("imagenet1k", "textures"): "bubbly cobwebbed honeycombed spiralled",
}
OVERLAPPING["imagenet200", "textures"] = OVERLAPPING["imagenet1k", "textures"]
BY_CLASS = ("cifar10", "cifar100")  # numbered within each class; OpenOOD's folders have the classes' names
JPEG_COPIES = ("mnist", "fashion_mnist", "svhn")  # OpenOOD's images of these are JPEG files, not the original pixels
# OpenOOD's folders, where they are called otherwise than our sets
FOLDERS = {"tinyimagenet": "tin/val/images", "textures": "texture", "fashion_mnist": "fashionmnist",
           "imagenet1k": "imagenet_1k/val", "imagenet200": "imagenet_1k/val"}


def list_path(dataset, which, folder):
    """The list of the validation or test images, or of an OOD set, below benchmark_imglist or another folder."""
    subfolder, lists = IMAGE_LISTS[dataset]
    return Path(folder) / subfolder / f"{lists[which][0]}.txt"


def read_list(path):
    """[(path of an image, label)]: one a line, the last line with or without its end.

    Columns are separated by spaces, tabs, commas or semicolons, folders by slashes or backslashes, in any encoding; a
    path may hold spaces. UserError when a line has no label.
    """
    images = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        found = LIST_LINE.fullmatch(line)
        if not found:
            raise UserError(f"{path}, line {number} is not `relative/path label`: {line.strip()[:80]!r}. Take "
                            "OpenOOD's list again, or remove it")
        images.append((PurePosixPath(found["image"].replace("\\", "/")), int(found["label"])))
    return images


def index_by_name(split):
    """What match_key gives → position. Sets of arrays: by OpenOOD's numbering of their official order."""
    if split.names is not None:
        keys = [(name.split("/")[0], PurePosixPath(name).stem) for name in split.names]
        stems = [stem for _, stem in keys]
        unique = {stem: k for k, stem in enumerate(stems)} if len(set(stems)) == len(stems) else {}
        return unique | {key: k for k, key in enumerate(keys)}
    labels = split.labels.tolist()
    if split.name in BY_CLASS:  # <class>/<number within the class, from 1>
        seen, positions = {}, {}
        for k, label in enumerate(labels):
            seen[label] = seen.get(label, 0) + 1
            positions[split.class_names[label], f"{seen[label]:04d}"] = k
        return positions
    if split.name == "svhn":  # <number from 1>_<label>
        return {f"{k + 1:06d}_{label}": k for k, label in enumerate(labels)}
    if split.name in ("mnist", "fashion_mnist"):  # <label>_<number from 0>
        return {f"{label}_{k}": k for k, label in enumerate(labels)}
    names = dict(enumerate(split.class_names or ()))
    return {(str(names.get(label, label)), f"{k:06d}"): k for k, label in enumerate(labels)}  # our own numbers


def match_key(image, positions):
    """An image's (folder, stem of the file), or the stem alone where folders differ."""
    key = (image.parent.name, image.stem)
    return key if key in positions else image.stem


def paths_of(split):
    """The path of every image of a split in OpenOOD's data folder."""
    name, folder = split.name, FOLDERS.get(split.name, split.name)
    if name in ("tinyimagenet", "imagenet1k", "imagenet200"):
        return [f"{folder}/{PurePosixPath(image).name}" for image in split.names]
    if split.names:
        return [f"{folder}/{f'{split.split}/' if name in BY_CLASS else ''}{image}" for image in split.names]
    ending = "jpg" if name in JPEG_COPIES else "png"
    middle = f"{split.split}/" if len(CATALOG[name].counts) > 1 else ""
    return [f"{folder}/{middle}{'/'.join(key) if isinstance(key, tuple) else key}.{ending}"
            for key in index_by_name(split)]


def copy_lists(mirrors, data_dir):
    """Copy the lists of IMAGE_LISTS from the first mirror's folder that has them, and print what is there then."""
    wanted = [f"{folder}/{file}.txt" for folder, lists in IMAGE_LISTS.values() for file, _ in lists.values()]
    target = Path(data_dir) / "benchmark_imglist"
    for mirror in mirrors:
        for path in [] if isinstance(mirror, str) else wanted:
            source = mirror / "benchmark_imglist" / path
            if source.is_file() and not (target / path).exists():
                write_text(target / path, read_text(source))
    there = sum((target / path).exists() for path in wanted)
    ours = "" if there == len(wanted) else "; without a list, our own splits are used, see data/openood.py"
    say(f"OpenOOD's lists: {there} of {len(wanted)} in {target}{ours}")
