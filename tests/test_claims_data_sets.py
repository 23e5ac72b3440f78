"""Small claims about the catalog, prepared splits and the openood benchmark's choice of images."""
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_openood import give

from data import splits
from data.datasets import CATALOG, IMAGENET200, array_file, how_to_get, image_folder, sets_of
from data.splits import Split, available
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
