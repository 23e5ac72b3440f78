"""Prepare data sets: official files → data/<name>/, verified, in the form that the loaders read.

  python data/prepare.py cifar10 svhn                    download, verify, convert
  python data/prepare.py cifar10 --mirror /mnt/data      look in this folder first; download what it does not have
  python data/prepare.py --for cifar10                   CIFAR-10 and the OOD sets of its runs
  python data/prepare.py --benchmark openood --jobs 4    all sets of a benchmark: dismax, openood or all
  python data/prepare.py --folder flowers=DIR --size 32  your own images, in class folders, as a training set
  python data/prepare.py --dry-run                       only print the plan: names, sizes, addresses, terms
  python data/prepare.py --verify                        compare the prepared files with their checksums
  python data/prepare.py                                 all sets; those above a gigabyte, and the OOD sets of
                                                         ImageNet, only from mirrors

A mirror is a folder or an http(s) address. Folders are tried first, then addresses, in the order given. An address
holds the official files under their names. A folder may hold the official files, torchvision's layout (MNIST/raw,
cifar-10-batches-py, …), an OpenOOD data folder (images_classic, images_largescale, benchmark_imglist), idx files, or
class folders <name>/<split>/<class>/<image>. Files with a published MD5 are verified before they are read. Other files
are recorded as unverified. Files in a mirror are never changed.

Forms of the prepared sets:
  small images     data/<name>/<split>.npz: images (n, H, W, C) uint8, labels (n) int64; names (n) if files had names
  natural images   data/<name>/<split>_28.npz, <split>_32.npz: made from the originals; the shorter side is resized
  (small networks) (bilinear, bit for bit like torchvision's Resize of PIL images) and the center is cropped
  natural images   data/<name>/<split>/<class>/<image>: unpacked as published; files of a mirror are linked, not copied
  (ImageNet's)     (textures are kept in both forms)
  CIFAR-10-C …     data/<name>/<corruption>.npy, see data/corruptions.py
  OpenOOD's lists  data/benchmark_imglist/, see data/openood.py
manifest.json in each folder records the source of a set and the checksums of the files. Downloads stay in
data/downloads/, complete or as .part files that a later call continues; you can delete them when the sets are ready.
The command needs less than 2 GB of memory. The exit status is 0 if all requested sets are ready.

Your own images: DIR holds class folders, or train/ and test/ (or val/) with class folders. Without a test folder, a
fifth of each class (--test-fraction) becomes the test split, selected by a hash of the names. With a --size above 64
the images stay in files and are linked. Then `train.py --dataset flowers` trains on them.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # run as a script: find our packages

import utils.threads  # noqa: F401, I001  Ctrl-C while the rest is imported

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.datasets import CATALOG, OPENOOD, OUTLIERS, how_to_get, sets_of
from data.openood_lists import copy_lists
from data.sources.acquire import prepare
from data.sources.plan import files_of, needs_confirmation, print_plan, where_to_get
from data.sources.registry import SOURCES
from data.sources.store import verify
from data.sources.user_folder import open_sources, prepare_folder
from data.user_sets import register
from utils.io import UserError
from utils.script import run_script, say


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SOURCES))
    parser.add_argument("--for", dest="datasets", action="append", choices=list(dict.fromkeys([*OUTLIERS, *OPENOOD])),
                        help="an in-distribution set, with its OOD sets of --benchmark (of dismax without --benchmark)")
    parser.add_argument("--benchmark", action="append", choices=("dismax", "openood", "all"),
                        help="the sets of a benchmark; all: both, with CIFAR-10-C and CIFAR-100-C")
    parser.add_argument("--mirror", action="append", default=[], help="folder or address to look in before "
                        "downloading; can be repeated")
    parser.add_argument("--data-dir", type=Path, default=Path(__file__).resolve().parent, help="folder for the sets "
                        "(default: data/ of this repository)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and exit")
    parser.add_argument("--jobs", type=int, default=2, choices=range(1, 17), metavar="N",
                        help="number of sets to download at the same time (default: 2)")
    parser.add_argument("--verify", action="store_true", help="compare the prepared files with their checksums")
    parser.add_argument("--fresh", action="store_true", help="prepare sets again that are already there")
    own = parser.add_argument_group("your own images")
    own.add_argument("--folder", action="append", default=[], metavar="NAME=DIR", help="class folders as a data set")
    own.add_argument("--size", type=int, default=32, help="resize images to this number of pixels a side (default: 32)")
    own.add_argument("--test-fraction", type=float, default=0.2, help="share of each class for testing if there is no "
                     "test folder (default: 0.2)")
    return parser.parse_args()


def main():
    args = parse_arguments()
    own = register(args.data_dir)
    for name in args.names:
        if name not in SOURCES and not (args.verify and name in prepared_folders(args.data_dir)):
            more = f". {name} is your own: --folder {name}={own[name].made_from}" if name in own else ""
            raise UserError(f"unknown data set {name!r}: choose from {', '.join(SOURCES)}{more}")
    mirrors = [m if m.startswith(("http://", "https://")) else Path(m) for m in args.mirror]
    for mirror in mirrors:
        if isinstance(mirror, Path) and not mirror.is_dir():
            raise UserError(f"the mirror {mirror} is not a folder")
    asked = list(args.names)
    if args.benchmark or args.datasets:
        for benchmark in args.benchmark or ["dismax"]:
            asked += [name for dataset in args.datasets or [None] for name in sets_of(benchmark, dataset)]
    names = list(dict.fromkeys(name in CATALOG and CATALOG[name].part_of or name for name in asked or SOURCES))

    if args.verify:
        others = [] if asked else prepared_folders(args.data_dir)
        sys.exit(0 if verify_all([*names, *others], bool(asked), args.data_dir) else 1)
    if args.folder:
        prepare_folders(args)
        if not asked:
            return
    print_plan(names, mirrors, args.data_dir, not asked, args.fresh)
    if args.dry_run:
        return
    if any(name in OPENOOD for name in names) and args.benchmark != ["dismax"]:
        copy_lists(mirrors, args.data_dir)
    prepare_all(names, bool(asked), mirrors, args)


def verify_all(names, is_asked, data_dir):
    """Compare sets with their manifests and print the results. False if one is damaged, or was asked for and is not
    there."""
    found = {name: verify(name, data_dir) for name in dict.fromkeys(names)}
    absent = [name for name, result in found.items() if result is None]
    if is_asked:
        for name in absent:
            say(f"{name:14} is not prepared in {data_dir}. {how_to_get(name, data_dir)}")
    elif len(absent) == len(found):
        say(f"No set is prepared in {data_dir}")
    return all(result or result is None and not is_asked for result in found.values())


def prepared_folders(data_dir):
    """The names of the folders that hold a manifest, whatever it is, or arrays."""
    folders = [path for path in sorted(data_dir.glob("*")) if path.is_dir()]
    return [path.name for path in folders if os.path.lexists(path / "manifest.json") or any(path.glob("*.npz"))]


def prepare_folders(args):
    names = [text.partition("=")[0].lower() for text in args.folder]  # some file systems have one case
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--folder has the name {twice[0]} twice: each set needs a name of its own, and capitals do "
                        "not count")
    for text in args.folder:
        name, is_there, folder = text.partition("=")
        if not is_there or not folder:
            raise UserError(f"--folder {text}: write NAME=DIR, for instance flowers=/mnt/flowers")
        if args.dry_run:
            say(f"{name:20} {sum(map(len, open_sources(Path(folder)).values())):9,}  from {folder}")
            continue
        say("\n".join(prepare_folder(name, Path(folder), args.size, args.data_dir, args.test_fraction, args.fresh)))


def prepare_all(names, is_asked, mirrors, args):
    """Prepare each set; exits with 1 if a set that was asked for, or that can be downloaded, is not complete."""
    def work(name):
        return prepare(name, args.data_dir, mirrors, args.fresh, is_asked or not needs_confirmation(name))

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            whole = dict(zip(names, pool.map(work, names)))
        except KeyboardInterrupt:
            print("\nStopped. Downloads are kept: the same command continues from there", file=sys.stderr)
            sys.stderr.flush()
            os._exit(130)  # at once, whatever a server is doing; no file is ever half there
    incomplete = [name for name in names if not whole[name]]
    if incomplete:
        say(f"\nNot complete: {', '.join(incomplete)}. Everything else works; the tables show what is missing.")
        for name in incomplete:
            say(f"  {name:20} {where_to_get(name)}")
        # without names, sets that nobody can download unasked may be missing
        sys.exit(1 if is_asked or any(files_of(name) and not needs_confirmation(name) for name in incomplete) else 0)


if __name__ == "__main__":
    run_script("prepare.py", main)
