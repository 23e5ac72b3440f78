"""Bring one set from its sources to data/<name>/, and report the result."""
import os
from threading import Lock

from data.datasets import CATALOG, CORRUPTED, how_to_get, image_folder
from data.image_files import report_skipped
from data.sources.corruptions import official_files, prepare_official, record_files
from data.sources.find import Found, SourceFinder
from data.sources.images import ImageSource
from data.sources.registry import SOURCES
from data.sources.sklearn_digits import MAKERS
from data.sources.store import is_partial, is_same, ready_splits, store, write_manifest
from data.splits import Split
from utils.io import UserError
from utils.script import say

_one_at_a_time = Lock()  # downloads run side by side, conversions do not: memory stays bounded


def prepare(name, data_dir, mirrors=(), fresh=False, may_download=True):
    """Bring one set to data_dir/<name> and print what is there. Returns whether it is whole.

    may_download: False takes only what the mirrors' folders and earlier downloads have.
    """
    lines = []
    try:
        if name == "imagenet1k":
            return link_imagenet(data_dir, mirrors, lines)
        finder = SourceFinder(name, mirrors, data_dir / "downloads", may_download)
        if name in CORRUPTED.values():
            return prepare_corrupted(finder, data_dir / name, fresh, lines)
        return prepare_splits(finder, data_dir / name, fresh, lines)
    except (UserError, OSError) as error:  # the other sets continue
        lines.append(f"{name:14} failed: {error}")
        return False
    finally:
        say("\n".join(lines))


def prepare_splits(finder, folder, fresh, lines):
    name, data_set = finder.name, finder.set
    ready, problems = ready_splits(folder), {}
    missing = [s for s in data_set.counts if fresh or s not in ready or is_partial(ready[s], data_set.counts[s])]
    made = MAKERS[name]() if missing and name in MAKERS else {}
    stored = set()
    for split in missing:
        made_here = [Found(made[split], "made from scikit-learn's files", True)] if split in made else ()
        for found in made_here or finder.candidates(split):
            if split in ready and not fresh and is_same(ready[split], found):
                break  # the same part of it as before
            with _one_at_a_time:
                record = finder.try_(store, found, folder, split, name)
            if record:
                if isinstance(found.content, ImageSource):
                    lines += report_skipped(found.content.skipped, found.content.tree.root)
                ready[split] = record
                stored.add(split)
                break
        problems[split] = finder.problems
    if stored:
        write_manifest(folder, name, ready)
    for split, expected in data_set.counts.items():
        if split in ready:
            record = ready[split]
            note = "" if record["verified"] else ", unverified"
            part = f" of {expected}" if is_partial(record, expected) else ""
            lines.append(f"{name:14} {split:6} {record['images']:6}{part} images{note}: {record['source']}")
            lines += [f"{'':21}  left out, unreadable: {image}" for image in record.get("left_out", [])]
            lines += [f"{'':21}  but {problem}" for problem in problems.get(split, [])]
        else:
            lines.append(f"{name:14} {split:6} missing: {'; '.join(problems[split]) or how_to_place(name)}")
    return all(s in ready and not is_partial(ready[s], data_set.counts[s]) and (s in stored or not fresh)
               for s in data_set.counts)


def prepare_corrupted(finder, folder, fresh, lines):
    record = {} if fresh else ready_splits(folder).get("test", {})
    wanted = official_files(finder.name)
    before = {file: kept for file, kept in record.get("files", {}).items() if file in wanted}
    files = prepare_official(finder, folder, before)
    if files != before:
        images = 50_000 * (len(files) - 1)
        record_files(folder, finder.name, files, {
            "images": images, "verified": True, "source": "official files, MD5 verified"})
    if files:
        lines.append(f"{finder.name:14} test   {len(files)} of {len(wanted)} arrays: official files, MD5 verified")
    if made := [file for file in record.get("files", {}) if file not in wanted]:
        lines.append(f"{finder.name:14} test   {len(made) - 1} arrays made here, see data/sources/corruptions.py")
    if set(files) != set(wanted):
        lines.append(f"{finder.name:14} test   missing: {'; '.join(finder.problems) or how_to_place(finder.name)}")
    return set(files) == set(wanted)


def link_imagenet(data_dir, mirrors, lines):
    """ImageNet-1k is used where it is; class folders of a mirror are linked. The loader's own count is shown."""
    name, whole = "imagenet1k", True
    for split in CATALOG[name].counts:
        folder = image_folder(name, split, data_dir)
        found = SourceFinder(name, mirrors, data_dir / "downloads").unverified_folders(split)
        if found and not folder.exists() and not os.environ.get("IMAGENET_DIR"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.unlink(missing_ok=True)  # a link to a mirror that has gone
            folder.symlink_to(found[0].resolve(), target_is_directory=True)
        try:
            opened = Split.open(name, split, data_dir) if folder.is_dir() else None
            there = opened and f"{len(opened):,} images of {opened.classes_here} classes in {folder}, unverified"
        except UserError as error:
            opened, there = None, str(error)
        lines.append(f"{name:14} {split:6} {there or f'missing: {how_to_get(name, data_dir)}'}")
        whole &= opened is not None
    return whole


def how_to_place(name):
    if SOURCES[name].by_hand:
        return SOURCES[name].by_hand
    return f"in no mirror, and too large to be downloaded unless it is named. {how_to_get(name)}"
