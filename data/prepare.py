"""Make data sets ready: official files → data/<name>/<split>.npz (images (n, H, W, C) uint8, labels (n) int64).

  python data/prepare.py cifar10 svhn                    download, verify, convert
  python data/prepare.py cifar10 --mirror /mnt/data      take what the folder has first; download the rest
  python data/prepare.py --for cifar10                   CIFAR-10 and the sets that it is tested against
  python data/prepare.py                                 every set that needs no licence of yours

A mirror is a folder that holds official files (archives, or unpacked as their publishers do) or plain class folders
<name>/<split>/<class>/<image>. Official files are checked against their published MD5; class folders can't be, and are
recorded as unverified. What is whole is skipped. CIFAR-10 takes about 5 seconds, plus the download of 170 MB.
"""
import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make `data` and `files` importable

from data.catalog import CATALOG, OUTLIERS, how_to_get, image_folder
from data.embedded import MAKERS
from data.formats import READERS, class_folders, read_class_folders
from data.sources import download, find_part
from files import UserError, write_text, written_whole


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CATALOG)}")
    parser.add_argument("--for", dest="benchmark", choices=list(OUTLIERS), help="a set and its outlier sets")
    parser.add_argument("--mirror", type=Path, action="append", default=[], help="folder to look in before downloading")
    parser.add_argument("--data-dir", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--fresh", action="store_true", help="prepare again what is there")
    args = parser.parse_args()
    for name in args.names:
        if name not in CATALOG:
            raise UserError(f"unknown data set {name!r}: choose from {', '.join(CATALOG)}")
    for mirror in args.mirror:
        if not mirror.is_dir():
            raise UserError(f"the mirror {mirror} is not a folder")
    names = list(args.names)
    if args.benchmark:
        names += [args.benchmark, *(o for group in OUTLIERS[args.benchmark].values() for o in group if o in CATALOG)]

    wanted = names or [name for name in CATALOG if not CATALOG[name].folders]
    incomplete = [name for name in wanted if not prepare(name, args.data_dir, args.mirror, args.fresh)]
    if incomplete:
        print(f"\nNot complete: {', '.join(incomplete)}. Everything else works; tables show what is missing.")
        sys.exit(1 if names else 0)  # without names it was: whatever there is


def prepare(name, data_dir, mirrors, fresh=False):
    """Bring one set to data_dir/<name> and print what is there. Returns whether it is whole."""
    data_set, folder = CATALOG[name], data_dir / name
    if data_set.folders:
        return look_at_folders(name, data_dir)
    ready, problem = {} if fresh else whole_splits(folder), None
    if set(ready) != set(data_set.counts):
        try:
            found, problem = collect(name, mirrors, data_dir / "downloads", ready)
        except UserError as error:
            found, problem = {}, str(error)
        for split, (images, labels, source, is_verified) in found.items():
            ready[split] = write_split(folder, split, images, labels, source, is_verified)
        if found:
            write_text(folder / "manifest.json", json.dumps({"name": name, "splits": ready}, indent=1) + "\n")
    for split in data_set.counts:
        if split in ready:
            note = "" if ready[split]["verified"] else ", unverified"
            print(f"{name:14} {split:6} {ready[split]['images']:6} images{note}: {ready[split]['source']}")
        else:
            print(f"{name:14} {split:6} missing: {problem}")
    return set(ready) == set(data_set.counts)


def look_at_folders(name, data_dir):
    whole = True
    for split in CATALOG[name].counts:
        folder = image_folder(name, split, data_dir)
        classes = len([f for f in folder.iterdir() if f.is_dir()]) if folder.is_dir() else 0
        print(f"{name:14} {split:6} " + (f"{classes} class folders in {folder}" if classes else
                                         f"missing: {how_to_get(name, data_dir)}"))
        whole &= classes > 0
    return whole


def whole_splits(folder):
    """The splits that the manifest lists and that lie there in full length."""
    try:
        splits = json.loads((folder / "manifest.json").read_text())["splits"]
    except FileNotFoundError:
        return {}
    return {s: r for s, r in splits.items() if (p := folder / f"{s}.npz").exists() and p.stat().st_size == r["bytes"]}


def collect(name, mirrors, downloads, ready=()):
    """split → (images, labels, source, verified) from the best source there is, and what was wrong if some is missing.

    Official files in a mirror, then a mirror's complete class folders, then the official address, then a mirror's
    class folders with only some of the splits. Class folders of `ready` splits are not read again.
    """
    data_set = CATALOG[name]
    if name in MAKERS:
        return {s: (*arrays, "made from scikit-learn's files", True) for s, arrays in MAKERS[name]().items()}, None
    found = official(name, mirrors, downloads)
    if set(found) == set(data_set.counts):
        return found, None
    folders = from_class_folders(name, mirrors, set(ready) | set(found))
    if {*folders, *found, *ready} == set(data_set.counts):
        return {**folders, **found}, None
    try:
        for part in [data_set.archive] if data_set.archive else sum(data_set.parts.values(), []):
            if data_set.archive or not find_part(part, None, mirrors, downloads):
                download(part, downloads)
        return official(name, mirrors, downloads), None
    except UserError as error:
        return {**folders, **found}, str(error)


def official(name, mirrors, downloads):
    data_set, found = CATALOG[name], {}
    for split, parts in data_set.parts.items():
        contents = [find_part(part, data_set.archive, mirrors, downloads) for part in parts]
        if all(content is not None for content in contents):
            found[split] = (*READERS[name](contents), "official files, MD5 verified", True)
    return found


def from_class_folders(name, mirrors, skip):
    data_set, found = CATALOG[name], {}
    for split in set(data_set.counts) - skip:
        for root in (mirror / name / split for mirror in mirrors):
            if split in found or not root.is_dir():
                continue
            classes = len(class_folders(root))
            if classes != data_set.classes:
                raise UserError(f"{root} has {classes} class folders, {data_set.title} has {data_set.classes}")
            try:
                found[split] = (*read_class_folders(root, data_set.size), f"class folders {root}", False)
            except (ValueError, OSError) as error:
                raise UserError(f"{root} cannot be used: {error}") from error
    return found


def write_split(folder, split, images, labels, source, is_verified):
    images, labels = np.ascontiguousarray(images, dtype=np.uint8), np.asarray(labels, dtype=np.int64)
    path = folder / f"{split}.npz"
    with written_whole(path) as file:
        np.savez(file, images=images, labels=labels)
    content = hashlib.sha256(images.data)
    content.update(labels.data)
    return {"images": len(images), "bytes": path.stat().st_size, "sha256": content.hexdigest(), "source": source,
            "verified": is_verified}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"prepare.py: {error}")
