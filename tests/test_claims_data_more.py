"""Small claims about what lies between files and splits: verification, the registry, workers, progress, warnings."""
import gzip
import hashlib
import json
import runpy
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from claims_data import idx
from conftest import put, tar_of
from PIL import Image
from test_openood import give

from data import decode, image_folder
from data.datasets import CATALOG
from data.image_crops import collate, collate_arrays
from data.image_folder import FolderImages
from data.sources import archives, download, find, images, store
from data.sources.find import SourceFinder
from data.sources.registry import SOURCES, File
from utils.io import UserError

CPU = torch.device("cpu")


def md5(content):
    return hashlib.md5(content).hexdigest()


# ---- verification ----

def verified(capsys, name, data_dir):
    """(result, what is printed) of `verify`."""
    return store.verify(name, data_dir), capsys.readouterr().out


def test_each_way_to_differ_from_the_manifest_is_told(tmp_path, capsys):
    again = ". Prepare it again: python data/prepare.py svhn --fresh\n"
    assert verified(capsys, "svhn", tmp_path) == (None, "")
    for split in ("train", "test"):
        give(tmp_path, "svhn", split, np.arange(3))
    folder = tmp_path / "svhn"
    assert verified(capsys, "svhn", tmp_path) == (True, f"{'svhn':14} as it was prepared (2 checksums)\n")
    put(folder, {"stray.npz": b""})
    (folder / "train.npz").write_bytes((folder / "train.npz").read_bytes() + b"x")
    assert verified(capsys, "svhn", tmp_path) == (False, f"{'svhn':14} DAMAGED: stray.npz, train.npz{again}")
    (folder / "test.npz").unlink()
    assert set(verified(capsys, "svhn", tmp_path)[1].split(": ")[1].split(". ")[0].split(", ")) == {
        "stray.npz", "test.npz", "train.npz"}
    (folder / "manifest.json").write_text('{"splits": {}}')
    assert verified(capsys, "svhn", tmp_path) == (False, f"{'svhn':14} DAMAGED: manifest.json{again}")
    (folder / "manifest.json").write_text("{")
    assert verified(capsys, "svhn", tmp_path) == (False, f"{'svhn':14} DAMAGED: manifest.json{again}")
    (folder / "manifest.json").unlink()
    assert verified(capsys, "svhn", tmp_path) == (False, f"{'svhn':14} DAMAGED: manifest.json{again}")
    put(tmp_path / "mine", {"manifest.json": b'{"splits": {"test": {}}, "dataset": {}}'})
    assert verified(capsys, "mine", tmp_path) == (
        False, f"{'mine':14} DAMAGED: manifest.json{again.replace('svhn', '--folder mine=DIR')}")
    put(tmp_path / "ninco/test/a", {"1.jpg": b""})
    assert verified(capsys, "ninco", tmp_path) == (
        True, f"{'ninco':14} is your own: there is no record to compare it with\n")


def test_folders_and_single_files_are_verified_too(tmp_path, capsys):
    put(tmp_path / "ninco/test", {"a/1.jpg": b"one", "b/2.jpg": b"two"})
    put(tmp_path / "ninco", {"x.npy": b"array"})
    for linked, digest in ((True, images.listing_digest), (False, images.unpacked_digest)):
        record = {"folder": {"linked": linked, "sha256": digest(tmp_path / "ninco/test")},
                  "files": {"x.npy": {"bytes": 5, "md5": md5(b"array")}}}
        store.write_manifest(tmp_path / "ninco", "ninco", {"test": record})
        assert verified(capsys, "ninco", tmp_path) == (True, f"{'ninco':14} as it was prepared (2 checksums)\n")
        put(tmp_path / "ninco", {"test/b/2.jpg": b"TWO" if not linked else b"more"})
        assert verified(capsys, "ninco", tmp_path)[1].startswith(f"{'ninco':14} DAMAGED: test/. ")
    put(tmp_path / "ninco", {"x.npy": b"Array"})
    images.remove_images(tmp_path / "ninco/test")
    assert verified(capsys, "ninco", tmp_path)[1].startswith(f"{'ninco':14} DAMAGED: x.npy, test/. ")
    assert not store._same(tmp_path / "none.npy", {"md5": ""})


def test_a_system_error_is_no_damage(tmp_path, capsys, monkeypatch):
    give(tmp_path, "svhn", labels=np.arange(3))

    def fail(*_):
        raise UserError("the disk is ill")

    monkeypatch.setattr(store, "_same", fail)
    assert verified(capsys, "svhn", tmp_path) == (False, f"{'svhn':14} cannot be verified: the disk is ill\n")
    (tmp_path / "svhn/manifest.json").unlink()
    (tmp_path / "svhn/manifest.json").mkdir()
    result, said = verified(capsys, "svhn", tmp_path)
    assert result is False and said.startswith(f"{'svhn':14} cannot be verified: could not read ")


# ---- official files and unverified ones ----

def test_the_registry_has_each_file_in_its_place():
    for name, folder, sizes in (("mnist", "MNIST", (9_912_422, 28_881, 1_648_877, 4_542)),
                                ("fashion_mnist", "FashionMNIST", (26_421_880, 29_515, 4_422_102, 5_148))):
        parts = SOURCES[name].parts
        names = [f"{folder}/raw/{which}-{kind}-ubyte.gz" for which in ("train", "t10k") for kind in (
            "images-idx3", "labels-idx1")]
        assert [file.path for file in parts["train"] + parts["test"]] == names and len(parts["train"]) == 2
        assert [file.size for file in parts["train"] + parts["test"]] == list(sizes)
        assert len({file.raw_md5 for file in parts["train"] + parts["test"]} - {""}) == 4
        assert SOURCES[name].layouts == {split: (f"images_classic/{name.replace('_', '')}/{split}",) for split in (
            "train", "test")}
    assert SOURCES["mnist"].parts["test"][1].raw_md5 == "27ae3e4e09519cfbb04c329615203637"
    for split in ("train", "test"):
        assert [file.path for file in SOURCES["emnist_letters"].parts[split]] == [
            f"gzip/emnist-letters-{split}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]


def test_checksums_are_computed_once_and_every_wrong_place_is_named(tmp_path, monkeypatch):
    put(tmp_path, {"1/x.bin": b"wrong", "2/x.bin": b"right", "3/x.bin": b"never looked at"})
    computed, md5_of = [], download.md5_of
    monkeypatch.setattr(download, "md5_of", lambda path: computed.append(path.parent.name) or md5_of(path))
    finder = SourceFinder("svhn", [tmp_path / k for k in "123"], tmp_path / "d")
    file = File("x.bin", md5(b"right"))
    for _ in range(2):
        assert finder.verified(file) == tmp_path / "2/x.bin" and computed == ["1", "2"]
    with pytest.raises(UserError, match=f"1/x.bin is incomplete or altered: its MD5 is {md5(b'wrong')}, .*; .*3/x.bin"):
        finder.verified(File("x.bin", "0"))
    assert finder.verified(File("y.bin", "0")) is None
    packed = {level: gzip.compress(b"content", level, mtime=level) for level in (1, 9)}
    put(tmp_path, {"1/y.gz": packed[9]})
    assert finder.verified(File("y.gz", md5(packed[1]), raw_md5=md5(b"content"))) == tmp_path / "1/y.gz"
    with pytest.raises(UserError, match="y.gz is incomplete"):
        finder.verified(File("y.gz", md5(packed[1]), raw_md5="0"))


def test_parts_come_by_themselves_or_from_the_archive_which_is_read_once(tmp_path, monkeypatch):
    contents = {"p/train": b"one", "p/test": b"two", "p/other": b"three"}
    packed = tar_of(contents)
    source = replace(SOURCES["cifar100"], archive=File("x.tar.gz", md5(packed)), parts={
        "train": [File("p/train", md5(b"one"))], "test": [File("p/test")]})
    monkeypatch.setitem(SOURCES, "cifar100", source)
    put(tmp_path / "m", {"p/train": b"one"})
    finder = SourceFinder("cifar100", [tmp_path / "m"], tmp_path / "d")
    assert finder._part(source.parts["train"][0]) == b"one" and finder._part(source.parts["test"][0]) is None
    monkeypatch.setitem(find.READERS, "cifar100", lambda parts: (parts, parts))
    assert finder._official("test") is None and finder._official("train").content == ([b"one"], [b"one"])
    put(tmp_path / "m", {"x.tar.gz": packed, "p/train": b""})
    read, read_members = [], archives.read_members
    monkeypatch.setattr(archives, "read_members", lambda path, wanted: read.append(set(wanted)) or read_members(
        path, wanted))
    finder = SourceFinder("cifar100", [tmp_path / "m"], tmp_path / "d")
    assert finder._part(File("p/train")) == b"one" and finder._official("test").content == ([b"two"], [b"two"])
    found = finder._official("test")
    assert read == [{"p/train", "p/test"}] and (found.source, found.verified) == ("official files, MD5 verified", True)


def test_class_folders_must_have_the_sets_classes_where_networks_learn_them(tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOG, "cifar100", replace(CATALOG["cifar100"], classes=2))
    put(tmp_path, {f"{folder}/{name}/1.png": b"" for folder, names in (
        ("two", "ab"), ("three", "abc")) for name in names} | {"empty/x.txt": b"", "mnist/7_0.png": b""})
    finder = SourceFinder("cifar100", [], tmp_path)
    found = finder._class_folders(tmp_path / "two")
    assert (len(found), found.source, found.verified) == (2, f"class folders {tmp_path}/two", False)
    with pytest.raises(UserError, match="three has 3 class folders, CIFAR-100 has 2"):
        finder._class_folders(tmp_path / "three")
    other = SourceFinder("places365", [], tmp_path)
    assert len(other._class_folders(tmp_path / "three")) == 3 and other._class_folders(tmp_path / "empty") is None
    assert SourceFinder("mnist", [], tmp_path)._class_folders(tmp_path / "mnist").content.labels.tolist() == [7]


def test_idx_files_are_told_apart_by_their_names(tmp_path):
    pixels, labels = np.zeros((2, 3, 3), np.uint8), np.array([1, 2], np.uint8)
    put(tmp_path, {f"{name}-images-idx3-ubyte": idx(pixels[:k]) for k, name in enumerate((
        "emnist-letters-train", "emnist-letters-test", "train"))} | {"t10k-images.idx3-ubyte": idx(pixels)} | {
        "t10k-labels.idx1-ubyte": idx(labels), "emnist-letters-test-labels-idx1-ubyte": idx(labels[:1]),
        "train-labels-idx1-ubyte": idx(labels[:1])})
    letters, plain = (SourceFinder(name, [], tmp_path) for name in ("emnist_letters", "notmnist"))
    found = letters._idx(tmp_path, "test")
    assert (len(found), found.source, found.verified) == (1, f"idx files {tmp_path}", False)
    assert letters._idx(tmp_path, "train") is None, "it has no labels"
    assert len(plain._idx(tmp_path, "test")) == 2 and plain._idx(tmp_path / "none", "test") is None
    with pytest.raises(UserError, match="train-images-idx3-ubyte and its labels cannot be used: images of shape"):
        plain._idx(tmp_path, "train")


# ---- workers, progress, warnings ----

@pytest.mark.parametrize("workers, free, collated", [(0, 0, collate), (2, None, collate), (2, 0, collate_arrays)])
def test_workers_hand_on_arrays_where_shared_memory_is_small(monkeypatch, workers, free, collated):
    asked = []
    batch = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8), torch.tensor([1, 0]), [], [], ""
    monkeypatch.setattr(image_folder, "shared_memory_left", lambda: free)
    monkeypatch.setattr(image_folder, "DataLoader", lambda crops, **how: asked.append((crops, how)) or [
        batch, (torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), [], [], "")])
    folder = FolderImages(["a", "b"], [0, 1], CPU, 8, ((0.5,) * 3, (0.25,) * 3), workers=workers)
    (images, labels), (none, nothing) = folder._batches("the crops", [[(1, 0), (0, 0)]])
    assert images.shape == (2, 3, 8, 8) and images.unique().tolist() == [2] and labels.tolist() == [1, 0]
    assert none.shape == (0, 3, 8, 8) and none.dtype == torch.float32 and len(nothing) == 0
    assert asked == [("the crops", {"batch_sampler": [[(1, 0), (0, 0)]], "num_workers": workers, "pin_memory": False,
                                    "collate_fn": collated, "prefetch_factor": 4 if workers else None})]
    assert len(list(folder._batches("the crops", []))) == 2


class Bar:
    """Stands in for tqdm: what it is made with, and how far it gets."""

    def __init__(self, items=None, **how):
        self.items, self.how, self.seen = items, how, 0
        Bar.last = self

    def update(self, count):
        self.seen += count

    def __iter__(self):
        return iter(self.items)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_progress_is_counted_in_bytes_and_images(tmp_path, monkeypatch):
    for module in (download, images):
        monkeypatch.setattr(module, "tqdm", Bar)
    chunks = [b"abc", b"de"]
    answer = SimpleNamespace(read1=lambda most: chunks.pop(0) if chunks else b"")
    (tmp_path / "x.part").write_bytes(b"1234")
    watchdog = SimpleNamespace(fired=False, extend=lambda seconds: None)
    download._copy("http://x", answer, tmp_path / "x.part", 4, 9, 9, download.RETRY, watchdog)
    assert Bar.last.how == {"total": 9, "initial": 4, "unit": "B", "unit_scale": True, "desc": "x", "disable": None,
                            "leave": False} and Bar.last.seen == 5
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    source = images.FolderSource(tmp_path)
    images.to_arrays(source, (8,), title="a title")
    expected = {"total": 1, "unit": "img", "desc": "a title", "disable": None, "leave": False}
    assert Bar.last.how == expected and Bar.last.seen == 1
    images.unpack(source, tmp_path / "out", "a title")
    assert Bar.last.how == expected and (tmp_path / "out/images/1.png").exists()


def test_warnings_of_pillow_about_pictures_are_not_shown():
    """Pictures that are too large are refused in words, and damaged tags do not matter."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        runpy.run_path(decode.__file__)
        found = {(action, category): module.pattern if module else None for action, _, category, module, _ in
                 warnings.filters}
    assert found == {("ignore", Image.DecompressionBombWarning): None, ("ignore", UserWarning): r"PIL\."}


def test_the_verified_places_of_a_manifest_are_json(tmp_path):
    give(tmp_path, "svhn", labels=np.arange(3))
    store.write_manifest(tmp_path / "svhn", "svhn", {"b": {}, "a": {}}, more=1)
    text = (tmp_path / "svhn/manifest.json").read_text()
    assert text == json.dumps({"name": "svhn", "more": 1, "splits": {"a": {}, "b": {}}}, indent=1) + "\n"
