"""A folder of class folders → a training set: resized, split if there is no test folder, with its class names."""
import contextlib
import hashlib
from pathlib import Path

import numpy as np

from data.datasets import IMAGENET_MEAN, IMAGENET_STD
from data.image_files import SPLITS, is_hidden, report_skipped
from data.manifest import FILE, read_manifest
from data.sources.images import FolderSource, folder_digest, listing_digest, remove_images, to_arrays
from data.sources.store import ready_splits, write_arrays, write_manifest
from data.user_sets import check_name, described
from utils.io import UserError, system_error

LARGEST_ARRAYS = 64  # pixels a side; larger images stay in files, as ImageNet's do
MOST_BYTES = 2 << 30  # of the arrays of one set
TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")  # the first that is there
SEED = 1


def prepare_folder(name, root, size, data_dir, test_fraction=0.2, fresh=False):
    """Make data_dir/<name> from a folder and return lines that say what is there then.

    Args:
        root: holds class folders, or train/ and test/ (or val/) with class folders.
        size: pixels a side.
        test_fraction: of each class, where the folder has no test images of its own.
    UserError when the images or their classes cannot be used; an earlier set of the name stays then.
    """
    root, folder = Path(root), Path(data_dir) / name
    check_name(name)
    if not 8 <= size <= 1024 or not 0 < test_fraction < 1:
        raise UserError(f"--size must be from 8 to 1024, and --test-fraction between 0 and 1, got {size} and "
                        f"{test_fraction:g}")
    before = _before(folder, fresh)
    sources, lines = open_sources(root), []
    for source in sources.values():
        lines += report_skipped(source.skipped, source.root)
    info = {"made_from": str(root.resolve()), "size": size, "folders": size > LARGEST_ARRAYS,
            "listing": _listing(sources)}
    if len(sources) == 1:
        info["split"] = {"test_fraction": test_fraction, "seed": SEED, "by": "MD5 of '<seed> <name>' within each class"}
    known = before.get("dataset", {})
    is_whole = "class_names" in known and ready_splits(folder).keys() == before["splits"].keys()  # not after a kill
    if not fresh and is_whole and {key: known.get(key) for key in info} == info:
        return [*lines, *_summary(name, before)]
    if not before:
        write_manifest(folder, name, {}, dataset=info)  # the folder is ours from now on
    try:
        content = (_linked if info["folders"] else _arrays)(name, folder, sources, info, test_fraction)
    except UserError:
        if not before:
            _withdraw(folder)
        raise
    for split in content["splits"]:  # what an earlier --size left
        if info["folders"]:
            (folder / f"{split}.npz").unlink(missing_ok=True)
        else:
            remove_images(folder / split)
    write_manifest(folder, name, content["splits"], dataset=content["dataset"])
    return [*lines, *_summary(name, content)]


def _before(folder, fresh):
    """The manifest of an earlier preparation; {} where nothing is there. UserError if something else is there."""
    try:
        content = read_manifest(folder)
    except (FileNotFoundError, UserError) as error:
        kept = [path for path in folder.iterdir() if path.suffix != ".part"] if folder.is_dir() else []  # by a kill
        if kept and not (fresh and isinstance(error, UserError)):
            raise _not_ours(folder) from None
        return {}
    if "dataset" not in content:
        raise _not_ours(folder)
    return content


def _withdraw(folder):
    """Take back the manifest of a set that came to nothing."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink()
        folder.rmdir()  # with a split in it, it stays


def _not_ours(folder):
    return UserError(f"{folder} is there already and was not made by --folder: it stays as it is. Choose another name")


def open_sources(root):
    """{"train": FolderSource, "test": …}, or {"all": …} where the folder has no test images of its own."""
    if not root.is_dir():
        raise UserError(f"--folder: there is no folder {root}")
    inside = {entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()
              and not is_hidden(entry.name)}
    train, test = (next((inside[name] for name in names if name in inside), None) for names in (TRAIN, TEST))
    if test and not train and inside.keys() <= SPLITS:
        raise UserError(f"{root} has {test.name}/ and no train/: name the folder above both, or the folder of classes")
    if not train:
        return {"all": _labelled(root)}
    if not test:
        return {"all": _labelled(train)}
    sources = {"train": _labelled(train), "test": FolderSource(test)}
    classes = set(sources["train"].tree.classes)
    if strange := sorted(set(sources["test"].tree.classes) - classes):
        raise UserError(f"{test} has images of {len(strange)} classes that {train} does not have, for instance "
                        f"{strange[0]}")
    if not len(sources["test"]):
        raise UserError(f"{test} holds no images")
    return sources


def _labelled(root):
    source = FolderSource(root)
    if not len(source):
        raise UserError(f"{root} holds no images in class folders")
    if not source.tree.labelled or source.classes < 2:
        raise UserError(f"{root} has one class: two or more class folders, <class>/<image>, are needed to train")
    return source


def held_out_positions(source, fraction, seed=SEED):
    """Positions (k), ascending, of the images to test with: the same share of each class, at least one image."""
    names, classes = source.names, source.tree.classes
    order = sorted(range(len(names)), key=lambda k: hashlib.md5(
        f"{seed} {names[k]}".encode("utf-8", "surrogateescape")).digest())
    of_class = {}
    for k in order:
        of_class.setdefault(classes[k], []).append(k)
    if small := sorted(name for name, members in of_class.items() if len(members) < 2):
        raise UserError(f"the class {small[0]} of {source.root} has one image: two or more are needed, one to train "
                        "and one to test")
    return np.array(sorted(k for members in of_class.values()
                           for k in members[: min(max(round(len(members) * fraction), 1), len(members) - 1)]))


def _arrays(name, folder, sources, info, fraction):
    """Write <split>.npz of both splits. Returns the manifest's content."""
    size = info["size"]
    if sum(map(len, sources.values())) * 3 * size**2 > MOST_BYTES:
        raise UserError(f"{sum(map(len, sources.values())):,} images of {size}×{size} pixels need more than 2 GB of "
                        f"memory: choose a --size above {LARGEST_ARRAYS}, whose images stay in files")
    class_names = sorted(set(next(iter(sources.values())).tree.classes))
    number, read = {text: k for k, text in enumerate(class_names)}, {}
    for split, source in sources.items():
        arrays, keep, left_out = to_arrays(source, (size,), title=f"{name} {split}", unreadable=0.1)
        names = np.array([source.names[k] for k in keep])
        labels = np.array([number[source.tree.classes[k]] for k in keep], dtype=np.int64)
        read[split] = arrays[size], labels, names, left_out
    if "all" in read:
        images, labels, names, left_out = read["all"]
        chosen = np.isin(names, [sources["all"].names[k] for k in held_out_positions(sources["all"], fraction)])
        read = {split: (images[which], labels[which], names[which], left_out if split == "train" else [])
                for split, which in (("train", ~chosen), ("test", chosen))}
    train = read["train"][1]
    if missing := sorted(set(range(len(class_names))) - set(train.tolist())):
        raise UserError(f"no image of the class {class_names[missing[0]]} is left to train on: too few can be read")
    if not len(read["test"][1]):
        raise UserError("no image is left to test on: too few can be read")
    splits = {}
    for split, (images, labels, names, left_out) in read.items():
        kept = write_arrays(folder / f"{split}.npz", images, labels, names)
        splits[split] = {"images": len(labels), "source": f"folder {info['made_from']}", "verified": False,
                         "files": {f"{split}.npz": kept}, "sha256": kept["sha256"]}
        splits[split] |= {"left_out": left_out} if left_out else {}
    digests = {split: [hashlib.sha256(image).digest() for image in read[split][0]] for split in splits}
    _count_repeated(splits, digests)
    mean, std = _statistics(read["train"][0])
    return {"splits": splits, "dataset": {**info, "class_names": class_names, "mean": mean, "std": std}}


def _count_repeated(splits, digests):
    """Note in the test split's record how many of its images are training images, too."""
    known = set(digests["train"])
    if repeated := sum(digest in known for digest in digests["test"]):
        splits["test"]["also_in_train"] = repeated


def _digests_of_equal_lengths(folders):
    """split → digests of those of its files that can be equal to one of another split."""
    files = {split: [path for path in folder.rglob("*") if path.is_file()] for split, folder in folders.items()}
    lengths = {split: {path.stat().st_size for path in paths} for split, paths in files.items()}
    shared = set.intersection(*lengths.values())
    return {split: [hashlib.sha256(path.read_bytes()).digest() for path in paths if path.stat().st_size in shared]
            for split, paths in files.items()}


def _statistics(images):
    """Mean and standard deviation of each channel of (n, H, W, 3) uint8 images, for pixels in [0, 1]."""
    count = images[..., 0].size
    sums = np.zeros((2, 3))
    for some in np.array_split(images, max(len(images) // 1_000, 1)):
        pixels = some.reshape(-1, 3).astype(np.float64) / 255
        sums += pixels.sum(0), (pixels**2).sum(0)
    mean = sums[0] / count
    std = np.sqrt(np.maximum(sums[1] / count - mean**2, 1 / 255**2))  # of constant images, too, above 0
    return mean.round(4).tolist(), std.round(4).tolist()


def _linked(name, folder, sources, info, fraction):
    """Make <split>/<class>/<image>, links to the images where they are. Returns the manifest's content."""
    if "all" in sources:
        source, chosen = sources["all"], set(held_out_positions(sources["all"], fraction).tolist())
        parts = {"train": [k for k in range(len(source)) if k not in chosen], "test": sorted(chosen)}
        wanted = {split: (source, [source.names[k] for k in positions]) for split, positions in parts.items()}
    else:
        wanted = {split: (source, source.names) for split, source in sources.items()}
    splits = {}
    for split, (source, names) in wanted.items():
        target = folder / split
        remove_images(target)
        try:
            for text in names:
                link = target / text
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((source.root / source.paths[text]).resolve())
        except OSError as error:
            raise system_error(error, target, "write") or UserError(f"could not write {target}: {error}") from error
        digest = listing_digest(target)
        splits[split] = {"images": len(names), "source": f"folder {info['made_from']}", "verified": False,
                         "folder": {"images": len(names), "linked": True, "sha256": digest}, "sha256": digest}
    _count_repeated(splits, _digests_of_equal_lengths({split: folder / split for split in splits}))
    class_names = sorted(set(next(iter(sources.values())).tree.classes))
    return {"splits": splits, "dataset": {
        **info, "class_names": class_names, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}}


def _listing(sources):
    """A digest of the names and lengths of all images."""
    return folder_digest({f"{split}/{name}": (source.root / path).stat().st_size
                          for split, source in sources.items() for name, path in source.paths.items()})


def _summary(name, content):
    info = described(name, content)
    lines = [f"{name:14} {split:6} {record['images']:6} images: {record['source']}"
             for split, record in content["splits"].items()]
    lines += [f"{'':21}  left out, unreadable: {image}" for record in content["splits"].values()
              for image in record.get("left_out", [])]
    lines += [f"{name:14} {split:6} {twice:6} of them are training images, too: results will look too good"
              for split, record in content["splits"].items() if (twice := record.get("also_in_train"))]
    shown = ", ".join(info.class_names[:6]) + " …" * (info.classes > 6)
    return [*lines, f"{name:14} {info.classes} classes ({shown}), {info.size}×{info.size} pixels"]
