"""OpenOOD's splits: its lists where they are, ours where they are not, and every difference said."""
import json
import re

import numpy as np
import pytest
from conftest import script

from data import openood, openood_lists
from data.datasets import CATALOG, OPENOOD
from data.sources.store import write_arrays
from data.splits import Split
from utils.io import UserError, write_text

rng = np.random.default_rng(0)


def give(data_dir, name, split="test", labels=None, names=None, verified=True, images=None):
    """A prepared split of images (n, size, size, 3), by default random."""
    record = {"files": {}, "images": len(labels), "source": "a test", "verified": verified}
    for size in CATALOG[name].sizes or (CATALOG[name].size,):
        pixels = rng.integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8) if images is None else images
        file = f"{split}_{size}.npz" if CATALOG[name].sizes else f"{split}.npz"
        names_ = None if names is None else np.array(names)
        record["files"][file] = write_arrays(data_dir / name / file, pixels, labels, names_)
    record["sha256"] = "0"
    path = data_dir / name / "manifest.json"
    splits = json.loads(path.read_text())["splits"] if path.exists() else {}
    write_text(path, json.dumps({"name": name, "splits": splits | {split: record}}))


def write_list(data_dir, path, lines):
    write_text(data_dir / "benchmark_imglist" / path, "".join(f"{line}\n" for line in lines))


@pytest.fixture
def cifar(tmp_path):
    """200 CIFAR-10 test images, labels mixed."""
    labels = rng.permutation(np.repeat(np.arange(10), 20))
    give(tmp_path, "cifar10", labels=labels)
    return tmp_path, labels


def test_without_lists_the_split_is_balanced_disjoint_fixed_and_says_so(cifar):
    data_dir, labels = cifar
    found = openood.benchmark("cifar10", data_dir)
    validation, test = found.validation.index["test"], found.test.index["test"]
    assert sorted([*validation, *test]) == list(range(200)), "each image once"
    assert np.bincount(labels[validation]).tolist() == [2] * 10, "1,000 of 10,000, and of these 200 in proportion"
    again = openood.benchmark("cifar10", data_dir)
    assert np.array_equal(again.validation.index["test"], validation)
    assert "our class-balanced split of the test images, 20 for validation and 180 for testing" in found.notes[0]
    assert found.missing == OPENOOD["cifar10"]
    assert "near is a mean over 0 of 2 sets: cifar100, tinyimagenet missing" in found.notes
    with pytest.raises(UserError, match="python data/prepare.py cifar100"):
        openood.benchmark("cifar100", data_dir)


def test_a_choice_depends_on_labels_and_key_alone():
    labels = np.array([0] * 5 + [1] * 50 + [2] * 50)
    choose = openood.balanced_subset
    chosen = choose(labels, 35, "salt")
    assert np.bincount(labels[chosen]).tolist() == [5, 15, 15], "a small class gives all it has"
    assert np.all(np.diff(chosen) > 0) and not np.array_equal(chosen, choose(labels, 35, "pepper"))
    assert choose(np.zeros(20, int), 5, "x").tolist() == [2, 3, 10, 12, 15], "the same on every machine"
    assert len(choose(labels, 1000, "salt")) == 105 and len(choose(labels[:0], 5, "salt")) == 0


def test_classes_of_the_in_distribution_set_are_never_outliers(cifar):
    data_dir, _ = cifar
    overlapping = openood_lists.OVERLAPPING["cifar10", "tinyimagenet"].split()
    names = [f"{overlapping[0]}/val_0.JPEG", "n99999999/val_1.JPEG", f"{overlapping[-1]}/val_2.JPEG"]
    give(data_dir, "tinyimagenet", labels=np.array([0, 1, 2]), names=names, verified=False)
    part, = openood.benchmark("cifar10", data_dir).groups["near"]
    assert part.index["test"].tolist() == [1]
    assert part.note == "1 images in place of OpenOOD's 7,793, from files that no checksum covers"
    assert len(overlapping) == 24 and len(openood_lists.OVERLAPPING["cifar100", "tinyimagenet"].split()) == 47


def test_lists_choose_these_very_images(cifar):
    data_dir, labels = cifar
    places = openood_lists.index_by_name(Split.open("cifar10", "test", data_dir))
    assert labels[places["cat", "0007"]] == 3 and np.sum(labels[: places["cat", "0007"]] == 3) == 6
    write_list(data_dir, "cifar10/val_cifar10.txt", [
        "cifar10/test/airplane/0020.png 0", "cifar10/test/truck/0001.png 9"])
    write_list(data_dir, "cifar10/test_cifar10.txt", ["cifar10/test/cat/0007.png 3"])
    give(data_dir, "mnist", "train", labels=np.array([5, 0, 4]))
    give(data_dir, "mnist", "test", labels=np.array([7, 2]))
    write_list(data_dir, "cifar10/test_mnist.txt", [
        "mnist/test/2_1.jpg -1", "mnist/train/4_2.jpg -1", "mnist/train/5_0.jpg -1"])
    give(data_dir, "svhn", labels=np.array([5, 1, 3]))
    write_list(data_dir, "cifar10/test_svhn.txt", ["svhn/test/000003_3.jpg -1", "svhn/test/000001_5.jpg -1"])
    give(data_dir, "textures", labels=np.array([0, 1]), names=["banded/banded_2.png", "braided/braided_1.png"])
    write_list(data_dir, "cifar10/test_texture.txt", [
        "texture/braided/braided_1.jpg -1", "texture/zigzag/zigzag_9.jpg -1"])
    give(data_dir, "places365", labels=np.zeros(3, int), names=[f"images/Places365_val_{k}.jpg" for k in range(3)])
    write_list(data_dir, "cifar10/test_places365.txt", ["places365/badlands/Places365_val_2.jpg -1"])

    found = openood.benchmark("cifar10", data_dir)
    assert found.validation.index["test"].tolist() == sorted([places["airplane", "0020"], places["truck", "0001"]])
    assert found.test.index["test"].tolist() == [places["cat", "0007"]] and not found.test.note
    far = {part.name: part for part in found.groups["far"]}
    assert {split: index.tolist() for split, index in far["mnist"].index.items()} == {"test": [1], "train": [0, 2]}
    assert far["svhn"].index["test"].tolist() == [0, 2] and far["places365"].index["test"].tolist() == [2]
    assert far["textures"].index["test"].tolist() == [1], "by name, whatever the ending"
    assert not far["mnist"].note and far["textures"].note == "1 of the 2 images that OpenOOD lists"


def test_lists_of_other_files_are_not_forced_on_a_set(cifar):
    data_dir, _ = cifar
    names = [f"apple/apple_s_{k:06}.png" for k in range(100)]
    give(data_dir, "cifar100", labels=np.arange(100), names=names, verified=False)
    write_list(data_dir, "cifar10/test_cifar100.txt", ["cifar100/test/apple/0001.png -1"])
    part, = openood.benchmark("cifar10", data_dir).groups["near"]
    assert len(part) == 100
    assert part.note == "100 images in place of OpenOOD's 9,000, from files that no checksum covers"


def test_our_splits_can_be_written_and_read_back_as_lists(cifar, tmp_path_factory):
    data_dir, _ = cifar
    give(data_dir, "mnist", "train", labels=np.arange(10))
    give(data_dir, "mnist", "test", labels=np.arange(10)[::-1])
    give(data_dir, "svhn", labels=np.array([1, 2]))
    give(data_dir, "tinyimagenet", labels=np.arange(2), names=["n00000001/val_5.JPEG", "n00000002/val_3.JPEG"])
    give(data_dir, "textures", labels=np.arange(2), names=["a/a_1.jpg", "b/b_2.jpg"])
    ours = openood.benchmark("cifar10", data_dir)
    script("data/openood.py", "cifar10", "--write", data_dir / "benchmark_imglist", "--data-dir", data_dir)
    lines = (data_dir / "benchmark_imglist/cifar10/val_cifar10.txt").read_text().splitlines()
    assert len(lines) == 20 and all(re.fullmatch(r"cifar10/test/[a-z]+/00[0-2]\d\.png \d", line) for line in lines)
    written = {line for path in (data_dir / "benchmark_imglist/cifar10").glob("test_[mst]*") for line in path.open()}
    assert {"tin/val/images/val_5.JPEG -1\n", "texture/b/b_2.jpg -1\n", "svhn/test/000002_2.jpg -1\n",
            "mnist/train/3_3.jpg -1\n"} <= written
    theirs = openood.benchmark("cifar10", data_dir)
    for mine, read in zip([ours.validation, ours.test, *sum(ours.groups.values(), [])],
                          [theirs.validation, theirs.test, *sum(theirs.groups.values(), [])]):
        assert mine.name == read.name and mine.index.keys() == read.index.keys()
        assert all(np.array_equal(mine.index[split], read.index[split]) for split in mine.index)
    assert not theirs.test.note


def test_mnists_lists_too_can_be_written_and_read_back(tmp_path):
    """Digits and clothes by OpenOOD's numbers; notMNIST, whose files have no names, by numbers of ours."""
    give(tmp_path, "mnist", labels=rng.permutation(np.repeat(np.arange(10), 20)))
    give(tmp_path, "fashion_mnist", labels=np.array([9, 2, 9]))
    give(tmp_path, "notmnist", labels=np.array([3, 3, 5]))
    give(tmp_path, "cifar10", labels=np.array([3, 3, 5]))
    give(tmp_path, "places365", labels=np.arange(2), names=["a_abbey/00000074.jpg", "b_beach/00000001.jpg"])
    ours = openood.benchmark("mnist", tmp_path)
    said = script("data/openood.py", "mnist", "--write", tmp_path / "benchmark_imglist", "--data-dir", tmp_path).stdout
    assert "6 lists written" in said and "near is a mean over 2" not in said
    lists = {path.stem: path.read_text() for path in (tmp_path / "benchmark_imglist/mnist").iterdir()}
    assert lists.keys() == {"val_mnist", "test_mnist", "test_fashionmnist", "test_notmnist", "test_cifar10",
                            "test_places365"}
    assert lists["test_fashionmnist"].splitlines() == [f"fashionmnist/test/{name}.jpg -1" for name in (
        "9_0", "2_1", "9_2")]
    assert lists["test_places365"].splitlines()[0] == "places365/a_abbey/00000074.jpg -1"
    assert len(set(lists["test_notmnist"].splitlines())) == 3
    theirs = openood.benchmark("mnist", tmp_path)
    for mine, read in zip([ours.validation, ours.test, *sum(ours.groups.values(), [])],
                          [theirs.validation, theirs.test, *sum(theirs.groups.values(), [])], strict=True):
        assert mine.name == read.name and np.array_equal(mine.index["test"], read.index["test"]), mine.name
    assert not np.isin(theirs.validation.index["test"], theirs.test.index["test"]).any()


@pytest.mark.parametrize("text", [
    "a/b.png 3\na/c d.png -1", "a/b.png 3\na/c d.png -1\n", "a\\b.png\t3\r\n\r\na\\c d.png\t-1\r\n",
    '"a/b.png",3\n"a/c d.png",-1'])
def test_the_last_line_counts_with_and_without_its_end(tmp_path, text):
    """OpenOOD's list of notMNIST ends without a line feed: 17,724 images, of which `wc -l` counts one less."""
    (tmp_path / "list.txt").write_bytes(text.encode())
    found = openood_lists.read_list(tmp_path / "list.txt")
    assert [(str(image), label) for image, label in found] == [("a/b.png", 3), ("a/c d.png", -1)]
    assert openood_lists.IMAGE_LISTS["mnist"][1]["notmnist"] == ("test_notmnist", 17_724)


def test_imagenet_by_file_name_in_class_folders(tmp_path):
    """The order is that of the class folders; lists name the validation images without them."""
    names = ["n01/ILSVRC2012_val_00000003.JPEG", "n01/ILSVRC2012_val_00000009.JPEG", "n02/ILSVRC2012_val_00000001.JPEG"]
    for name in [*names, "n01/train.JPEG", "n02/train.JPEG"]:
        write_text(tmp_path / "imagenet1k" / ("train" if "train" in name else "val") / name, "")
    for name in ("a/x_1.jpg", "b/y_2.jpg"):
        write_text(tmp_path / "ninco/test" / name, "")
    for name in ("bubbly/bubbly_1.jpg", "woven/woven_1.jpg"):
        write_text(tmp_path / "textures/test" / name, "")
    write_list(tmp_path, "imagenet/val_imagenet.txt", ["imagenet_1k/val/ILSVRC2012_val_00000009.JPEG 0"])
    write_list(tmp_path, "imagenet/test_imagenet.txt", [
        "imagenet_1k/val/ILSVRC2012_val_00000001.JPEG 1", "imagenet_1k/val/ILSVRC2012_val_00000003.JPEG 0"])
    write_list(tmp_path, "imagenet/test_ninco.txt", ["ninco/b/y_2.jpeg -1"])
    found = openood.benchmark("imagenet1k", tmp_path)
    assert (found.validation.index["test"].tolist(), found.test.index["test"].tolist()) == ([1], [0, 2])
    assert found.groups["near"][0].index["test"].tolist() == [1]
    assert found.groups["far"][0].index["test"].tolist() == [1], "ImageNet has bubbles"
    assert found.missing == {"near": ["ssb_hard"], "far": ["inaturalist", "openimage_o"]}


def test_a_validation_list_that_is_the_test_list_gives_way_to_the_images_left(tmp_path):
    """A public copy of ImageNet-200's lists has the test list twice; a temperature must not be fitted on it."""
    names = [f"n01443537/ILSVRC2012_val_{k:08}.JPEG" for k in range(4)]
    for name in names:
        write_text(tmp_path / "imagenet1k/val" / name, "")
    for which in ("val", "test"):
        write_list(tmp_path, f"imagenet200/{which}_imagenet200.txt", [
            f"imagenet_1k/val/ILSVRC2012_val_{k:08}.JPEG 0" for k in (3, 0, 2)])
    found = openood.benchmark("imagenet200", tmp_path)
    assert (found.validation.index["test"].tolist(), found.test.index["test"].tolist()) == ([1], [0, 2, 3])
    assert "the 1 images that it does not list, for validation" in found.test.note
