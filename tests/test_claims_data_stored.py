"""Small claims about what is written of a set, and when it counts as ready."""

import numpy as np
import pytest
from claims_data import picture
from conftest import put

from data.datasets import CATALOG
from data.manifest import read_manifest
from data.sources import images, store
from data.sources.find import Found
from utils.io import UserError


def test_a_record_says_what_was_written(tmp_path):
    put(tmp_path / "in", {f"{k:03}/{k}.png": picture(k, 64) for k in range(4)} | {"000/x.png": b""})
    source = images.FolderSource(tmp_path / "in")
    record = store.store(Found(source, "somewhere", False), tmp_path / "places365", "test", "places365")
    assert (record["images"], record["source"], record["verified"], record["left_out"]) == (
        4, "somewhere", False, ["000/x.png"]) and "folder" not in record
    assert list(record["files"]) == ["test_28.npz", "test_32.npz"]
    assert record["sha256"] == record["files"]["test_28.npz"]["sha256"]
    with np.load(tmp_path / "places365/test_32.npz") as content:
        assert content["labels"].tolist() == [0, 1, 2, 3] and content["names"][3] == b"003/3.png"
        assert content["images"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    (tmp_path / "in/000/x.png").unlink()
    source = images.FolderSource(tmp_path / "in")
    record = store.store(Found(source, "x", False), tmp_path / "ninco", "test", "ninco")
    assert record["files"] == {} and record["folder"] == {"images": 4, "linked": True, "sha256": record["sha256"]}
    record = store.store(Found(source, "x", False), tmp_path / "tinyimagenet", "test", "tinyimagenet")
    assert list(record["files"]) == ["test.npz"] and "folder" not in record and "left_out" not in record
    with pytest.raises(UserError, match="000/0.png is 64×64 pixels, expected 32×32"):
        store.store(Found(source, "x", False), tmp_path / "lsun_resize", "test", "lsun_resize")
    arrays = np.zeros((2, 28, 28, 1), np.uint8), np.array([1, 2])
    record = store.store(Found(arrays, "y", True), tmp_path / "mnist", "train", "mnist")
    assert (record["images"], record["verified"], list(record["files"])) == (2, True, ["train.npz"])
    store.write_manifest(tmp_path / "mnist", "mnist", {"train": record, "test": record}, dataset={})
    assert list(read_manifest(tmp_path / "mnist")) == ["name", "dataset", "splits"]
    assert list(read_manifest(tmp_path / "mnist")["splits"]) == ["test", "train"]
    assert set(CATALOG["places365"].sizes) == {28, 32}


def test_what_is_partial_and_what_is_the_same():
    record = {"images": 5, "source": "s", "verified": False, "left_out": ["a", "b"]}
    assert store.is_partial(record, 6) and not store.is_partial(record, 5) and not store.is_partial(
        record | {"verified": True}, 6) and store.is_partial({}, 1)
    found = Found((None, range(7)), "s", False)
    assert store.is_same(record, found) and not store.is_same(record, Found((None, range(6)), "s", False))
    assert not store.is_same(record, Found((None, range(7)), "t", False)) and not store.is_same(
        {"source": "s", "images": 5}, found)


def test_a_split_is_ready_when_its_files_are_what_was_written(tmp_path):
    arrays = np.zeros((2, 28, 28, 1), np.uint8), np.array([1, 2])
    folder = tmp_path / "digits"
    whole = {"test": store.store(Found(arrays, "y", True), folder, "test", "digits")}
    assert store.ready_splits(folder) == {} == store.recorded(folder)

    def ready(**changes):
        record = {key: value for key, value in (whole["test"] | changes).items() if value is not None}
        store.write_manifest(folder, "digits", {"test": record})
        return list(store.ready_splits(folder)) == ["test"]

    kept = whole["test"]["files"]["test.npz"]
    assert ready() and not ready(images=None) and not ready(source=None) and not ready(verified=None)
    assert not ready(verified=1) and not ready(sha256="0") and not ready(files=None) and ready(folder=None)
    assert not ready(folder={}), "the folder is not there"
    assert not ready(files={"test.npz": kept | {"bytes": kept["bytes"] + 1}})
    assert not ready(files={"test.npz": kept | {"crc32": {}}}) and not ready(files={"none.npz": kept})
    assert not ready(files={"test.npz": {key: kept[key] for key in ("bytes", "crc32")}})
    content = bytearray((folder / "test.npz").read_bytes())
    content[500] ^= 1
    (folder / "test.npz").write_bytes(content)
    assert not ready()
    (folder / "test").mkdir()
    store.write_manifest(folder, "digits", {"test": {"folder": {}}, "train": {"folder": {}}, "x": {}})
    assert list(store.ready_splits(folder)) == ["test"]
