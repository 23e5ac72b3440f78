"""Small claims about the catalog, prepared splits and the openood benchmark's choice of images."""
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_openood import give, write_list

from data import openood, openood_lists, splits
from data.datasets import CATALOG, IMAGENET200, array_file, how_to_get, image_folder, sets_of
from data.openood_lists import copy_lists, index_by_name, list_path, match_key, paths_of, read_list
from data.splits import Split, available
from data.subsets import OpenSplits, UnknownClasses, balanced_subset, without_overlap
from utils.io import UserError, write_text


def touch(root, *paths):
    for path in paths:
        write_text(root / path, "x" * (1 + len(path)))


def change(data_dir, name, how):
    path = data_dir / name / "manifest.json"
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


# ---- the catalog ----

def test_the_sets_of_a_benchmark_are_in_order_and_each_once():
    far = ["textures", "places365"]
    assert sets_of("dismax", "cifar10") == ["cifar10", "cifar100", "tinyimagenet_resize", "lsun_resize", "svhn"]
    assert sets_of("openood", "cifar100") == [
        "cifar100", "cifar10", "tinyimagenet", "mnist", "svhn", *far, "tinyimagenet597"]
    assert sets_of("all", "cifar10") == [*sets_of("dismax", "cifar10"), "tinyimagenet", "mnist", *far,
                                         "tinyimagenet597", "cifar10_c"]
    assert sets_of("openood", "imagenet200") == [
        "imagenet1k", "ssb_hard", "ninco", "inaturalist", "textures", "openimage_o"]
    assert sets_of("openood", "digits") == [] and sets_of("dismax", "imagenet200") == []
    everything = sets_of("all")
    assert set(everything) == set(CATALOG) - {"emnist_letters", "imagenet200", "imagenet800"}
    assert len(everything) == len(set(everything)) and "notmnist" not in sets_of("dismax")


def test_where_sets_lie_and_how_they_are_had(tmp_path, monkeypatch):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    for name in ("imagenet1k", "imagenet200", "imagenet800"):
        assert image_folder(name, "test", "d") == Path("d/imagenet1k/val")
        assert image_folder(name, "train", "d") == Path("d/imagenet1k/train")
        assert how_to_get(name, "d") == ("ImageNet-1k is used where you keep it: link train/ and val/ at d/imagenet1k "
                                         "or set IMAGENET_DIR to where they are")
    monkeypatch.setenv("IMAGENET_DIR", "/big")
    assert image_folder("imagenet200", "test", "d") == Path("/big/val")
    assert image_folder("ninco", "test", "d") == Path("d/ninco/test")
    assert array_file("cifar10", "train", "d") == Path("d/cifar10/train.npz") == array_file("cifar10", "train", "d", 28)
    assert array_file("textures", "test", "d", 28) == Path("d/textures/test_28.npz")
    assert how_to_get("svhn") == "Prepare it: python data/prepare.py svhn (or make prepare-data DATASETS=svhn)"


def test_published_statistics_and_numbers_of_classes():
    assert {name: (info.mean, info.std) for name, info in CATALOG.items() if info.mean} == {
        "cifar10": ((0.491, 0.482, 0.446), (0.247, 0.243, 0.261)),
        "cifar100": ((0.507, 0.486, 0.440), (0.267, 0.256, 0.276)),
        **dict.fromkeys(("mnist", "fashion_mnist", "digits"), ((0.5,) * 3, (0.5,) * 3)),
        **dict.fromkeys(("imagenet1k", "imagenet200"), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))}
    classes = {name: info.classes for name, info in CATALOG.items()}
    assert [classes[name] for name in (
        "svhn", "mnist", "fashion_mnist", "notmnist", "emnist_letters", "tinyimagenet", "tinyimagenet_resize",
        "lsun_resize", "textures", "places365", "tinyimagenet597", "cifar10_c", "cifar100_c", "imagenet1k",
        "imagenet800", "imagenet_o", "inaturalist", "openimage_o", "ssb_hard", "ninco", "digits_789", "photo_patches")
    ] == [10, 10, 10, 10, 26, 200, 1, 1, 47, 365, 597, 10, 100, 1000, 800, 200, 1, 1, 980, 64, 3, 2]
    for info in CATALOG.values():
        assert not info.class_names or len(info.class_names) == info.classes
    assert {name for name, info in CATALOG.items() if info.folders} == {
        "textures", "imagenet1k", "imagenet200", "imagenet800", "imagenet_o", "inaturalist", "openimage_o", "ssb_hard",
        "ninco"}
    assert {name: info.sizes for name, info in CATALOG.items() if info.sizes} == {
        "textures": (28, 32), "places365": (28, 32), "tinyimagenet597": (32,)}
    wnid = min(IMAGENET200)
    assert CATALOG["imagenet200"].keeps(wnid) and not CATALOG["imagenet800"].keeps(wnid)
    assert not CATALOG["imagenet200"].keeps("n0") and CATALOG["imagenet800"].keeps("n0")


# ---- prepared splits ----

def test_a_split_that_is_not_there_says_what_to_type(tmp_path):
    for words in (("strange", "test"), ("cifar10", "test", "strange")):
        with pytest.raises(UserError, match="^unknown data set 'strange': choose from cifar10, cifar100"):
            Split.open(*words[:2], tmp_path, *words[2:])
    with pytest.raises(UserError, match="svhn/test.npz is missing. Prepare it: python data/prepare.py svhn"):
        Split.open("svhn", "test", tmp_path)
    give(tmp_path, "svhn", labels=np.arange(3))
    change(tmp_path, "svhn", lambda content: content.update(splits={}))
    with pytest.raises(UserError, match="svhn/manifest.json has no split 'test'. Prepare it"):
        Split.open("svhn", "test", tmp_path)
    give(tmp_path, "textures", labels=np.arange(3))
    with pytest.raises(UserError, match="^textures is not prepared for networks of 64 pixels, but .* of 28, 32$"):
        Split.open("textures", "test", tmp_path, "tinyimagenet")
    assert Split.open("textures", "test", tmp_path, "cifar10").images.shape[1] == 32
    assert splits.read_split("textures", "test", tmp_path)[0].shape[1] == 28, "the first of its sizes"


def test_another_file_behind_a_record_is_refused(tmp_path):
    give(tmp_path, "svhn", labels=np.arange(3))
    split = Split.open("svhn", "test", tmp_path)
    assert repr(split) == "<ArraySplit svhn test>" and split.verified and split.origin_note == ""
    for how, said in (
            (lambda kept: kept.pop("sha256"), "it is another file"),
            (lambda kept: kept.update(sha256=3), "it is another file"),
            (lambda kept: kept.update(bytes=kept["bytes"] + 1), r"it has [\d,]+ bytes, but [\d,]+ were written")):
        give(tmp_path, "svhn", labels=np.arange(3))
        change(tmp_path, "svhn", lambda content, how=how: how(content["splits"]["test"]["files"]["test.npz"]))
        with pytest.raises(UserError, match=f"test.npz differs from what was prepared: {said}.*with --fresh$"):
            Split.open("svhn", "test", tmp_path)
    give(tmp_path, "svhn", labels=np.arange(3))
    change(tmp_path, "svhn", lambda content: content["splits"]["test"].update(files={}))
    with pytest.raises(UserError, match="it is another file"):
        Split.open("svhn", "test", tmp_path)
    with open(tmp_path / "svhn/test.npz", "wb") as file:
        np.savez(file, images=np.zeros((3, 32, 32, 3), np.uint8))
    give(tmp_path, "mnist", labels=np.arange(3))
    os.replace(tmp_path / "svhn/test.npz", tmp_path / "mnist/test.npz")
    with pytest.raises(UserError, match="it is another file"):
        Split.open("mnist", "test", tmp_path)


def test_labels_must_be_classes_where_networks_learn_them(tmp_path):
    for name, labels, said in (("mnist", [0, 9], ""), ("mnist", [-1, 3], "from -1 to 3, and there are 10 classes"),
                               ("mnist", [0, 10], "from 0 to 10"), ("places365", [0, 999], "")):
        give(tmp_path, name, labels=np.array(labels), names=["a/1", "b/1"] if name == "places365" else None)
        split = Split.open(name, "test", tmp_path, "mnist")
        if said:
            with pytest.raises(UserError, match=f"differs from what was prepared: its labels go {said}"):
                split.labels.sum()
        else:
            assert split.labels.tolist() == labels
    give(tmp_path, "places365", labels=np.array([0, 2]), names=["a/1", "b/1"])
    assert Split.open("places365", "test", tmp_path, "mnist").class_names == ["a", "1", "b"]
    give(tmp_path, "lsun_resize", labels=np.array([0]))
    assert Split.open("lsun_resize", "test", tmp_path).class_names is None
    give(tmp_path, "svhn", labels=np.array([3]), names=["three/1"])
    assert Split.open("svhn", "test", tmp_path).class_names == list("0123456789"), "the catalog's"


def test_in_which_form_a_set_is_there(tmp_path):
    assert not available("strange", "test", tmp_path) and not available("textures", "test", tmp_path)
    touch(tmp_path, "ninco/test/a/1.jpg", "textures/test_28.npz", "svhn/train.npz")
    assert available("ninco", "test", tmp_path) and available("ninco", "test", tmp_path, "imagenet1k")
    assert not available("ninco", "test", tmp_path, "cifar10")
    assert available("textures", "test", tmp_path) and available("textures", "test", tmp_path, "mnist")
    assert not available("textures", "test", tmp_path, "cifar10")
    assert not available("textures", "test", tmp_path, "imagenet1k")
    assert available("svhn", "train", tmp_path) and not available("svhn", "test", tmp_path)
    touch(tmp_path, "svhn/test/a/1.jpg")
    assert not available("svhn", "test", tmp_path), "a set of arrays is not used from folders"


def test_the_digest_of_a_folder_changes_with_names_and_with_lengths(tmp_path, monkeypatch):
    touch(tmp_path, *(f"ninco/test/{name}" for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg", "c/5.jpg")))
    opened = Split.open("ninco", "test", tmp_path, "imagenet1k")
    assert opened.names == ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg", "c/5.jpg"] and opened.class_names == list("abc")
    assert repr(opened) == "<FolderSplit ninco test>" and splits.LENGTHS == 10_000
    for lengths, step in ((10_000, 1), (2, 3)):
        monkeypatch.setattr(splits, "LENGTHS", lengths)
        content = hashlib.sha256("\0".join(opened.names).encode())
        for file in opened.files[::step]:
            content.update(f"\0{Path(file).stat().st_size}".encode())
        digest = Split.open("ninco", "test", tmp_path, "imagenet1k").digest
        assert digest == f"5 files in 3 folders, names {content.hexdigest()[:12]}"
    write_text(tmp_path / "ninco/manifest.json", json.dumps({"splits": {"test": {"folder": {"images": 6}}}}))
    with pytest.raises(UserError, match="ninco/test differs from what was prepared: it has 5 images, but 6 were "
                                        "prepared.*--fresh"):
        Split.open("ninco", "test", tmp_path, "imagenet1k")


def test_classes_without_known_numbers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path))
    monkeypatch.setitem(CATALOG, "imagenet1k", replace(CATALOG["imagenet1k"], classes=3))
    touch(tmp_path, "val/n00000001/1.jpg", "val/n00000002/1.jpg")
    with pytest.raises(UserError, match="has 2 classes, and ImageNet-1k has 3: which number each of them has is unknown"
                                        " without the training folder$"):
        Split.open("imagenet1k", "test", tmp_path)
    touch(tmp_path, *(f"train/n{k:08}/1.jpg" for k in range(1, 4)))
    test = Split.open("imagenet1k", "test", tmp_path)
    assert test.labels.tolist() == [0, 1] and len(test.class_names) == 3 and test.classes_here == 2
    touch(tmp_path, "train/n00002000/1.jpg")
    with pytest.raises(UserError, match="has 4 classes, and ImageNet-1k has 3: .* is unknown$"):
        Split.open("imagenet1k", "train", tmp_path)


# ---- the benchmark ----

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


def test_the_halves_of_a_set_without_lists(data_dir, tmp_path):
    found = openood.benchmark("digits", data_dir)
    validation, test = found.validation.index["test"], found.test.index["test"]
    assert (len(validation), len(test), found.validation.expected, found.test.expected) == (209, 210, 209, 210)
    assert sorted([*validation, *test]) == list(range(419)) and found.notes == [] and found.missing == {}
    labels = Split.open("digits", "test", data_dir).labels
    assert np.array_equal(validation, balanced_subset(labels, 209, "digits digits"))
    assert {group: [(s.name, len(s), s.expected) for s in subsets] for group, subsets in found.groups.items()} == {
        "near": [("digits_789", 533, 533)], "far": [("photo_patches", 660, 660)]}
    os.symlink(data_dir / "digits", tmp_path / "digits")
    os.symlink(data_dir / "photo_patches", tmp_path / "photo_patches")
    part = openood.benchmark("digits", tmp_path)
    assert part.missing == {"near": ["digits_789"]} and part.groups["near"] == []
    assert part.notes == ["near is a mean over 0 of 1 sets: digits_789 missing"]
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
