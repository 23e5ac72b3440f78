"""The files that `prepare` writes below data/<name>/, their records, and their verification."""
import json
import os

import numpy as np

from data.datasets import CATALOG, array_file, image_folder
from data.manifest import FILE, read_manifest
from data.sources import download, images
from data.sources.registry import SOURCES
from data.splits import content_digest
from data.user_sets import described
from utils.io import UserError, atomic_write, write_text
from utils.npz import Damaged, array_headers, read_arrays
from utils.script import say


def store(found, folder, split, name):
    """Write what was found of a split. Returns its record for the manifest."""
    data_set = CATALOG[name]
    record = {"images": len(found), "source": found.source, "verified": found.verified, "files": {}}
    if isinstance(found.content, tuple):
        path = array_file(name, split, folder.parent)
        record["files"][path.name] = write_arrays(path, *found.content)
    else:
        title = f"{name} {split}"
        sizes = data_set.sizes or ((data_set.size,) if data_set.size else ())
        if sizes:
            arrays, keep, left_out = images.to_arrays(found.content, sizes, data_set.size, title)
            names = np.array([found.content.names[k] for k in keep])
            record |= {"images": len(keep)} | ({"left_out": left_out} if left_out else {})
            for size, array in arrays.items():
                path = array_file(name, split, folder.parent, size)
                record["files"][path.name] = write_arrays(path, array, found.content.labels[keep], names)
        if data_set.folders:
            record["folder"] = store_folder(found, folder / split, folder, title)
    record["sha256"] = next(iter([*record["files"].values(), record.get("folder")]))["sha256"]
    return record


def write_arrays(path, images, labels, names=None):
    """Write an .npz and return its record for the manifest. names: (n) str, <class>/<file>; kept as UTF-8."""
    images, labels = np.ascontiguousarray(images, dtype=np.uint8), np.asarray(labels, dtype=np.int64)
    more = {} if names is None else {"names": np.char.encode(names, "utf-8")}
    with atomic_write(path) as file:
        np.savez(file, images=images, labels=labels, **more)
    return {"bytes": path.stat().st_size, "sha256": content_digest(images, labels),
            "crc32": {key: crc for key, (_, _, crc) in array_headers(path).items()}}


def write_manifest(folder, name, splits, **more):
    """splits: split → record; written in alphabetical order, whichever was made first."""
    content = {"name": name, **more, "splits": dict(sorted(splits.items()))}
    write_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def store_folder(found, target, folder, title):
    """Link the images of a mirror's folder, or unpack those of an archive. UserError if the user's own are there."""
    if target.is_dir() and not target.is_symlink() and "folder" not in recorded(folder).get(target.name, {}):
        raise UserError(f"{target} is there already and was not made by prepare.py: it stays as it is")
    linked = isinstance(found.content, images.FolderSource)
    digest = images.link(found.content, target) if linked else images.unpack(found.content, target, title)
    return {"images": len(found), "linked": linked, "sha256": digest}


def ready_splits(folder):
    """The splits that the manifest lists and whose files are there, undamaged. Of folders only the presence is seen."""
    return {split: record for split, record in recorded(folder).items() if _lies_there(folder, split, record)}


def recorded(folder):
    """The manifest's splits; {} where there is no manifest that can be used."""
    try:
        return read_manifest(folder)["splits"]
    except (FileNotFoundError, UserError):
        return {}


def _lies_there(folder, split, record):
    if "folder" in record and not (folder / split).is_dir() or not {"files", "folder"} & record.keys():
        return False
    files = record.get("files", {})
    if any(not (folder / name).exists() or (folder / name).stat().st_size != file["bytes"]
           for name, file in files.items()):
        return False
    arrays = {name: file for name, file in files.items() if name.endswith(".npz")}
    return not arrays or (
        {"images", "source"} <= record.keys() and isinstance(record.get("verified"), bool)
        and record.get("sha256") in [file.get("sha256", "") for file in arrays.values()]
        and all("sha256" in file and _has_checksums(folder / name, file) for name, file in arrays.items()))


def _has_checksums(path, file):
    """Whether the arrays of an .npz have the checksums of its record."""
    try:
        headers = array_headers(path)
        read_arrays(path, *headers)  # compares each array with the file's own checksum
        return {key: crc for key, (_, _, crc) in headers.items()} == file.get("crc32")
    except Damaged:
        return False


def is_partial(record, expected):
    """Unverified and fewer images than the set has."""
    return not record.get("verified") and record.get("images", 0) < expected


def is_same(record, found):
    """Whether a split was prepared from just this."""
    return (record["source"], record["images"] + len(record.get("left_out", []))) == (found.source, len(found))


def verify(name, data_dir):
    """Compare a prepared set with its manifest, byte for byte, and print the result.

    True when nothing is wrong; None, and nothing is printed, where nothing is prepared.
    """
    folder, splits, checked = data_dir / name, {}, 0
    try:
        content = read_manifest(folder)
        if "dataset" in content:
            described(name, content)
        splits = content["splits"]
    except FileNotFoundError:
        if not any(folder.glob("*.npz")):
            if name in CATALOG and any(image_folder(name, split, data_dir).is_dir() for split in CATALOG[name].counts):
                say(f"{name:14} is your own: there is no record to compare it with")
                return True
            return None
    except (UserError, KeyError, TypeError, ValueError) as error:
        if isinstance(error.__cause__, OSError):
            say(f"{name:14} cannot be verified: {error}")
            return False
    wrong = [] if splits else [FILE]
    of_manifest = {file for record in splits.values() for file in record.get("files", {})}
    wrong += [path.name for path in sorted(folder.glob("*.npz")) if splits and path.name not in of_manifest]
    for split, record in splits.items():
        for file, expected in record.get("files", {}).items():
            checked += 1
            try:
                if not _same(folder / file, expected):
                    wrong.append(file)
            except UserError as error:  # of the system
                say(f"{name:14} cannot be verified: {error}")
                return False
        if kept := record.get("folder"):
            checked += 1
            digest = images.listing_digest if kept.get("linked") else images.unpacked_digest
            if not (folder / split).is_dir() or digest(folder / split) != kept.get("sha256"):
                wrong.append(f"{split}/")
    if wrong:
        again = name if name in SOURCES else f"--folder {name}=DIR"
        say(f"{name:14} DAMAGED: {', '.join(wrong)}. Prepare it again: python data/prepare.py {again} --fresh")
    else:
        say(f"{name:14} as it was prepared ({checked} checksums)")
    return not wrong


def _same(path, expected):
    if "md5" in expected:
        return path.exists() and download.md5_of(path) == expected["md5"]
    try:
        if os.path.getsize(path) != expected["bytes"]:
            return False
        return content_digest(*read_arrays(path, "images", "labels")) == expected.get("sha256")
    except (OSError, Damaged):
        return False
