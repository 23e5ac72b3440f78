"""Prepare CIFAR-10-C and CIFAR-100-C, or make a substitute for them.

  python data/prepare.py cifar10_c                               the official arrays, 2.9 GB
  python data/sources/corruptions.py cifar10 --severity 1 5      a substitute, made from the prepared test images

A file in a mirror is linked, not copied. The substitute is made with the package `imagecorruptions` (`pip install
imagecorruptions-imaug`, the extra `corruptions` in pyproject.toml; the older `imagecorruptions` lacks three corruptions
under NumPy 2). It is NOT CIFAR-10-C: the package has ImageNet-C's parameters, which are harsher on images of 32 pixels.
Tables say so. If the official arrays are there, they are used instead.
"""
import argparse
import inspect
import sys
import zlib
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script: make `data` and `utils` importable

import utils.threads  # noqa: F401  Ctrl-C while the rest is imported
from data.corruptions import ARRAYS, CORRUPTIONS, SEVERITIES
from data.datasets import CATALOG, CORRUPTED
from data.sources import archives, download
from data.sources.store import recorded, write_manifest
from data.splits import read_split
from utils.io import UserError, atomic_write
from utils.script import run_script

# of CIFAR-10-C's and CIFAR-100-C's arrays, as torch-uncertainty 0.13.0 publishes them
MD5S = {
    "gaussian_noise": ("ecaf8b9a2399ffeda7680934c33405fd", "ecc4d366eac432bdf25c024086f5e97d"),
    "shot_noise": ("3a7239bb118894f013d9bf1984be7f11", "b0a1fa6e1e465a747c1b204b1914048a"),
    "impulse_noise": ("2090e01c83519ec51427e65116af6b1a", "3b3c210ddfa0b5cb918ff4537a429fef"),
    "defocus_blur": ("7d1322666342a0702b1957e92f6254bc", "d923e3d9c585a27f0956e2f2ad832564"),
    "glass_blur": ("7361fb4019269e02dbf6925f083e8629", "0bf384f38e5ccbf8dd479d9059b913e1"),
    "motion_blur": ("fffa5f852ff7ad299cfe8a7643f090f4", "732a7e2e54152ff97c742d4c388c5516"),
    "zoom_blur": ("6ea8e63f1c5cdee1517533840641641b", "0204613400c034a81c4830d5df81cb82"),
    "snow": ("bb238de8555123da9c282dea23bd6e55", "0237be164583af146b7b144e73b43465"),
    "frost": ("31f6ab3bce1d9934abfb0cc13656f141", "3a39c6823bdfaa0bf8b12fe7004b8117"),
    "fog": ("7b397314b5670f825465fbcd1f6e9ccd", "4efc7ebd5e82b028bdbe13048e3ea564"),
    "brightness": ("0a81ef75e0b523c3383219c330a85d48", "f22d7195aecd6abb541e27fca230c171"),
    "contrast": ("3c8262171c51307f916c30a3308235a8", "322bb385f1d05154ee197ca16535f71e"),
    "elastic_transform": ("9421657c6cd452429cf6ce96cc412b5f", "a0792bd6581f6810878be71acedfc65a"),
    "pixelate": ("0f14f7e2db14288304e1de10df16832f", "96c00c60f144539e14cffb02ddbd0640"),
    "jpeg_compression": ("2b9cc4c864e0193bb64db8d7728f8187", "c851b7f1324e1d2ffddeb76920576d11"),
    "speckle_noise": ("ef00b87611792b00df09c0b0237a1e30", "e3f215b1a0f9fd9fd6f0d1cf94a7ce99"),
    "gaussian_blur": ("c33370155bc9b055fb4a89113d3c559d", "5204ba0d557839772ef5a4196a052c3e"),
    "spatter": ("8a5a3903a7f8f65b59501a6093b4311e", "12ccf41d62564d36e1f6a6ada5022728"),
    "saturate": ("1cfae0964219c5102abbb883e538cc56", "c0697e9fdd646916a61e9c312c77bf6b"),
}
LABELS_MD5 = {"cifar10_c": "c439b113295ed5254878798ffe28fd54", "cifar100_c": "bb4026e9ce52996b95f439544568cdb2"}
ARCHIVE_LIMITS = archives.Limits(members=100, member=1 << 28)


# ---- the official arrays ----

def official_files(name):
    """{file name: MD5} of a corrupted set."""
    which = list(CORRUPTED.values()).index(name)
    return {"labels.npy": LABELS_MD5[name]} | {f"{c}.npy": MD5S[c][which] for c in ARRAYS}


def prepare_official(finder, folder, ready):
    """Bring the official arrays to `folder`. Returns {file name: {bytes, md5}} of those that are there then.

    From a mirror's CIFAR-10-C/ each verified file is linked; from the archive it is unpacked. `ready` ones are skipped.
    Files that somebody unpacked by hand, into `folder` or beside it, are verified and used.
    """
    files, done = official_files(finder.name), {}
    for name in files:
        if name in ready:
            done[name] = ready[name]
        elif (folder / name).is_file() and finder.try_(_checked, folder / name, files[name]):
            done[name] = {"bytes": (folder / name).stat().st_size, "md5": files[name]}
        elif path := finder.try_(_in_folders, finder, name, files[name]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(path.resolve())
            done[name] = {"bytes": path.stat().st_size, "md5": files[name]}
    if missing := {name: md5 for name, md5 in files.items() if name not in done}:
        if finder.may_download:
            finder.try_(finder.download, "test")
        if archive := finder.try_(finder.verified, finder.source.archive):
            done |= finder.try_(_unpack, archive, folder, missing) or {}
    return done


def _in_folders(finder, name, md5):
    title, data_dir = CATALOG[finder.name].title, finder.downloads.parent
    places = [folder / sub for folder in finder.folders for sub in (title, ".")] + [data_dir / title]
    return next((_checked(place / name, md5) for place in places if (place / name).is_file()), None)


def _checked(path, md5):
    """The path. UserError when its MD5 is another."""
    if (actual := download.md5_of(path)) != md5:
        raise UserError(download.mismatch(path, md5, actual))
    return path


def _unpack(archive, folder, wanted):
    """One array of 150 MB in memory at a time."""
    done = {}
    names = {member: Path(member).name for member in archives.members(archive, ARCHIVE_LIMITS)
             if Path(member).name in wanted}
    contents = archives.read_members(archive, names)
    for member, content in tqdm(contents, total=len(names), desc=archive.name, disable=None):
        name = names[member]
        with atomic_write(folder / name) as file:
            file.write(content)
        done[name] = {"bytes": len(content), "md5": wanted[name]}
    return done


def record_files(folder, name, files, more):
    """Add files to the manifest of a corrupted set."""
    record = recorded(folder).get("test", {"files": {}})
    write_manifest(folder, name, {"test": record | more | {"files": record.get("files", {}) | files}})


# ---- a substitute ----

def make_corruptions(dataset, corruptions, severities, count, data_dir):
    """Corrupt the first `count` prepared test images; the same call gives the same images, whatever else is made."""
    try:
        import imagecorruptions
    except ImportError as error:
        raise UserError("the package imagecorruptions is not installed: pip install imagecorruptions-imaug") from error
    name, folder = CORRUPTED[dataset], Path(data_dir) / CORRUPTED[dataset]
    images, labels = read_split(dataset, "test", data_dir)
    images = images[:count]
    files = {"labels-made.npy": _write(folder / "labels-made.npy", labels)}
    failed = []
    for corruption in corruptions:
        for severity in severities:
            title, seed = f"{corruption} {severity}", zlib.crc32(f"{dataset} {corruption} {severity}".encode())
            np.random.seed(seed)  # the package draws from NumPy's global generator, in some corruptions from their own
            takes_seed = "seed" in inspect.signature(getattr(imagecorruptions, corruption)).parameters
            bar = tqdm(images, unit="img", desc=title, disable=None, leave=False)
            try:
                corrupted = [imagecorruptions.corrupt(
                    image, corruption_name=corruption, severity=severity, **({"seed": seed + k} if takes_seed else {})
                ) for k, image in enumerate(bar)]
            except (TypeError, AttributeError) as error:  # calls that newer scikit-image or NumPy have taken away
                failed.append(f"{title} ({error})")
                continue
            path = folder / f"{corruption}-{severity}.npy"
            files[path.name] = _write(path, np.stack(corrupted).astype(np.uint8))
    package = next((p for p in ("imagecorruptions-imaug", "imagecorruptions") if _version(p)), "imagecorruptions")
    record_files(folder, name, files, {"made": f"{package} {_version(package)}, first {len(images)} test images"})
    print(f"{folder}: {len(files) - 1} arrays of {len(images)} images made with {package} {_version(package)}")
    if failed:
        print(f"{package} could not make: {'; '.join(failed)}")


def _write(path, array):
    with atomic_write(path) as file:
        np.save(file, array)
    return {"bytes": path.stat().st_size, "md5": download.md5_of(path)}


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(CORRUPTED), help="the prepared data set")
    parser.add_argument("--severity", type=int, nargs="+", choices=SEVERITIES, default=[1, 5], help="default: 1 5")
    parser.add_argument("--corruptions", nargs="+", choices=ARRAYS, default=CORRUPTIONS, metavar="NAME",
                        help=f"{', '.join(ARRAYS)} (default: the first 15)")
    parser.add_argument("--count", type=int, default=10_000, help="number of test images (default: 10,000)")
    parser.add_argument("--data-dir", type=Path, default=Path(__file__).resolve().parents[1], help="folder of the "
                        "prepared data sets (default: data/ of this repository)")
    args = parser.parse_args()
    make_corruptions(args.dataset, args.corruptions, args.severity, args.count, args.data_dir)


if __name__ == "__main__":
    run_script("corruptions.py", main)
