"""Small claims about the openood benchmark: which images are chosen, and what is said of them."""
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_openood import give, write_list

from data import openood, openood_lists
from data.datasets import CATALOG
from data.openood_lists import copy_lists, index_by_name, list_path, match_key, paths_of, read_list
from data.splits import Split
from data.subsets import OpenSplits, UnknownClasses, balanced_subset, without_overlap
from utils.io import UserError


class Named:
    """Enough of a split: labels and names of images."""

    def __init__(self, name, names=None, labels=None, class_names=None, split="test"):
        self.name, self.names, self.class_names, self.split, self.advice = name, names, class_names, split, "Get it"
        self.labels = np.arange(len(names)) if labels is None else np.array(labels)

    def __len__(self):
        return len(self.labels)


def test_overlapping_classes_are_told_by_folders_or_the_set_is_left_out():
    tin, odd = OVERLAP = openood_lists.OVERLAPPING["cifar10", "tinyimagenet"].split()[0], "n99999999"
    assert len(OVERLAP) == 2
    kept = without_overlap("cifar10", Named("tinyimagenet", [f"{tin}/1", f"{odd}/2", f"{tin}/3", f"{odd}/4"]))
    assert kept.tolist() == [1, 3] and kept.dtype == np.int64
    assert without_overlap("cifar10", Named("svhn", ["a/1", "a/2"])).tolist() == [0, 1]
    assert without_overlap("cifar10", Named("tinyimagenet", [f"{odd}/1"])).tolist() == [0], "one class, known by number"
    assert without_overlap("imagenet1k", Named("textures", ["bubbly/1", "woven/2"])).tolist() == [1]
    for dataset, split in (("cifar10", Named("tinyimagenet", ["images/1", f"{odd}/2"])),
                           ("cifar10", Named("tinyimagenet", labels=[0, 1])),
                           ("imagenet1k", Named("textures", ["images/1", "images/2"])),
                           ("imagenet1k", Named("textures", labels=[0]))):
        with pytest.raises(UnknownClasses, match=f"^left out: some of its classes are {CATALOG[dataset].title}'s, too, "
                                                 "and .*. Get it, with --fresh, from class folders$"):
            without_overlap(dataset, split)


def test_images_are_found_by_openoods_numbers():
    clothes = Named("fashion_mnist", labels=[4, 4])
    assert index_by_name(Named("mnist", labels=[7, 2])) == {"7_0": 0, "2_1": 1}
    assert index_by_name(clothes) == {"4_0": 0, "4_1": 1}
    assert index_by_name(Named("svhn", labels=[7, 2])) == {"000001_7": 0, "000002_2": 1}
    assert index_by_name(Named("cifar10", labels=[1, 0, 1], class_names=["a", "b"])) == {
        ("b", "0001"): 0, ("a", "0001"): 1, ("b", "0002"): 2}
    assert index_by_name(Named("notmnist", labels=[1, 7], class_names=["A", "B"])) == {
        ("B", "000000"): 0, ("7", "000001"): 1}
    assert index_by_name(Named("places365", ["a/1.png", "b/2.jpg"])) == {
        ("a", "1"): 0, ("b", "2"): 1, "1": 0, "2": 1}
    twice = index_by_name(Named("places365", ["a/1.png", "b/1.jpg"]))
    assert twice == {("a", "1"): 0, ("b", "1"): 1}, "a stem of two images is no key"
    assert match_key(Path("x/b/1.jpeg"), twice) == ("b", "1") and match_key(Path("x/c/1.jpeg"), twice) == "1"


def test_the_paths_of_openoods_data_folder():
    assert paths_of(Named("tinyimagenet", ["n1/val_1.JPEG"])) == ["tin/val/images/val_1.JPEG"]
    assert paths_of(Named("imagenet1k", ["n1/x.JPEG"])) == ["imagenet_1k/val/x.JPEG"] == paths_of(
        Named("imagenet200", ["n1/x.JPEG"]))
    assert paths_of(Named("textures", ["a/1.jpg"])) == ["texture/a/1.jpg"]
    assert paths_of(Named("cifar10", ["cat/1.png"], split="train")) == ["cifar10/train/cat/1.png"]
    assert paths_of(Named("mnist", labels=[7])) == ["mnist/test/7_0.jpg"]
    assert paths_of(Named("cifar100", labels=[0], class_names=["apple"])) == ["cifar100/test/apple/0001.png"]
    assert paths_of(Named("notmnist", labels=[0], class_names=["A"])) == ["notmnist/A/000000.png"]


def test_a_line_without_a_label_is_named(tmp_path):
    for line in ("a.png", "a.png x", "a.png 1234567890", "3"):
        (tmp_path / "list").write_text(f"b.png 1\n\n{line}\n")
        with pytest.raises(UserError, match=f"list, line 3 is not `relative/path label`: '{line}'. Take OpenOOD's"):
            read_list(tmp_path / "list")
    (tmp_path / "list").write_text("x" * 100)
    with pytest.raises(UserError, match=f"line 1 is not .*: '{'x' * 80}'. "):
        read_list(tmp_path / "list")


def test_lists_are_copied_from_the_first_mirror_that_has_them(tmp_path, capsys):
    first, second = tmp_path / "1", tmp_path / "2"
    for mirror, text in ((first, "first 1\n"), (second, "second 1\n")):
        write_list(mirror, "mnist/val_mnist.txt", [text.strip()])
    write_list(second, "cifar10/test_svhn.txt", ["second 1"])
    write_list(second, "mnist/other.txt", ["no list of ours"])
    for _ in range(2):
        copy_lists(["https://address", first, second], tmp_path / "data")
        said = capsys.readouterr().out
    target = tmp_path / "data/benchmark_imglist"
    assert {str(p.relative_to(target)): p.read_text() for p in target.rglob("*.txt")} == {
        "mnist/val_mnist.txt": "first 1\n", "cifar10/test_svhn.txt": "second 1\n"}
    assert said == (f"OpenOOD's lists: 2 of 38 in {target}; without a list, our own splits are used, see "
                    "data/openood.py\n")
    for folder, lists in openood_lists.IMAGE_LISTS.values():
        for file, _ in lists.values():
            write_list(second, f"{folder}/{file}.txt", ["x 1"])
    copy_lists([second], tmp_path / "data")
    assert capsys.readouterr().out == f"OpenOOD's lists: 38 of 38 in {target}\n"
    assert list_path("imagenet200", "ninco", "f") == Path("f/imagenet200/test_ninco.txt")


def test_the_halves_of_a_set_without_lists(tmp_path):
    data_dir, part = tmp_path / "all", tmp_path / "part"
    for name, count in (("digits", 419), ("digits_789", 533), ("photo_patches", 660)):
        give(data_dir, name, labels=np.arange(count) % CATALOG[name].classes)
    part.mkdir()
    found = openood.benchmark("digits", data_dir)
    validation, test = found.validation.index["test"], found.test.index["test"]
    assert (len(validation), len(test), found.validation.expected, found.test.expected) == (209, 210, 209, 210)
    assert sorted([*validation, *test]) == list(range(419)) and found.notes == [] and found.missing == {}
    labels = Split.open("digits", "test", data_dir).labels
    assert np.array_equal(validation, balanced_subset(labels, 209, "digits digits"))
    assert {group: [(s.name, len(s), s.expected) for s in subsets] for group, subsets in found.groups.items()} == {
        "near": [("digits_789", 533, 533)], "far": [("photo_patches", 660, 660)]}
    os.symlink(data_dir / "digits", part / "digits")
    os.symlink(data_dir / "photo_patches", part / "photo_patches")
    some = openood.benchmark("digits", part)
    assert some.missing == {"near": ["digits_789"]} and some.groups["near"] == []
    assert some.notes == ["near is a mean over 0 of 1 sets: digits_789 missing"]
    splits_ = OpenSplits(data_dir, "digits")
    assert splits_.get("digits") is splits_.get("digits", "test") and splits_.available("digits_789")
    assert not splits_.available("svhn") and splits_.get("digits").id_dataset == "digits"


@pytest.mark.parametrize("count, validation", [(1, 0), (2, 1), (10, 1), (19, 1), (20, 2), (200, 20)])
def test_a_small_test_split_is_divided_in_the_same_proportion(tmp_path, count, validation):
    give(tmp_path, "cifar10", labels=np.arange(count) % 10, verified=False)
    found = openood.benchmark("cifar10", tmp_path)
    assert (len(found.validation), len(found.test)) == (validation, count - validation)
    assert (found.validation.expected, found.test.expected) == (1_000, 9_000)
    assert found.test.note == (f"our class-balanced split of the test images, {validation:,} for validation and "
                               f"{count - validation:,} for testing: OpenOOD's lists are not there, from files that no "
                               "checksum covers") == found.validation.note
    write_list(tmp_path, "cifar10/val_cifar10.txt", ["cifar10/test/cat/9999.png 3"])
    write_list(tmp_path, "cifar10/test_cifar10.txt", ["cifar10/test/cat/9998.png 3"])
    assert "OpenOOD's lists name other files" in openood.benchmark("cifar10", tmp_path).test.note


def test_a_set_larger_than_openoods_is_cut_to_a_balanced_choice(tmp_path, monkeypatch):
    monkeypatch.setitem(openood_lists.IMAGE_LISTS["cifar10"][1], "svhn", ("test_svhn", 6))
    give(tmp_path, "cifar10", labels=np.arange(20) % 10)
    for count, note in ((7, "6 images of our choice in place of OpenOOD's 6"), (6, "6 images in place of OpenOOD's 6"),
                        (5, "5 images in place of OpenOOD's 6")):
        give(tmp_path, "svhn", labels=np.arange(count) % 3)
        part, = openood.benchmark("cifar10", tmp_path).groups["far"]
        chosen = balanced_subset(np.arange(count) % 3, 6, "cifar10 svhn")
        assert part.index["test"].tolist() == chosen.tolist() and part.note == note and part.expected == 6
    monkeypatch.setitem(openood_lists.IMAGE_LISTS["cifar10"][1], "svhn", ("test_svhn", 26_032))
    assert part.remark == "OpenOOD tests on JPEG copies of these images"


def test_all_of_a_set_needs_no_note_but_where_it_is_from(tmp_path, monkeypatch):
    monkeypatch.setitem(openood_lists.IMAGE_LISTS["cifar10"][1], "svhn", ("test_svhn", 6))
    monkeypatch.setitem(CATALOG, "svhn", replace(CATALOG["svhn"], counts={"test": 6}))
    give(tmp_path, "cifar10", labels=np.arange(20) % 10)
    for verified, count, note in ((True, 6, ""), (False, 6, "from files that no checksum covers"), (
            True, 5, "5 images in place of OpenOOD's 6")):
        give(tmp_path, "svhn", labels=np.arange(count), verified=verified)
        part, = openood.benchmark("cifar10", tmp_path).groups["far"]
        assert part.note == note and len(part) == count
    for id_dataset, name, names, remark in (("cifar10", "svhn", None, True), ("cifar10", "svhn", ["a/1.png"], False),
                                            ("digits", "svhn", None, False), ("cifar10", "cifar10", None, False)):
        give(tmp_path / "x", name, labels=np.arange(1), names=names)
        subset = OpenSplits(tmp_path / "x", "cifar10").subset(name, {"test": np.arange(1)}, 7, "a note")
        assert (subset.name, subset.expected, subset.note, len(subset)) == (name, 7, "a note", 1)
        splits = OpenSplits(tmp_path / "x", "cifar10")
        splits.id_dataset = id_dataset
        splits._opened = {(name, "test"): subset.splits["test"]}
        assert bool(splits.subset(name, {"test": np.arange(1)}, 7).remark) == remark


def test_images_in_both_lists_are_tested_on_and_the_rest_validates(tmp_path):
    give(tmp_path, "cifar10", labels=np.arange(40) % 10, verified=False)
    write_list(tmp_path, "cifar10/val_cifar10.txt", ["cifar10/test/cat/0001.png 3", "cifar10/test/cat/0002.png 3"])
    write_list(tmp_path, "cifar10/test_cifar10.txt", ["cifar10/test/cat/0002.png 3", "cifar10/test/dog/0001.png 5"])
    found = openood.benchmark("cifar10", tmp_path)
    assert found.test.index["test"].tolist() == [5, 13] and (found.test.expected, found.validation.expected) == (
        9_000, 1_000)
    assert found.validation.index["test"].tolist() == [k for k in range(40) if k not in (5, 13)]
    assert found.test.note == ("from files that no checksum covers; the 38 images that it does not list, for "
                               "validation: the validation list names images of the test list")
    assert found.validation.note == ""


def test_settings_are_chosen_by_images_that_are_not_tested_on(tmp_path):
    give(tmp_path, "cifar10", labels=np.arange(20) % 10)
    assert openood.benchmark("cifar10", tmp_path).validation_outliers is None
    overlapping = openood_lists.OVERLAPPING["cifar10", "tinyimagenet"].split()[0]
    names = [f"{overlapping}/val_0.JPEG", *(f"n9999999{k % 5}/val_{k}.JPEG" for k in range(1, 1_203))]
    give(tmp_path, "tinyimagenet", labels=np.arange(len(names)) % 5, names=names)
    assert openood.benchmark("cifar10", tmp_path).validation_outliers is None, "all are tested on"
    write_list(tmp_path, "cifar10/test_tin.txt", [f"tin/val/images/val_{k}.JPEG -1" for k in range(1, 202)])
    found = openood.benchmark("cifar10", tmp_path)
    outliers, tested = found.validation_outliers, found.groups["near"][0].index["test"]
    assert len(tested) == 201 and len(outliers) == 1_000 == outliers.expected
    assert outliers.note == "1,000 images of our choice" and set(outliers.index["test"]) <= set(range(202, 1_203))
    write_list(tmp_path, "cifar10/test_tin.txt", [f"tin/val/images/val_{k}.JPEG -1" for k in range(1, 1_200)])
    assert openood.benchmark("cifar10", tmp_path).validation_outliers.index["test"].tolist() == [1_200, 1_201, 1_202]


def test_lists_that_number_the_classes_otherwise_are_refused(tmp_path):
    give(tmp_path, "cifar10", labels=np.arange(20) % 10)
    write_list(tmp_path, "cifar10/val_cifar10.txt", ["cifar10/test/cat/0001.png 3", "cifar10/test/cat/0002.png 4"])
    with pytest.raises(UserError, match="val_cifar10.txt gives 1 of 2 images another class than <ArraySplit cifar10 "
                                        "test> has, for instance image 13: .*. Prepare it"):
        openood.benchmark("cifar10", tmp_path)


def test_the_command_prints_what_is_there(tmp_path, monkeypatch, capsys):
    give(tmp_path, "cifar10", labels=np.arange(20) % 10)
    give(tmp_path, "svhn", labels=np.arange(5))
    give(tmp_path, "tinyimagenet", labels=np.arange(2), names=["images/1.JPEG", "images/2.JPEG"])
    words = ["openood.py", "cifar10", "--data-dir", str(tmp_path), "--write", str(tmp_path / "x")]
    monkeypatch.setattr("sys.argv", words)
    openood.main()
    split = ("our class-balanced split of the test images, 2 for validation and 18 for testing: OpenOOD's lists are "
             "not there")
    assert capsys.readouterr().out.splitlines() == [
        f"validation cifar10             2 of  1,000  {split}", f"test       cifar10            18 of  9,000  {split}",
        "far        svhn                5 of 26,032  5 images in place of OpenOOD's 26,032; OpenOOD tests on JPEG "
        "copies of these images",
        "tinyimagenet: left out: some of its classes are CIFAR-10's, too, and its images do not lie in class folders. "
        "Prepare it: python data/prepare.py tinyimagenet (or make prepare-data DATASETS=tinyimagenet), with --fresh, "
        "from class folders", "near is a mean over 0 of 2 sets: cifar100, tinyimagenet missing",
        "far is a mean over 1 of 4 sets: mnist, textures, places365 missing",
        f"3 lists written to {tmp_path / 'x/cifar10'}"]
    assert (tmp_path / "x/cifar10/test_svhn.txt").read_text().splitlines()[1] == "svhn/test/000002_1.jpg -1"
