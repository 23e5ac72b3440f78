"""The user's own sets, made by `prepare.py --folder NAME=DIR` and registered in CATALOG from their manifests."""
import re
from pathlib import Path

from data.datasets import CATALOG, DataSet
from data.manifest import read_manifest
from utils.io import UserError

NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
RESERVED = ("downloads", "benchmark_imglist", "sources")  # other things in a data folder


def register(data_dir):
    """Put the user's sets of a data folder into CATALOG. Returns {name: DataSet}, without those that are damaged."""
    found = {}
    for path in sorted(Path(data_dir).glob("*/manifest.json")):
        try:
            content = read_manifest(path.parent)
            if "dataset" in content:
                found[path.parent.name] = described(path.parent.name, content)
        except (UserError, FileNotFoundError, KeyError, TypeError, ValueError):
            continue
    for name, info in found.items():
        if name not in CATALOG or CATALOG[name].made_from:
            CATALOG[name] = info
    return found


def described(name, content):
    """The DataSet that a manifest's "dataset" tells of. KeyError, TypeError or ValueError when it does not."""
    info = content["dataset"]
    names, mean, std = (tuple(info[key]) for key in ("class_names", "mean", "std"))
    counts = {split: record["images"] for split, record in content["splits"].items()}
    numbers = [*mean, *std, info["size"], *counts.values()]
    if not all(isinstance(text, str) for text in (*names, info["made_from"])) or len(names) < 2:
        raise ValueError("its classes have no names")
    if len(mean) != 3 or len(std) != 3 or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ValueError("it has other numbers")
    if not isinstance(info["size"], int) or info["size"] < 1 or not isinstance(info["folders"], bool):
        raise ValueError("it has no size")
    return DataSet(name, len(names), info["size"], counts, mean, std, folders=info["folders"], class_names=names,
                   made_from=info["made_from"])


def check_name(name):
    """UserError unless a set of the user's own may have this name."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be the name of a set: use letters, digits and _")
    taken = {other.lower() for other, info in CATALOG.items() if not info.made_from}  # some file systems have one case
    if name.lower() in taken or name.lower() in RESERVED:
        raise UserError(f"the name {name} is already in use: choose another, for instance my_{name}")


def known(name, data_dir):
    """Whether there is a set of this name, also among the user's."""
    if name not in CATALOG:
        register(data_dir)
    return name in CATALOG
