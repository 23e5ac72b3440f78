"""From official files and mirrors to data/: checksums, layouts, damage, idempotence."""
import gzip
import io
import json
import pickle
import re
import shutil
import struct
import zipfile
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torchvision
from conftest import ROOT, put, script
from PIL import Image
from scipy.io import savemat

from data import openood, openood_lists, prepare, splits
from data.datasets import CATALOG, CORRUPTED, EXPOSURE, OPENOOD, OUTLIERS, sets_of
from data.sources.plan import files_of
from data.sources.registry import SOURCES
from data.sources.sklearn_digits import MAKERS

SHARED = ROOT.parent / "shared" / "data"  # a developer's pack of real data; not needed by anything else


# ---- the catalog ----

def http(url):
    """torchvision's address of a host that has https, too."""
    return url.replace("https://", "http://", 1)


def test_addresses_and_checksums_are_torchvisions():
    published = torchvision.datasets
    for name, theirs in (("cifar10", published.CIFAR10), ("cifar100", published.CIFAR100)):
        ours = SOURCES[name]
        assert (ours.archive.path, ours.archive.md5, ours.archive.url) == (theirs.filename, theirs.tgz_md5, theirs.url)
        for split, files in (("train", theirs.train_list), ("test", theirs.test_list)):
            expected = [(f"{theirs.base_folder}/{name}", checksum) for name, checksum in files]
            assert [(p.path, p.md5) for p in ours.parts[split]] == expected
    for split, (part,) in SOURCES["svhn"].parts.items():
        assert [http(part.url), part.path, part.md5] == published.SVHN.split_list[split]
    for name, theirs in (("mnist", published.MNIST), ("fashion_mnist", published.FashionMNIST)):
        parts = sum(SOURCES[name].parts.values(), [])
        assert [(Path(p.path).name, p.md5) for p in parts] == list(theirs.resources)
        assert all(p.url in [mirror + Path(p.path).name for mirror in theirs.mirrors] for p in parts)
    emnist, dtd, places = (SOURCES[name].archive for name in ("emnist_letters", "textures", "places365"))
    assert (emnist.url, emnist.md5) == (published.EMNIST.url, published.EMNIST.md5)
    assert (dtd.url, dtd.md5) == (published.DTD._URL, published.DTD._MD5)
    assert (places.path, places.md5) == published.Places365._IMAGES_META["val", True]
    assert http(places.url) == published.Places365._BASE_URL + places.path


def test_every_entry_has_an_address_with_a_checksum_or_says_how_to_place_it():
    seen = {}
    for name, data_set in CATALOG.items():
        files = files_of(name)
        assert bool(files) != bool(SOURCES[name].by_hand or data_set.part_of or name in MAKERS), name
        for file in files:
            assert re.fullmatch("[0-9a-f]{32}", file.md5) and file.url.startswith("http") and file.read_in, file
            assert seen.setdefault(file.md5, file.url) == file.url, "no checksum stands for two files"
        assert SOURCES[name].terms and SOURCES[name].cite and data_set.counts, name
    groups = [group for benchmark in (OUTLIERS, OPENOOD) for groups in benchmark.values() for group in groups.values()]
    assert {*sum(groups, []), *EXPOSURE.values(), *CORRUPTED.values()} <= set(CATALOG)
    dismax, openood_, both = (set(sets_of(benchmark, "cifar10")) for benchmark in ("dismax", "openood", "all"))
    assert {"cifar10", "svhn", "lsun_resize"} <= dismax and "textures" not in dismax
    assert {"textures", "tinyimagenet597"} <= openood_ and "lsun_resize" not in openood_
    assert both == dismax | openood_ | {"cifar10_c"}


def test_every_training_set_can_be_normalised_and_has_outliers():
    from recipes import RECIPES

    recipes = RECIPES["dismax"]
    assert set(recipes) == set(OUTLIERS) and set(recipes) <= set(CATALOG)
    for name in recipes:
        assert len(CATALOG[name].mean) == len(CATALOG[name].std) == 3 and "train" in CATALOG[name].counts


# ---- official files, made here: the real formats with their own checksums ----

def pack(*arrays):
    """gzipped idx bytes of each array."""
    headers = (bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) for a in arrays)
    return [gzip.compress(header + a.tobytes()) for header, a in zip(headers, arrays)]


def cifar_batches(label_key=b"labels"):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 60)
    rows = images.transpose(0, 3, 1, 2).reshape(60, -1)
    batches = [pickle.dumps({b"data": rows[k : k + 10], label_key: labels[k : k + 10].tolist()})
               for k in range(0, 60, 10)]
    return images, labels, {"train": batches[:5], "test": batches[5:]}


@pytest.mark.parametrize("layout", ["archive", "unpacked"])
def test_cifar_from_a_mirror(tmp_path, official, layout, capsys):
    images, labels, files = cifar_batches()
    contents = official("cifar10", files)
    archive = SOURCES["cifar10"].archive.path
    put(tmp_path / "mirror", contents, *([archive] if layout == "archive" else set(contents) - {archive}))
    assert prepare.prepare("cifar10", tmp_path / "data", [tmp_path / "mirror"])
    for split, rows in (("train", slice(0, 50)), ("test", slice(50, 60))):
        got = splits.read_split("cifar10", split, tmp_path / "data")
        assert np.array_equal(got[0], images[rows]) and np.array_equal(got[1], labels[rows])
        assert got[0].dtype == np.uint8 and got[1].dtype == np.int64
    assert "official files, MD5 verified" in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    shutil.rmtree(tmp_path / "mirror")
    assert prepare.prepare("cifar10", tmp_path / "data", []), "what is whole is skipped, and needs no source"
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}


def test_cifar100_svhn_and_idx_formats(tmp_path, official):
    images, labels, files = cifar_batches(b"fine_labels")
    files["train"] = [files["train"][0]]
    put(tmp_path, official("cifar100", files))
    assert prepare.prepare("cifar100", tmp_path / "data", [tmp_path])
    assert np.array_equal(splits.read_split("cifar100", "train", tmp_path / "data")[0], images[:10])

    digits = np.array([10, 1, 9])  # SVHN writes 0 as 10
    matlab = io.BytesIO()
    savemat(matlab, {"X": images[:3].transpose(1, 2, 3, 0), "y": digits[:, None].astype(np.uint8)})
    put(tmp_path, official("svhn", {"train": [matlab.getvalue()], "test": [matlab.getvalue()]}))
    assert prepare.prepare("svhn", tmp_path / "data", [tmp_path])
    got = splits.read_split("svhn", "test", tmp_path / "data")
    assert np.array_equal(got[0], images[:3]) and got[1].tolist() == [0, 1, 9]

    grey = images[:7, :28, :28, 0]
    idx = pack(np.ascontiguousarray(grey), labels[:7].astype(np.uint8))
    put(tmp_path, official("mnist", {"train": idx, "test": idx}))
    assert prepare.prepare("mnist", tmp_path / "data", [tmp_path])
    got = splits.read_split("mnist", "test", tmp_path / "data")
    assert np.array_equal(got[0], grey[..., None]) and np.array_equal(got[1], labels[:7])


@pytest.mark.parametrize("layout", ["archive", "unpacked"])
@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b[:40] + b"\0\0\0" + b[43:]], ids=["cut", "altered"])
def test_a_damaged_file_is_named_with_both_checksums_and_leaves_nothing(tmp_path, official, layout, damage, capsys):
    contents = official("cifar10", cifar_batches()[2])
    archive = SOURCES["cifar10"].archive
    part = archive if layout == "archive" else SOURCES["cifar10"].parts["train"][2]
    put(tmp_path / "mirror", contents, *([archive.path] if layout == "archive" else set(contents) - {archive.path}))
    damaged = damage(contents[part.path])
    (tmp_path / "mirror" / part.path).write_bytes(damaged)
    assert not prepare.prepare("cifar10", tmp_path / "data", [tmp_path / "mirror"])
    said = capsys.readouterr().out
    assert part.path in said and part.md5 in said and md5(damaged).hexdigest() in said
    left = {path.name for path in (tmp_path / "data").rglob("*.npz")}
    assert left == (set() if layout == "archive" else {"test.npz"}), "only a split whose files are all right is used"
    assert not list(tmp_path.rglob("*.part"))


def test_an_earlier_preparation_survives_a_damaged_source(tmp_path, official):
    contents = official("cifar10", cifar_batches()[2])
    archive = SOURCES["cifar10"].archive.path
    put(tmp_path / "mirror", contents, archive)
    assert prepare.prepare("cifar10", tmp_path / "data", [tmp_path / "mirror"])
    kept = (tmp_path / "data/cifar10/train.npz").read_bytes()
    (tmp_path / "mirror" / archive).write_bytes(b"<html>moved</html>")
    prepare.prepare("cifar10", tmp_path / "data", [tmp_path / "mirror"], fresh=True)
    assert (tmp_path / "data/cifar10/train.npz").read_bytes() == kept


def test_class_folders_are_taken_and_marked_unverified(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CATALOG, "cifar100", replace(CATALOG["cifar100"], classes=2))
    monkeypatch.setitem(SOURCES, "cifar100", replace(
        SOURCES["cifar100"], archive=replace(SOURCES["cifar100"].archive, url="http://127.0.0.1:9/nothing")))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for k, image in enumerate(images):
        folder = tmp_path / "mirror/cifar100/test" / ("apple", "bear")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{k}.png")
    assert not prepare.prepare("cifar100", tmp_path / "data", [tmp_path / "mirror"]), "there is no training split"
    said = capsys.readouterr().out
    assert "unverified" in said and "train  missing: http://127.0.0.1:9/nothing could not be fetched" in said
    got = splits.read_split("cifar100", "test", tmp_path / "data")
    assert np.array_equal(got[0], images[[0, 2, 1, 3]]) and got[1].tolist() == [0, 0, 1, 1]
    assert json.loads((tmp_path / "data/cifar100/manifest.json").read_text())["splits"]["test"]["verified"] is False


def test_class_folders_of_another_set_are_refused(tmp_path, capsys, monkeypatch):
    put(tmp_path / "mirror/cifar100/test", {"only_class/image.png": b"of whatever content"})
    assert not prepare.prepare("cifar100", tmp_path / "data", [tmp_path / "mirror"])
    assert "has 1 class folders, CIFAR-100 has 100" in capsys.readouterr().out


# ---- what no checksum covers ----

def test_unpacked_idx_files_are_verified_and_others_are_not(tmp_path, official, capsys):
    """torchvision leaves MNIST/raw unpacked; a publisher's checksum of the .gz says what is in it."""
    images, labels = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28), np.array([3, 1, 2], np.uint8)
    packed = pack(images, labels)
    raw = [gzip.decompress(part) for part in packed]
    official("mnist", {"train": packed, "test": packed})
    parts = {split: [replace(p, raw_md5=md5(r).hexdigest()) for p, r in zip(parts, raw)]
             for split, parts in SOURCES["mnist"].parts.items()}
    SOURCES["mnist"] = replace(SOURCES["mnist"], parts=parts)  # `official` puts the true one back
    for split in parts:
        put(tmp_path, {part.path.removesuffix(".gz"): content for part, content in zip(parts[split], raw)})
    assert prepare.prepare("mnist", tmp_path / "data", [tmp_path])
    assert np.array_equal(splits.read_split("mnist", "test", tmp_path / "data")[0][..., 0], images)

    put(tmp_path, {"EMNIST/raw/emnist-letters-test-images-idx3-ubyte": raw[0],
                   "EMNIST/raw/emnist-letters-test-labels-idx1-ubyte": raw[1],
                   "EMNIST/raw/emnist-digits-test-images-idx3-ubyte": b"another set"})
    assert not prepare.prepare("emnist_letters", tmp_path / "data", [tmp_path])
    assert "emnist_letters test        3 of 20800 images, unverified: idx files" in capsys.readouterr().out
    got = splits.read_split("emnist_letters", "test", tmp_path / "data")
    assert np.array_equal(got[0][..., 0], images.swapaxes(1, 2)) and got[1].tolist() == [2, 0, 1]


@pytest.mark.parametrize("broken", [
    b"", b"\0\0\x08", b"\0\0\x08\x03" + bytes(12) + b"x", b"\x1f\x8b\x08 cut", b"<html>"])
def test_idx_files_that_are_none_are_named(tmp_path, broken, capsys):
    put(tmp_path, {"notMNIST/t10k-images-idx3-ubyte.gz": broken, "notMNIST/t10k-labels-idx1-ubyte.gz": broken})
    assert not prepare.prepare("notmnist", tmp_path / "data", [tmp_path])
    assert "t10k-images-idx3-ubyte.gz and its labels cannot be used" in capsys.readouterr().out


def test_emnist_comes_out_of_its_archive(tmp_path, official):
    images, labels = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28), np.array([26, 1], np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for split in ("train", "test"):
            for name, content in zip(("images-idx3", "labels-idx1"), pack(images, labels)):
                archive.writestr(f"gzip/emnist-letters-{split}-{name}-ubyte.gz", content)
        archive.writestr("gzip/emnist-digits-test-images-idx3-ubyte.gz", b"not asked for")
    put(tmp_path, official("emnist_letters", archive=buffer.getvalue()), "gzip.zip")
    assert prepare.prepare("emnist_letters", tmp_path / "data", [tmp_path])
    got = splits.read_split("emnist_letters", "train", tmp_path / "data")
    assert np.array_equal(got[0][..., 0], images.swapaxes(1, 2)) and got[1].tolist() == [25, 0]


def test_another_mirror_is_asked_when_the_first_is_damaged_and_a_part_when_there_is_no_more(tmp_path, official, capsys):
    images, _, files = cifar_batches()
    contents = official("cifar10", files)
    for name in ("first", "second"):
        put(tmp_path / name, contents, SOURCES["cifar10"].archive.path)
    (tmp_path / "first" / SOURCES["cifar10"].archive.path).write_bytes(b"damaged")
    assert prepare.prepare("cifar10", tmp_path / "data", [tmp_path / "first", tmp_path / "second"])
    assert np.array_equal(splits.read_split("cifar10", "test", tmp_path / "data")[0], images[50:])


# ---- the real files ----

@pytest.mark.skipif(not (SHARED / "unpack.py").exists(), reason="the developers' data pack is not here")
def test_real_mnist_from_a_mirror(tmp_path):
    script(SHARED / "unpack.py", tmp_path / "mirror", "mnist")
    done = script("data/prepare.py", "mnist", "--mirror", tmp_path / "mirror", "--data-dir", tmp_path / "data")
    assert "60000 images: official files, MD5 verified" in done.stdout
    images, labels = splits.read_split("mnist", "test", tmp_path / "data")
    assert images.shape == (10_000, 28, 28, 1) and np.bincount(labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    script(SHARED / "unpack.py", tmp_path / "mirror", "lists")
    openood_lists.copy_lists([tmp_path / "mirror"], tmp_path / "data")
    found = openood.benchmark("mnist", tmp_path / "data")
    assert (len(found.validation), len(found.test), found.test.note) == (996, 9_004, "")
    both = np.concatenate([found.validation.index["test"], found.test.index["test"]])
    assert sorted(both) == list(range(10_000)), "OpenOOD's numbers are places in the official order"
    assert found.missing == OPENOOD["mnist"] and "near is a mean over 0 of 2 sets: notmnist, f" in " ".join(found.notes)


def test_a_damaged_file_is_made_again(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    path = tmp_path / "digits/train.npz"
    whole, manifest = path.read_bytes(), (tmp_path / "digits/manifest.json").read_text()
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])  # of the same length
    assert "train.npz" in script("data/prepare.py", "--verify", "--data-dir", tmp_path, check=False).stdout
    script("data/prepare.py", "digits", "--data-dir", tmp_path)
    assert path.read_bytes() == whole and (tmp_path / "digits/manifest.json").read_text() == manifest
