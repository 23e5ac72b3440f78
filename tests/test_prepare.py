"""From official files and mirrors to data/: checksums, layouts, archives that lie, idempotence, plan and table."""
import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from dataclasses import replace
from hashlib import md5
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, put, script, tar_of
from PIL import Image
from scipy.io import savemat
from torchvision.transforms import v2

from data import archives, fetch, imglists, loaders, pictures, prepare, prepared, sources, store, table
from data.catalog import CATALOG, CORRUPTED, EXPOSURE, OPENOOD, OUTLIERS, sets_of
from files import UserError

CPU = torch.device("cpu")
SHARED = ROOT.parent / "shared" / "data"  # a developer's pack of real data; not needed by anything else


# ---- the catalog ----

def test_addresses_and_checksums_are_torchvisions():
    published = torchvision.datasets
    for name, theirs in (("cifar10", published.CIFAR10), ("cifar100", published.CIFAR100)):
        ours = CATALOG[name]
        assert (ours.archive.path, ours.archive.md5, ours.archive.url) == (theirs.filename, theirs.tgz_md5, theirs.url)
        for split, files in (("train", theirs.train_list), ("test", theirs.test_list)):
            expected = [(f"{theirs.base_folder}/{name}", checksum) for name, checksum in files]
            assert [(p.path, p.md5) for p in ours.parts[split]] == expected
    for split, (part,) in CATALOG["svhn"].parts.items():
        assert [part.url, part.path, part.md5] == published.SVHN.split_list[split]
    for name, theirs in (("mnist", published.MNIST), ("fashion_mnist", published.FashionMNIST)):
        parts = sum(CATALOG[name].parts.values(), [])
        assert [(Path(p.path).name, p.md5) for p in parts] == list(theirs.resources)
        assert all(p.url == theirs.mirrors[0] + Path(p.path).name for p in parts)


def test_every_training_set_can_be_normalised_and_has_outliers():
    from recipes import RECIPES

    assert set(RECIPES) == set(OUTLIERS) and set(RECIPES) <= set(CATALOG)
    for name in RECIPES:
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
    archive = CATALOG["cifar10"].archive.path
    put(tmp_path / "mirror", contents, *([archive] if layout == "archive" else set(contents) - {archive}))
    assert prepare.prepare("cifar10", tmp_path / "data", [tmp_path / "mirror"])
    for split, rows in (("train", slice(0, 50)), ("test", slice(50, 60))):
        got = loaders.read_split("cifar10", split, tmp_path / "data")
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
    assert np.array_equal(loaders.read_split("cifar100", "train", tmp_path / "data")[0], images[:10])

    digits = np.array([10, 1, 9])  # SVHN writes 0 as 10
    matlab = io.BytesIO()
    savemat(matlab, {"X": images[:3].transpose(1, 2, 3, 0), "y": digits[:, None].astype(np.uint8)})
    put(tmp_path, official("svhn", {"train": [matlab.getvalue()], "test": [matlab.getvalue()]}))
    assert prepare.prepare("svhn", tmp_path / "data", [tmp_path])
    got = loaders.read_split("svhn", "test", tmp_path / "data")
    assert np.array_equal(got[0], images[:3]) and got[1].tolist() == [0, 1, 9]

    grey = images[:7, :28, :28, 0]
    idx = pack(np.ascontiguousarray(grey), labels[:7].astype(np.uint8))
    put(tmp_path, official("mnist", {"train": idx, "test": idx}))
    assert prepare.prepare("mnist", tmp_path / "data", [tmp_path])
    got = loaders.read_split("mnist", "test", tmp_path / "data")
    assert np.array_equal(got[0], grey[..., None]) and np.array_equal(got[1], labels[:7])


@pytest.mark.parametrize("layout", ["archive", "unpacked"])
@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b[:40] + b"\0\0\0" + b[43:]], ids=["cut", "altered"])
def test_a_damaged_file_is_named_with_both_checksums_and_leaves_nothing(tmp_path, official, layout, damage, capsys):
    contents = official("cifar10", cifar_batches()[2])
    archive = CATALOG["cifar10"].archive
    part = archive if layout == "archive" else CATALOG["cifar10"].parts["train"][2]
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
    archive = CATALOG["cifar10"].archive.path
    put(tmp_path / "mirror", contents, archive)
    assert prepare.prepare("cifar10", tmp_path / "data", [tmp_path / "mirror"])
    kept = (tmp_path / "data/cifar10/train.npz").read_bytes()
    (tmp_path / "mirror" / archive).write_bytes(b"<html>moved</html>")
    prepare.prepare("cifar10", tmp_path / "data", [tmp_path / "mirror"], fresh=True)
    assert (tmp_path / "data/cifar10/train.npz").read_bytes() == kept


def test_class_folders_are_taken_and_marked_unverified(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CATALOG, "cifar100", replace(
        CATALOG["cifar100"], classes=2, archive=replace(CATALOG["cifar100"].archive, url="http://127.0.0.1:9/nothing")))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for k, image in enumerate(images):
        folder = tmp_path / "mirror/cifar100/test" / ("apple", "bear")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{k}.png")
    assert not prepare.prepare("cifar100", tmp_path / "data", [tmp_path / "mirror"]), "there is no training split"
    said = capsys.readouterr().out
    assert "unverified" in said and "train  missing: http://127.0.0.1:9/nothing could not be fetched" in said
    got = loaders.read_split("cifar100", "test", tmp_path / "data")
    assert np.array_equal(got[0], images[[0, 2, 1, 3]]) and got[1].tolist() == [0, 0, 1, 1]
    assert json.loads((tmp_path / "data/cifar100/manifest.json").read_text())["splits"]["test"]["verified"] is False


def test_class_folders_of_another_set_are_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "mirror/cifar100/test/only_class").mkdir(parents=True)
    assert not prepare.prepare("cifar100", tmp_path / "data", [tmp_path / "mirror"])
    assert "has 1 class folders, CIFAR-100 has 100" in capsys.readouterr().out


def test_unknown_names_list_the_valid_ones():
    done = script("data/prepare.py", "cifar", check=False)
    assert done.returncode == 1
    assert "unknown data set 'cifar': choose from cifar10, cifar100, svhn" in done.stderr
    done = script("data/prepare.py", "mnist", "--mirror", "/no/such/folder", check=False)
    assert done.returncode == 1 and "the mirror /no/such/folder is not a folder" in done.stderr


@pytest.mark.skipif(not (SHARED / "unpack.py").exists(), reason="the developers' data pack is not here")
def test_real_mnist_from_a_mirror(tmp_path):
    script(SHARED / "unpack.py", tmp_path / "mirror", "mnist")
    done = script("data/prepare.py", "mnist", "--mirror", tmp_path / "mirror", "--data-dir", tmp_path / "data")
    assert "60000 images: official files, MD5 verified" in done.stdout
    images, labels = loaders.read_split("mnist", "test", tmp_path / "data")
    assert images.shape == (10_000, 28, 28, 1) and np.bincount(labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


