"""Make data sets ready: publishers' files → data/<name>/, verified, in the form that the loaders read.

  python data/prepare.py cifar10 svhn                    download, verify, convert
  python data/prepare.py cifar10 --mirror /mnt/data      take what the folder has first; download the rest
  python data/prepare.py --for cifar10                   CIFAR-10 and the sets that its runs are tested against
  python data/prepare.py --benchmark openood --jobs 4    everything that a benchmark needs: dismax, openood or all
  python data/prepare.py --dry-run                       the plan: what, how big, from where, under which terms
  python data/prepare.py --verify                        read again what was prepared, and compare its checksums
  python data/prepare.py                                 every set; of those over a gigabyte, what mirrors have

A mirror is a folder or an http(s) address; folders are tried first, then addresses, in the order given. An address
holds the publishers' files by their names. A folder may hold these, or torchvision's layout (MNIST/raw,
cifar-10-batches-py, …), an OpenOOD data folder (images_classic, images_largescale, benchmark_imglist), idx files, or
plain class folders <name>/<split>/<class>/<image>. What a publisher's MD5 covers is checked before it is read; the rest
can't be, and is recorded as unverified. Nothing is ever changed in a mirror.

How sets are kept:
  small images     data/<name>/<split>.npz: images (n, H, W, C) uint8, labels (n) int64; names (n) where files had some
  photographs for  data/<name>/<split>_28.npz, <split>_32.npz: once, from the originals, the shorter side resized
  small networks   (bilinear, with the bits of torchvision's Resize of PIL images) and the centre cropped
  photographs for  data/<name>/<split>/<class>/<image>: as published, unpacked; those of a mirror are linked, not copied
  ImageNet's       (textures are kept in both forms)
  CIFAR-10-C …     data/<name>/<corruption>.npy, see corruptions.py
  OpenOOD's lists  data/benchmark_imglist/, see openood.py
manifest.json in each folder says where a set came from, with checksums of what was written. Downloads stay in
data/downloads/, whole, or as .part to go on from; it may be deleted when sets are ready. Memory stays below 2 GB.
"""
import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make `data` and `files` importable

from data import corruptions
from data.datasets import CATALOG, CORRUPTED, OPENOOD, OUTLIERS, how_to_get, image_folder, sets_of
from data.openood_lists import bring_lists
from data.sources.find import Found, Search
from data.sources.plan import print_plan, too_large_to_start_unasked, where_to_get
from data.sources.sklearn_digits import MAKERS
from data.sources.store import is_partial, is_same, ready_splits, store, verify
from utils.io import UserError, write_text

_one_at_a_time = Lock()  # downloads run side by side, conversions do not: memory stays bounded


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CATALOG)}")
    parser.add_argument("--for", dest="datasets", action="append", choices=list(dict.fromkeys([*OUTLIERS, *OPENOOD])),
                        help="a set and its outlier sets, of the dismax benchmark if --benchmark names no other")
    parser.add_argument("--benchmark", action="append", choices=("dismax", "openood", "all"),
                        help="what it needs; all: both, and CIFAR-10-C and CIFAR-100-C")
    parser.add_argument("--mirror", action="append", default=[], help="folder or address to look in before downloading")
    parser.add_argument("--data-dir", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and leave")
    parser.add_argument("--jobs", type=int, default=2, choices=range(1, 17), metavar="N",
                        help="so many sets are downloaded at a time (default 2)")
    parser.add_argument("--verify", action="store_true", help="compare what is prepared with its checksums")
    parser.add_argument("--fresh", action="store_true", help="prepare again what is there")
    args = parser.parse_args()
    for name in args.names:
        if name not in CATALOG:
            raise UserError(f"unknown data set {name!r}: choose from {', '.join(CATALOG)}")
    mirrors = [m if m.startswith(("http://", "https://")) else Path(m) for m in args.mirror]
    for mirror in mirrors:
        if isinstance(mirror, Path) and not mirror.is_dir():
            raise UserError(f"the mirror {mirror} is not a folder")
    asked = list(args.names)
    if args.benchmark or args.datasets:
        for benchmark in args.benchmark or ["dismax"]:
            asked += [name for dataset in args.datasets or [None] for name in sets_of(benchmark, dataset)]
    names = list(dict.fromkeys(CATALOG[name].part_of or name for name in asked or CATALOG))

    if args.verify:
        damaged = [name for name in names if not verify(name, args.data_dir)]
        sys.exit(1 if damaged else 0)
    print_plan(names, mirrors, args.data_dir, not asked, args.fresh)
    if args.dry_run:
        return

    if any(name in OPENOOD for name in names) and args.benchmark != ["dismax"]:
        bring_lists(mirrors, args.data_dir)

    def work(name):
        may_download = bool(asked) or not too_large_to_start_unasked(name)
        return prepare(name, args.data_dir, mirrors, args.fresh, may_download)

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            whole = dict(zip(names, pool.map(work, names)))
        except KeyboardInterrupt:
            print("\nStopped. What has come is kept: the same command goes on from there", file=sys.stderr, flush=True)
            os._exit(130)  # at once, whatever a server is doing; no file is ever half there
    incomplete = [name for name in names if not whole[name]]
    if incomplete:
        print(f"\nNot complete: {', '.join(incomplete)}. Everything else works; tables show what is missing.")
        for name in incomplete:
            print(f"  {name:20} {where_to_get(name)}")
        sys.exit(1 if asked else 0)  # without names it was: whatever there is


def prepare(name, data_dir, mirrors=(), fresh=False, may_download=True):
    """Bring one set to data_dir/<name> and print what is there. Returns whether it is whole.

    may_download: False takes only what the mirrors' folders and earlier downloads have.
    """
    lines = []
    try:
        if name == "imagenet1k":
            return look_at_imagenet(data_dir, mirrors, lines)
        search = Search(name, mirrors, data_dir / "downloads", may_download)
        if name in CORRUPTED.values():
            return prepare_corrupted(search, data_dir / name, fresh, lines)
        return prepare_splits(search, data_dir / name, fresh, lines)
    finally:
        print("\n".join(lines), flush=True)


def prepare_splits(search, folder, fresh, lines):
    name, data_set = search.name, search.set
    ready, problems = ready_splits(folder), {}
    missing = [s for s in data_set.counts if fresh or s not in ready or is_partial(ready[s], data_set.counts[s])]
    made = MAKERS[name]() if missing and name in MAKERS else {}
    changed = False
    for split in missing:
        made_here = [Found(made[split], "made from scikit-learn's files", True)] if split in made else ()
        for found in made_here or search.candidates(split):
            if split in ready and not fresh and is_same(ready[split], found):
                break  # the same part of it as before
            with _one_at_a_time:
                record = search.attempt(store, found, folder, split, name)
            if record:
                ready[split], changed = record, True
                break
        problems[split] = search.problems
    if changed:
        write_text(folder / "manifest.json", json.dumps({"name": name, "splits": ready}, indent=1) + "\n")
    for split, expected in data_set.counts.items():
        if split in ready:
            record = ready[split]
            note = "" if record["verified"] else ", unverified"
            part = f" of {expected}" if is_partial(record, expected) else ""
            lines.append(f"{name:14} {split:6} {record['images']:6}{part} images{note}: {record['source']}")
            lines += [f"{'':21}  left out, unreadable: {picture}" for picture in record.get("left_out", [])]
            lines += [f"{'':21}  but {problem}" for problem in problems.get(split, [])]
        else:
            lines.append(f"{name:14} {split:6} missing: {'; '.join(problems[split]) or how_to_place(name)}")
    return all(s in ready and not is_partial(ready[s], data_set.counts[s]) for s in data_set.counts)


def prepare_corrupted(search, folder, fresh, lines):
    record = {} if fresh else ready_splits(folder).get("test", {})
    wanted = corruptions.official_files(search.name)
    before = {file: kept for file, kept in record.get("files", {}).items() if file in wanted}
    files = corruptions.prepare_official(search, folder, before)
    if files != before:
        images = 50_000 * (len(files) - 1)
        corruptions.record_files(folder, search.name, files, {
            "images": images, "verified": True, "source": "official files, MD5 verified"})
    if files:
        lines.append(f"{search.name:14} test   {len(files)} of {len(wanted)} arrays: official files, MD5 verified")
    if made := [file for file in record.get("files", {}) if file not in wanted]:
        lines.append(f"{search.name:14} test   {len(made) - 1} arrays made here, see corruptions.py")
    if set(files) != set(wanted):
        lines.append(f"{search.name:14} test   missing: {'; '.join(search.problems) or how_to_place(search.name)}")
    return set(files) == set(wanted)


def look_at_imagenet(data_dir, mirrors, lines):
    """ImageNet-1k is used where it is; class folders of a mirror are linked."""
    name, whole = "imagenet1k", True
    for split in CATALOG[name].counts:
        folder = image_folder(name, split, data_dir)
        found = Search(name, mirrors, data_dir / "downloads").unofficial_folders(split)
        if found and not folder.exists() and not os.environ.get("IMAGENET_DIR"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.unlink(missing_ok=True)  # a link to a mirror that has gone
            folder.symlink_to(found[0].resolve(), target_is_directory=True)
        classes = len([f for f in folder.iterdir() if f.is_dir()]) if folder.is_dir() else 0
        flat = bool(folder.is_dir() and not classes and any(folder.iterdir()))
        there = f"{classes} class folders in {folder}, unverified" if classes else f"files in {folder}, unverified"
        lines.append(f"{name:14} {split:6} " + (there if classes or flat else f"missing: {how_to_get(name, data_dir)}"))
        whole &= classes > 0 or flat
    return whole


def how_to_place(name):
    data_set = CATALOG[name]
    if data_set.by_hand:
        return data_set.by_hand
    return f"in no mirror, and too large to be fetched unasked. {how_to_get(name)}"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"prepare.py: {error}")
