"""A Split: read once, checked against its manifest, and refused when it is another than was prepared."""
import errno
import json
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from test_openood import give

from data import loaders, openood, splits
from data.sources.store import write_arrays
from data.splits import Split
from utils import npz
from utils.io import UserError

CPU = torch.device("cpu")
rng = np.random.default_rng(0)


@pytest.fixture
def digits(data_dir, tmp_path):
    """A copy of the prepared digits that a test may damage."""
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    return tmp_path


def change_manifest(data_dir, change, name="digits"):
    path = data_dir / name / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ---- what a split tells ----

def test_a_split_tells_what_is_known_of_it(tmp_path):
    labels = np.array([3, 0, 9])
    give(tmp_path, "cifar10", labels=labels, verified=False)
    split = Split.open("cifar10", "test", tmp_path)
    assert len(split) == 3 and split.labels.tolist() == [3, 0, 9] and split.labels.dtype == np.int64
    assert split.images.shape == (3, 32, 32, 3) and split.images.dtype == np.uint8
    assert split.names is None and split.class_names[3] == "cat" and len(split.class_names) == 10
    assert not split.verified and split.origin_note == "from files that no checksum covers"
    record = json.loads((tmp_path / "cifar10/manifest.json").read_text())["splits"]["test"]
    assert split.digest == record["files"]["test.npz"]["sha256"] and split.source == "a test"
    with pytest.raises(ValueError):
        split.labels[0] = 1  # handed on to many


def test_names_and_class_names_come_from_the_files(tmp_path):
    give(tmp_path, "places365", labels=np.array([1, 0]), names=["forêt/2.jpg", "abbey/1.jpg"])
    split = Split.open("places365", "test", tmp_path, "mnist")
    assert split.names == ["forêt/2.jpg", "abbey/1.jpg"] and split.class_names == ["abbey", "forêt"]
    assert split.images.shape == (2, 28, 28, 3) and split.size == 28


def test_each_array_is_read_once_and_images_only_while_somebody_holds_them(digits, monkeypatch):
    read = []
    original = npz.read_arrays
    monkeypatch.setattr("data.splits.read_arrays", lambda path, *keys: read.extend(keys) or original(path, *keys))
    split = Split.open("digits", "train", digits)
    assert read == [], "opening reads headers only"
    images = split.images
    assert split.images is images and len(split) == len(split.labels) == 845
    assert sorted(read) == ["images", "labels"]
    del images
    assert split.images.shape == (845, 28, 28, 1) and sorted(read) == ["images", "images", "labels"]


def test_a_benchmark_opens_each_split_once(tmp_path, monkeypatch):
    opened = []
    original = Split.open
    monkeypatch.setattr(Split, "open", staticmethod(lambda *words: opened.append(words[:2]) or original(*words)))
    give(tmp_path, "cifar10", labels=np.repeat(np.arange(10), 20))
    give(tmp_path, "tinyimagenet", labels=np.arange(3), names=[f"n0000000{k}/{k}.JPEG" for k in range(3)])
    for split in ("train", "test"):
        give(tmp_path, "mnist", split, labels=np.arange(10))
    found = openood.benchmark("cifar10", tmp_path)
    assert len(opened) == len(set(opened)) == 4
    assert found.test.splits["test"] is found.validation.splits["test"], "and hands it on"


def test_a_split_that_is_open_can_be_loaded(data_dir):
    split = Split.open("photo_patches", "test", data_dir, "digits")
    ours, theirs = loaders.open_split(split, CPU), loaders.open_set("photo_patches", "test", data_dir, CPU, "digits")
    assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)


# ---- what was prepared is what is read ----

def replace_arrays(data_dir, images, labels, file="test.npz"):
    """Other arrays where the manifest tells of the first ones; a correct .npz."""
    np.savez(data_dir / "digits" / file, images=images, labels=labels)


@pytest.mark.parametrize("images, labels, reason", [
    ((419, 28, 28, 1), 418, "it has 419 images and labels of shape .418,."),
    ((418, 28, 28, 1), 418, "it has 418 images .* and 419 images were prepared"),
    ((419, 64, 64, 1), 419, r"its images are uint8 of shape \(419, 64, 64, 1\)"),
    ((419, 28, 28), 419, r"its images are uint8 of shape \(419, 28, 28\)"),
    ((419, 28, 28, 4), 419, "its images are uint8"),
    ((419, 28, 28, 1), 419, "its content has changed"),
])
def test_other_arrays_behind_the_manifest_are_refused(digits, images, labels, reason):
    replace_arrays(digits, np.zeros(images, np.uint8), np.zeros(labels, np.int64))
    for use in (lambda: Split.open("digits", "test", digits), lambda: loaders.open_set("digits", "test", digits, CPU),
                lambda: Split.open("digits", "test", digits).digest, lambda: openood.benchmark("digits", digits)):
        with pytest.raises(UserError, match=rf"differs from what was prepared: {reason}.*prepare.py digits.*--fresh"):
            use()


def test_arrays_of_other_types_are_refused(digits):
    replace_arrays(digits, np.zeros((419, 28, 28, 1), np.float32), np.zeros(419, np.int64))
    with pytest.raises(UserError, match="its images are float32"):
        Split.open("digits", "test", digits)
    replace_arrays(digits, np.zeros((419, 28, 28, 1), np.uint8), np.zeros(419, np.float64))
    with pytest.raises(UserError, match="differs from what was prepared"):
        Split.open("digits", "test", digits)


def test_manifests_without_crcs_have_their_sha256_compared_on_reading(digits):
    """Those of earlier versions."""
    change_manifest(digits, lambda content: [kept.pop("crc32") for record in content["splits"].values()
                                             for kept in record["files"].values()])
    assert len(Split.open("digits", "test", digits).images) == 419
    path = digits / "digits/test.npz"
    with np.load(path) as content:
        images, labels = content["images"].copy(), content["labels"]
    images[0, 0, 0] ^= 1
    write_arrays(path, images, labels)
    with pytest.raises(UserError, match="differs from what was prepared: its content has changed"):
        loaders.open_set("digits", "test", digits, CPU)


def test_labels_beyond_the_classes_are_refused(digits):
    split = Split.open("digits", "test", digits)
    record = write_arrays(digits / "digits/test.npz", split.images, split.labels + 1)
    change_manifest(digits, lambda content: content["splits"]["test"]["files"].update({"test.npz": record}))
    with pytest.raises(UserError, match="its labels go from 1 to 7, and there are 7 classes"):
        loaders.open_set("digits", "test", digits, CPU)


@pytest.mark.parametrize("content", [
    b"", b"null", b"[]", b"\xff\xfe\0", b'{"splits": []}', b'{"splits": {"test": 3}}',
    b'{"splits": {"test": {"files": 1}}}',
    b'{"splits": {"test": {"files": {"test.npz": 7}}}}', b'{"splits": {"test": {"files": {"../x": {"bytes": 1}}}}}',
    b'{"splits": {"test": {"images": "many"}}}', b'{"splits": {"test": {"folder": 1}}}', b"[" * 100_000])
def test_a_manifest_of_another_type_is_named(digits, content):
    (digits / "digits/manifest.json").write_bytes(content)
    for use in (lambda: loaders.open_set("digits", "test", digits, CPU), lambda: openood.benchmark("digits", digits),
                lambda: Split.open("digits", "test", digits).digest):
        with pytest.raises(UserError, match=r"manifest.json is (damaged|not a manifest).*prepare.py digits .*--fresh"):
            use()


def test_a_header_that_promises_terabytes_allocates_nothing(digits):
    """An .npz whose header says 28 TB: refused by the file's length, before any memory is taken."""
    path = digits / "digits/test.npz"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (28000000000, 32, 32, 1), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + bytes(1000)
    with np.load(path) as arrays:
        labels = arrays["labels"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content)
        with archive.open("labels.npy", "w") as file:
            np.lib.format.write_array(file, labels)
    with pytest.raises(UserError, match="is damaged .images.npy does not hold the array that its header says"):
        loaders.open_set("digits", "test", digits, CPU)


def test_pickles_in_arrays_are_not_loaded(digits):
    np.savez(digits / "digits/test.npz", images=np.array([print], dtype=object), labels=np.zeros(1, np.int64))
    with pytest.raises(UserError, match="test.npz is damaged"):
        loaders.open_set("digits", "test", digits, CPU)


def test_damage_anywhere_is_a_sentence(digits):
    """Cut, zeroed, flipped at random places: refused, or the very same images."""
    path = digits / "digits/test.npz"
    whole, expected = path.read_bytes(), Split.open("digits", "test", digits).images.copy()
    mutations = np.random.default_rng(1)
    refused = 0
    for kind in ("cut", "zero", "flip", "insert") * 15:
        content, at = bytearray(whole), int(mutations.integers(len(whole)))
        if kind == "cut":
            del content[at:]
        elif kind == "zero":
            content[at : at + 64] = bytes(len(content[at : at + 64]))
        elif kind == "flip":
            content[at] ^= 1 << int(mutations.integers(8))
        else:
            content[at:at] = b"\0" * 7
        path.write_bytes(content)
        try:
            assert np.array_equal(splits.read_split("digits", "test", digits)[0], expected), (kind, at)
        except UserError as error:
            refused += 1
            assert "prepare.py digits" in str(error)
    assert refused > 30


def test_a_system_error_is_not_damage(digits, monkeypatch):
    """EMFILE, EIO …: the file is left in peace, and the advice is another than to prepare it again."""
    path = digits / "digits/test.npz"
    for number, advice in ((errno.EMFILE, "ulimit"), (errno.EACCES, "permissions"), (errno.EIO, "Check the disk")):
        def fail(*_, number=number):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr("utils.npz.zipfile.ZipFile", fail)
        with pytest.raises(UserError, match=f"could not read .*test.npz: .*{advice}") as caught:
            loaders.open_set("digits", "test", digits, CPU)
        assert "damaged" not in str(caught.value) and "--fresh" not in str(caught.value)
