"""Make data sets ready: official files → data/<name>/, verified, in the form that the loaders read.

  python data/prepare.py cifar10 svhn                    download, verify, convert
  python data/prepare.py cifar10 --mirror /mnt/data      take what the folder has first; download the rest
  python data/prepare.py --for cifar10                   CIFAR-10 and the sets that its runs are tested against
  python data/prepare.py --benchmark openood --jobs 4    everything that a benchmark needs: dismax, openood or all
  python data/prepare.py --folder flowers=DIR --size 32  your own images, in class folders, as a set to train on
  python data/prepare.py --dry-run                       the plan: what, how big, from where, under which terms
  python data/prepare.py --verify                        read again what was prepared, and compare its checksums
  python data/prepare.py                                 every set; of those over a gigabyte, what mirrors have

A mirror is a folder or an http(s) address; folders are tried first, then addresses, in the order given. An address
holds the official files by their names. A folder may hold these, or torchvision's layout (MNIST/raw,
cifar-10-batches-py, …), an OpenOOD data folder (images_classic, images_largescale, benchmark_imglist), idx files, or
plain class folders <name>/<split>/<class>/<image>. What a published MD5 covers is checked before it is read. The rest
cannot be checked and is recorded as unverified. Nothing is ever changed in a mirror.

How sets are kept:
  small images     data/<name>/<split>.npz: images (n, H, W, C) uint8, labels (n) int64; names (n) where files had some
  natural images   data/<name>/<split>_28.npz, <split>_32.npz: once, from the originals, the shorter side resized
  (small networks) (bilinear, with the bits of torchvision's Resize of PIL images) and the centre cropped
  natural images   data/<name>/<split>/<class>/<image>: as published, unpacked; those of a mirror are linked, not copied
  (ImageNet's)     (textures are kept in both forms)
  CIFAR-10-C …     data/<name>/<corruption>.npy, see corruptions.py
  OpenOOD's lists  data/benchmark_imglist/, see openood.py
manifest.json in each folder says where a set came from, with checksums of what was written. Downloads stay in
data/downloads/, whole, or as .part to continue from; they may be deleted when the sets are ready. Memory stays below
2 GB. The exit status is 0 when everything that was asked for is ready.

Your own images: DIR holds class folders, or train/ and test/ (or val/) with class folders. Without a test folder a
fifth of each class (--test-fraction) becomes the test split, chosen by a hash of the names. Images above 64 pixels a
side (--size) stay in files, linked. Afterwards `train.py --dataset flowers` trains on them.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # run as a script: find our packages

import utils.threads  # noqa: F401, I001  Ctrl-C while the rest is imported

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.datasets import CATALOG, OPENOOD, OUTLIERS, sets_of
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
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SOURCES)}")
    parser.add_argument("--for", dest="datasets", action="append", choices=list(dict.fromkeys([*OUTLIERS, *OPENOOD])),
                        help="a set and its OOD sets, of the dismax benchmark if --benchmark names no other")
    parser.add_argument("--benchmark", action="append", choices=("dismax", "openood", "all"),
                        help="what it needs; all: both, and CIFAR-10-C and CIFAR-100-C")
    parser.add_argument("--mirror", action="append", default=[], help="folder or address to look in before downloading")
    parser.add_argument("--data-dir", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and exit")
    parser.add_argument("--jobs", type=int, default=2, choices=range(1, 17), metavar="N",
                        help="how many sets are downloaded at a time (default 2)")
    parser.add_argument("--verify", action="store_true", help="compare what is prepared with its checksums")
    parser.add_argument("--fresh", action="store_true", help="prepare again what is there")
    own = parser.add_argument_group("your own images")
    own.add_argument("--folder", action="append", default=[], metavar="NAME=DIR", help="class folders as a data set")
    own.add_argument("--size", type=int, default=32, help="pixels a side that they are resized to (default 32)")
    own.add_argument("--test-fraction", type=float, default=0.2, help="of each class, without a test folder (0.2)")
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
    names = list(dict.fromkeys(CATALOG[name].part_of or name for name in asked or SOURCES))

    if args.verify:
        others = [] if asked else prepared_folders(args.data_dir)
        damaged = [name for name in dict.fromkeys([*names, *others]) if not verify(name, args.data_dir)]
        sys.exit(1 if damaged else 0)
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


def prepared_folders(data_dir):
    """The names of the folders that hold a manifest, whatever it is, or arrays."""
    folders = [path for path in sorted(data_dir.glob("*")) if path.is_dir()]
    return [path.name for path in folders if os.path.lexists(path / "manifest.json") or any(path.glob("*.npz"))]


def prepare_folders(args):
    for text in args.folder:
        name, is_there, folder = text.partition("=")
        if not is_there or not folder:
            raise UserError(f"--folder {text}: write NAME=DIR, for instance flowers=/mnt/flowers")
        if args.dry_run:
            say(f"{name:20} {sum(map(len, open_sources(Path(folder)).values())):9,}  from {folder}")
            continue
        say("\n".join(prepare_folder(name, Path(folder), args.size, args.data_dir, args.test_fraction, args.fresh)))


def prepare_all(names, is_asked, mirrors, args):
    """Prepare each set; exits with 1 when one that was asked for, or could have been had, is not whole."""
    def work(name):
        return prepare(name, args.data_dir, mirrors, args.fresh, is_asked or not needs_confirmation(name))

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            whole = dict(zip(names, pool.map(work, names)))
        except KeyboardInterrupt:
            print("\nStopped. What has come is kept: the same command continues from there", file=sys.stderr)
            sys.stderr.flush()
            os._exit(130)  # at once, whatever a server is doing; no file is ever half there
    incomplete = [name for name in names if not whole[name]]
    if incomplete:
        say(f"\nNot complete: {', '.join(incomplete)}. Everything else works; tables show what is missing.")
        for name in incomplete:
            say(f"  {name:20} {where_to_get(name)}")
        # without names, sets that nobody can download unasked may be missing
        sys.exit(1 if is_asked or any(files_of(name) and not needs_confirmation(name) for name in incomplete) else 0)


if __name__ == "__main__":
    run_script("prepare.py", main)
