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
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make `data` and `utils` importable

from data.datasets import CATALOG, OPENOOD, OUTLIERS, sets_of
from data.openood_lists import copy_lists
from data.sources.acquire import prepare
from data.sources.plan import needs_confirmation, print_plan, where_to_get
from data.sources.store import verify
from utils.io import UserError


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
        copy_lists(mirrors, args.data_dir)

    def work(name):
        may_download = bool(asked) or not needs_confirmation(name)
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


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"prepare.py: {error}")
