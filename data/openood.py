"""The images of the `openood` benchmark (OpenOOD v1.5, as SDDE uses it): validation, test, near and far OOD images.

  python data/openood.py cifar10                  the images that are there, and their differences from OpenOOD's
  python data/openood.py cifar10 --write LISTS    the same as image lists that OpenOOD reads

OpenOOD fixes its splits by lists of image files. If the lists are in data/benchmark_imglist/ (`prepare.py` copies them
from a mirror), exactly these images are used. If they are missing, or if the images of a set cannot be matched by name,
our own split of the same size is used. `note` of a Subset and `notes` of a PreparedBenchmark say so, as the tables do.

Our splits: images are ranked within their class by the MD5 of "<benchmark> <set> <position>", and the lowest ranks are
taken, so that the sizes of the classes differ by one at most. In the in-distribution test split these are the
validation images, and the rest are the test images. Tiny ImageNet's classes that overlap with CIFAR's, and the textures
that occur in ImageNet, are never taken; OpenOOD's lists do not have them either.
"""
import argparse
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make `data` and `utils` importable

from data.datasets import CATALOG, OPENOOD, OUTLIERS, how_to_get
from data.openood_lists import IMAGE_LISTS, index_by_name, list_path, match_key, paths_of, read_list
from data.splits import available
from data.subsets import OpenSplits, Subset, UnknownClasses, balanced_subset, without_overlap
from utils.io import UserError, write_text
from utils.script import run_script

# OOD images to choose settings by; OpenOOD's own for MNIST are of notMNIST, all of which our copies may be tested on
VALIDATION_OOD = {"mnist": "emnist_letters", "cifar10": "tinyimagenet", "cifar100": "tinyimagenet"}


@dataclass(frozen=True)
class PreparedBenchmark:
    validation: Subset  # for temperatures: never for scores
    test: Subset
    groups: dict  # near, far → Subsets
    missing: dict = field(default_factory=dict)  # near, far → names of sets that are not prepared
    validation_outliers: Subset = None  # to choose settings by: in none of the groups
    refused: dict = field(default_factory=dict)  # names of missing sets that are prepared → why they cannot be used

    @property
    def notes(self):
        """Every difference from OpenOOD's, a sentence each, for the lines under a table."""
        subsets = [self.test, *(subset for group in self.groups.values() for subset in group)]
        lines = [f"{subset.name}: {'; '.join(filter(None, [subset.note, subset.remark]))}" for subset in subsets
                 if subset.note or subset.remark]
        lines += [f"{name}: {why}" for name, why in self.refused.items()]
        for group, names in self.missing.items():
            there = len(self.groups[group])
            lines.append(f"{group} is a mean over {there} of {there + len(names)} sets: {', '.join(names)} missing")
        return lines


def benchmark(dataset, data_dir, splits=None, ood_sets=()):
    """The PreparedBenchmark of an in-distribution set. UserError when `dataset` itself is not prepared.

    A set that OpenOOD does not have gets half of its test images for validation, and the OOD sets of the `dismax`
    benchmark, if it has any. UserError, too, when a list cannot be read.

    Args:
        splits: the OpenSplits to take sets from; by default new ones.
        ood_sets: Splits of the user's (data/ood_folder.py), which become the group "ood".
    """
    if not available(dataset, "test", data_dir, dataset):
        raise UserError(f"{dataset} is not in {data_dir}. {how_to_get(dataset, data_dir)}")
    splits = splits or OpenSplits(data_dir, dataset)
    validation, test = (_id_subsets if dataset in OPENOOD else _halves)(dataset, splits)
    groups, missing, refused = {}, {}, {}
    for group, names in (OPENOOD.get(dataset) or OUTLIERS.get(dataset, {})).items():
        found = {}
        for name in names:
            try:
                found[name] = (_ood_subset if dataset in OPENOOD else _whole_subset)(dataset, name, splits)
            except UnknownClasses as error:
                found[name], refused[name] = None, str(error)
        groups[group] = [subset for subset in found.values() if subset]
        if absent := [name for name, subset in found.items() if not subset]:
            missing[group] = absent
    validation_outliers = _validation_ood(dataset, groups, splits)
    if ood_sets:
        groups["ood"] = [Subset(split.name, {"test": np.arange(len(split))}, len(split), split.note, {"test": split})
                         for split in ood_sets]
    return PreparedBenchmark(validation, test, groups, missing, validation_outliers, refused)


def _validation_ood(dataset, groups, splits):
    """1,000 images of the set that VALIDATION_OOD names, none of them tested on; None where it is not there."""
    name = VALIDATION_OOD.get(dataset)
    if name is None or not splits.available(name):
        return None
    tested = [subset.index["test"] for group in groups.values() for subset in group if subset.name == name]
    tested = np.concatenate([[], *tested]).astype(np.int64)
    split = splits.get(name)
    try:
        free = np.setdiff1d(without_overlap(dataset, split), tested)
    except UnknownClasses:
        return None
    chosen = free[balanced_subset(split.labels[free], 1_000, f"{dataset} {name} validation")]
    if not len(chosen):
        return None
    return splits.subset(name, {"test": chosen}, 1_000, f"{len(chosen):,} images of our choice")


def _halves(dataset, splits):
    """The validation and the test Subset of a set that OpenOOD does not have."""
    labels = splits.get(dataset).labels
    first = balanced_subset(labels, len(labels) // 2, f"{dataset} {dataset}")
    rest = np.setdiff1d(np.arange(len(labels)), first)
    return [splits.subset(dataset, {"test": index}, len(index)) for index in (first, rest)]


def _whole_subset(dataset, name, splits):
    """A set's Subset as OOD images of such a `dataset`, or None when it is not prepared."""
    if not splits.available(name):
        return None
    count = len(splits.get(name))
    return splits.subset(name, {"test": np.arange(count)}, count)


def _id_subsets(dataset, splits):
    """The validation and the test Subset of the in-distribution test split."""
    listed = [_listed(dataset, which, dataset, splits) for which in ("validation", "test")]
    sizes = [IMAGE_LISTS[dataset][1][which][1] for which in ("validation", "test")]
    labels = splits.get(dataset).labels
    if all(subset and len(subset) for subset in listed):
        validation, test = listed
        tested = test.index["test"]
        if not np.isin(validation.index["test"], tested).any():
            return listed
        rest = np.setdiff1d(np.arange(len(labels)), tested)  # a copy of ImageNet-200's lists has the test list twice
        return splits.subset(dataset, {"test": rest}, sizes[0]), replace(test, note="; ".join(filter(None, [
            test.note, f"the {len(rest):,} images that it does not list, for validation: the validation list names "
                       "images of the test list"])))
    count = sizes[0] if len(labels) >= sum(sizes) else max(len(labels) * sizes[0] // sum(sizes), len(labels) > 1)
    ours = balanced_subset(labels, count, f"{dataset} {dataset}")
    rest = np.setdiff1d(np.arange(len(labels)), ours)
    why = "lists are not there" if None in listed else "lists name other files"
    note = ", ".join(filter(None, [
        f"our class-balanced split of the test images, {len(ours):,} for validation and {len(rest):,} for testing: "
        f"OpenOOD's {why}", splits.get(dataset).origin_note]))
    return [splits.subset(dataset, {"test": index}, size, note) for index, size in zip((ours, rest), sizes)]


def _ood_subset(dataset, name, splits):
    """A set's Subset as OOD images of `dataset`, or None when nothing of it is prepared."""
    expected = IMAGE_LISTS[dataset][1][name][1]
    which = ["train", "test"] if expected > CATALOG[name].counts["test"] else ["test"]
    which = [split for split in which if splits.available(name, split)]
    if not which:
        return None
    subset = _listed(dataset, name, name, splits)
    if subset and len(subset):
        return subset
    index = {split: without_overlap(dataset, splits.get(name, split)) for split in which}
    there = sum(map(len, index.values()))
    if there > expected:  # only one split is ever too large
        split, = index
        labels = splits.get(name, split).labels[index[split]]
        index = {split: index[split][balanced_subset(labels, expected, f"{dataset} {name}")]}
    count, origin = sum(map(len, index.values())), splits.get(name, which[0]).origin_note
    if there == expected == sum(CATALOG[name].counts[split] for split in which):
        note = origin  # OpenOOD takes all of it, too
    else:
        chosen = f"{count:,} images of our choice" if there > expected else f"{count:,} images"
        note = ", ".join(filter(None, [f"{chosen} in place of OpenOOD's {expected:,}", origin]))
    return splits.subset(name, index, expected, note)


# ---- OpenOOD's lists ----

def _listed(dataset, which, name, splits):
    """The Subset that a list names, or None without the list; empty when none of its images can be matched."""
    path = list_path(dataset, which, Path(splits.data_dir) / "benchmark_imglist")
    expected = IMAGE_LISTS[dataset][1][which][1]
    if not path.exists():
        return None
    by_split = {}
    for image, label in read_list(path):
        split = "train" if "train" in CATALOG[name].counts and "train" in image.parts[:-1] else "test"
        by_split.setdefault(split, []).append((image, label))
    index = {}
    for split, images in by_split.items():
        if splits.available(name, split):
            opened = splits.get(name, split)
            positions = index_by_name(opened)
            found = {positions[key]: label for image, label in images
                     if (key := match_key(image, positions)) in positions}
            index[split] = np.array(sorted(found), dtype=np.int64)
            if name == dataset:
                _check_labels(path, opened, found)
    count = sum(map(len, index.values()))
    listed = sum(map(len, by_split.values()))
    note = "" if count == listed else f"{count:,} of the {listed:,} images that OpenOOD lists"
    origin = next(filter(None, (splits.get(name, split).origin_note for split in index)), "")
    return splits.subset(name, index, expected, ", ".join(filter(None, [note, origin])))


def _check_labels(path, split, labels):
    """UserError when a list of in-distribution images numbers the classes otherwise. labels: position → label."""
    if len(split.class_names or ()) != CATALOG[split.name].classes:
        return  # of a part of the classes, which has numbers of its own
    wrong = [position for position, label in labels.items() if split.labels[position] != label]
    if wrong:
        raise UserError(f"{path} gives {len(wrong):,} of {len(labels):,} images another class than {split!r} has, "
                        f"for instance image {wrong[0]}: list and images do not belong together. {split.advice}")


def write_lists(dataset, data_dir, target):
    """Write the benchmark as OpenOOD's lists: `relative/path label` a line, −1 for OOD images. Returns the files."""
    found = benchmark(dataset, data_dir)
    subsets = {"validation": found.validation, "test": found.test}
    subsets |= {subset.name: subset for group in found.groups.values() for subset in group}
    files = []
    for which, subset in subsets.items():
        lines = []
        for split, positions in subset.index.items():
            labels, paths = subset.splits[split].labels, paths_of(subset.splits[split])
            lines += [f"{paths[k]} {labels[k] if subset.name == dataset else -1}\n" for k in positions]
        files.append(list_path(dataset, which, target))
        write_text(files[-1], "".join(lines))
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(OPENOOD), help="the in-distribution data set")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write image lists that OpenOOD reads")
    parser.add_argument("--data-dir", type=Path, default=Path(__file__).resolve().parent, help="folder of the prepared "
                        "data sets (default: data/ of this repository)")
    args = parser.parse_args()
    found = benchmark(args.dataset, args.data_dir)
    for role, subsets in (("validation", [found.validation]), ("test", [found.test]), *found.groups.items()):
        for subset in subsets:
            said = "; ".join(filter(None, [subset.note, subset.remark]))
            print(f"{role:10} {subset.name:14} {len(subset):6,} of {subset.expected:6,}  {said}")
    for note in found.notes:
        if "mean over" in note or note.split(":")[0] in found.refused:
            print(note)
    if args.write:
        files = write_lists(args.dataset, args.data_dir, args.write)
        print(f"{len(files)} lists written to {files[0].parent}")


if __name__ == "__main__":
    run_script("openood.py", main)
