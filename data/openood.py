"""The `openood` benchmark's images (OpenOOD v1.5, as SDDE uses it): which of which set, for validation, near and far.

  python data/openood.py cifar10                  what is there, and how it differs from OpenOOD's
  python data/openood.py cifar10 --write LISTS    the same as image lists that OpenOOD reads

OpenOOD fixes its splits by lists of image files. Where they are in data/benchmark_imglist/ (`prepare.py` brings them
from a mirror that has them), these very images are used. Where they are not, or where a set's images cannot be told by
name, the split is ours, has the sizes that OpenOOD states, and says so: `note` of a Part, `notes` of a Benchmark.

Ours: images are ranked within their class by the MD5 of "<benchmark> <set> <position>"; those of the lowest ranks are
taken, so that all classes have the same number, give or take one. Of the in-distribution test split these are the
validation images, and the others the test images. Tiny ImageNet's classes that show a class of CIFAR, and the textures
that ImageNet has, are never taken: OpenOOD's lists have none of them, either.
"""
import argparse
import hashlib
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make `data` and `files` importable

from data.datasets import CATALOG, OPENOOD, OUTLIERS, how_to_get
from data.openood_lists import LISTS, OVERLAPPING, key_of, list_path, paths_of, places_of, read_list
from data.splits import available, labels_of, names_of
from utils.io import UserError, write_text

# outliers to choose settings by; OpenOOD's own for MNIST are of notMNIST, all of which our copies may be tested on
VALIDATION_OUTLIERS = {"mnist": "emnist_letters", "cifar10": "tinyimagenet", "cifar100": "tinyimagenet"}


@dataclass(frozen=True)
class Part:
    """Some images of a set."""

    name: str  # in CATALOG
    index: dict  # split → positions (k) int64 in the order in which the split is loaded
    expected: int  # so many images OpenOOD has there
    note: str = ""  # how these differ from OpenOOD's; "" if they do not

    def __len__(self):
        return sum(len(positions) for positions in self.index.values())


@dataclass(frozen=True)
class Benchmark:
    validation: Part  # for temperatures: never for scores
    test: Part
    groups: dict  # near, far → Parts
    missing: dict = field(default_factory=dict)  # near, far → names of sets that are not prepared
    validation_outliers: Part | None = None  # for choosing settings: none of these images is tested on

    @property
    def notes(self):
        """Every difference from OpenOOD's, a sentence each, for the lines under a table."""
        parts = [self.test, *(part for parts in self.groups.values() for part in parts)]
        lines = [f"{part.name}: {part.note}" for part in parts if part.note]
        for group, names in self.missing.items():
            there = len(self.groups[group])
            lines.append(f"{group} is a mean over {there} of {there + len(names)} sets: {', '.join(names)} missing")
        return lines


def benchmark(dataset, data_dir):
    """The Benchmark of an in-distribution set, of what is prepared. UserError when `dataset` itself is not there.

    A set that OpenOOD does not have gets half of its test images for validation, and the outliers of `OUTLIERS`.
    """
    if not available(dataset, "test", data_dir, dataset):
        raise UserError(f"{dataset} is not in {data_dir}. {how_to_get(dataset, data_dir)}")
    if dataset not in OPENOOD:
        return _without_lists(dataset, data_dir)
    validation, test = _inside(dataset, data_dir)
    groups, missing = {}, {}
    for group, names in OPENOOD[dataset].items():
        found = {name: _outliers(dataset, name, data_dir) for name in names}
        groups[group] = [part for part in found.values() if part]
        if absent := [name for name, part in found.items() if not part]:
            missing[group] = absent
    return Benchmark(validation, test, groups, missing, _validation_outliers(dataset, groups, data_dir))


def _validation_outliers(dataset, groups, data_dir):
    """1,000 images of the set that VALIDATION_OUTLIERS names, none of them tested on; None where it is not there."""
    name = VALIDATION_OUTLIERS.get(dataset)
    if name is None or not available(name, "test", data_dir, dataset):
        return None
    tested = [part.index["test"] for parts in groups.values() for part in parts if part.name == name]
    labels = labels_of(name, "test", data_dir, dataset)
    tested = np.concatenate([[], *tested]).astype(np.int64)
    free = np.setdiff1d(_without_overlap(dataset, name, "test", data_dir), tested)
    chosen = free[choose(labels[free], min(1_000, len(free)), f"{dataset} {name} validation")]
    return Part(name, {"test": chosen}, 1_000, f"{len(chosen):,} images of our choice") if len(chosen) else None


def _without_lists(dataset, data_dir):
    labels = labels_of(dataset, "test", data_dir, dataset)
    first = choose(labels, len(labels) // 2, f"{dataset} {dataset}")
    rest = np.setdiff1d(np.arange(len(labels)), first)
    validation, test = (Part(dataset, {"test": index}, len(index)) for index in (first, rest))
    groups, missing = {}, {}
    for group, names in OUTLIERS[dataset].items():
        there = [name for name in names if available(name, "test", data_dir, dataset)]
        sizes = [len(labels_of(name, "test", data_dir, dataset)) for name in there]
        groups[group] = [Part(name, {"test": np.arange(n)}, n) for name, n in zip(there, sizes)]
        if absent := [name for name in names if name not in there]:
            missing[group] = absent
    return Benchmark(validation, test, groups, missing)


def _inside(dataset, data_dir):
    """The validation and the test Part of the in-distribution test split."""
    listed = [_listed(dataset, which, dataset, data_dir) for which in ("validation", "test")]
    sizes = [LISTS[dataset][1][which][1] for which in ("validation", "test")]
    labels = labels_of(dataset, "test", data_dir, dataset)
    if all(part and len(part) for part in listed):
        validation, test = listed
        tested = test.index["test"]
        if not np.isin(validation.index["test"], tested).any():
            return listed
        rest = np.setdiff1d(np.arange(len(labels)), tested)  # a copy of ImageNet-200's lists has the test list twice
        return Part(dataset, {"test": rest}, sizes[0]), replace(test, note="; ".join(filter(None, [
            test.note, f"the {len(rest):,} images that it does not list, for validation: the validation list names "
                       "images of the test list"])))
    count = sizes[0] if len(labels) >= sum(sizes) else max(len(labels) * sizes[0] // sum(sizes), len(labels) > 1)
    ours = choose(labels, count, f"{dataset} {dataset}")
    rest = np.setdiff1d(np.arange(len(labels)), ours)
    why = "lists are not there" if None in listed else "lists name other files"
    note = (f"our class-balanced split of the test images, {len(ours):,} for validation and {len(rest):,} for testing: "
            f"OpenOOD's {why}{_origin(dataset, 'test', data_dir)}")
    return [Part(dataset, {"test": index}, size, note) for index, size in zip((ours, rest), sizes)]


def _outliers(dataset, name, data_dir):
    """A set's Part as outliers of `dataset`, or None when nothing of it is prepared."""
    expected = LISTS[dataset][1][name][1]
    splits = ["train", "test"] if expected > CATALOG[name].counts["test"] else ["test"]
    splits = [split for split in splits if available(name, split, data_dir, dataset)]
    if not splits:
        return None
    part = _listed(dataset, name, name, data_dir)
    if part and len(part):
        return part
    index = {split: _without_overlap(dataset, name, split, data_dir) for split in splits}
    labels = {split: labels_of(name, split, data_dir, dataset)[positions] for split, positions in index.items()}
    there = sum(map(len, index.values()))
    if there > expected:  # only one split is ever too large
        split, = index
        index = {split: index[split][choose(labels[split], expected, f"{dataset} {name}")]}
    count = sum(map(len, index.values()))
    if there == expected == sum(CATALOG[name].counts[split] for split in splits):
        note = _origin(name, splits[0], data_dir).removeprefix(", ")  # OpenOOD takes all of it, too
    else:
        chosen = f"{count:,} images of our choice" if there > expected else f"{count:,} images"
        note = f"{chosen} in place of OpenOOD's {expected:,}{_origin(name, splits[0], data_dir)}"
    return Part(name, index, expected, note)


def _without_overlap(dataset, name, split, data_dir):
    """Positions of the images whose class is not one of `dataset`'s."""
    overlapping = OVERLAPPING.get((dataset, name), "").split()
    names = names_of(name, split, data_dir, dataset) if overlapping else None
    if names is None:
        return np.arange(len(labels_of(name, split, data_dir, dataset)))
    return np.array([k for k, image in enumerate(names) if image.split("/")[0] not in overlapping], dtype=np.int64)


def choose(labels, count, salt):
    """The positions (count), ascending, of a class-balanced choice that depends on salt and labels alone."""
    order = sorted(range(len(labels)), key=lambda k: hashlib.md5(f"{salt} {k}".encode()).digest())
    seen, rank = {}, {}
    for k in order:
        rank[k] = seen.get(labels[k], 0)
        seen[labels[k]] = rank[k] + 1
    return np.array(sorted(sorted(order, key=rank.get)[:count]), dtype=np.int64)


def _origin(name, split, data_dir):
    try:
        record = json.loads((Path(data_dir) / name / "manifest.json").read_text())["splits"][split]
    except (FileNotFoundError, KeyError, ValueError):
        return ""
    return "" if record["verified"] else ", from files that no checksum covers"


# ---- OpenOOD's lists ----

def _listed(dataset, which, name, data_dir):
    """The Part that a list names, or None without the list; empty when none of its images can be told."""
    path, expected = list_path(dataset, which, Path(data_dir) / "benchmark_imglist"), LISTS[dataset][1][which][1]
    if not path.exists():
        return None
    by_split = {}
    for image, _ in read_list(path):
        split = "train" if "train" in CATALOG[name].counts and image.parts[1] == "train" else "test"
        by_split.setdefault(split, []).append(image)
    index = {}
    for split, images in by_split.items():
        if available(name, split, data_dir, dataset):
            places = places_of(name, split, data_dir, dataset)
            found = [places[key] for image in images if (key := key_of(image, places)) in places]
            index[split] = np.array(sorted(found), dtype=np.int64)
    count = sum(map(len, index.values()))
    listed = sum(map(len, by_split.values()))
    note = "" if count == listed else f"{count:,} of the {listed:,} images that OpenOOD lists"
    origin = next((o for split in index if (o := _origin(name, split, data_dir))), "")
    return Part(name, index, expected, (note + origin).removeprefix(", "))


def write_lists(dataset, data_dir, target):
    """Write the benchmark as OpenOOD's lists: `relative/path label` a line, −1 for outliers. Returns the files."""
    found = benchmark(dataset, data_dir)
    parts = {"validation": found.validation, "test": found.test}
    parts |= {part.name: part for group in found.groups.values() for part in group}
    files = []
    for which, part in parts.items():
        lines = []
        for split, positions in part.index.items():
            labels = labels_of(part.name, split, data_dir, dataset)
            paths = paths_of(part.name, split, data_dir, dataset)
            lines += [f"{paths[k]} {labels[k] if part.name == dataset else -1}\n" for k in positions]
        files.append(list_path(dataset, which, target))
        write_text(files[-1], "".join(lines))
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(OPENOOD))
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write lists that OpenOOD reads")
    parser.add_argument("--data-dir", type=Path, default=Path(__file__).resolve().parent)
    args = parser.parse_args()
    found = benchmark(args.dataset, args.data_dir)
    for role, parts in (("validation", [found.validation]), ("test", [found.test]), *found.groups.items()):
        for part in parts:
            print(f"{role:10} {part.name:14} {len(part):6,} of {part.expected:6,}  {part.note}")
    for note in found.notes:
        print(note) if "mean over" in note else None
    if args.write:
        files = write_lists(args.dataset, args.data_dir, args.write)
        print(f"{len(files)} lists written to {files[0].parent}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"openood.py: {error}")
