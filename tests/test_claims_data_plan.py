"""Small claims about where sets are looked for, in which order, and about the plan."""
import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from claims_data import catalog, found  # noqa: F401
from conftest import put, tar_of

from data.datasets import CATALOG
from data.sources import download, find, plan, readme_table
from data.sources.find import SourceFinder
from data.sources.registry import HTTP_TOO, SOURCES, File
from utils.io import UserError


def test_mirrors_are_folders_or_addresses(tmp_path):
    finder = SourceFinder("svhn", ["http://a", tmp_path, "https://b", str(tmp_path / "c")], tmp_path / "d")
    assert finder.addresses == ["http://a", "https://b"] and finder.mirrors == [tmp_path, tmp_path / "c"]
    assert finder.folders == [tmp_path, tmp_path / "svhn", tmp_path / "c", tmp_path / "c/svhn", tmp_path / "d"]
    assert finder.may_download is True and finder.problems == []


def test_a_file_is_looked_for_by_its_path_its_name_and_unpacked(tmp_path):
    names = ("MNIST/raw/x-images-idx3.gz", "raw/x-images-idx3.gz", "x-images-idx3.gz", "MNIST/x-images-idx3.gz",
             "MNIST/raw/x-images.idx3.gz", "x-images.idx3.gz", "MNIST/raw/x-images-idx3", "x-images.idx3", "other.gz")
    put(tmp_path, dict.fromkeys(names, b""))
    finder = SourceFinder("mnist", [tmp_path], tmp_path / "downloads")
    places = finder.local(File("MNIST/raw/x-images-idx3.gz", "m", raw_md5="r"))
    assert {str(path.relative_to(tmp_path)): md5 for path, md5 in places} == {
        name: "m" if name.endswith(".gz") else "r" for name in names if name != "other.gz"}
    assert len(places) == 8 and str(places[0][0]) == f"{tmp_path}/{names[0]}"
    assert len(finder.local(File("MNIST/raw/x-images-idx3.gz", "m"))) == 6


def test_whole_sets_come_before_parts_and_larger_parts_before_smaller(tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOG, "svhn", replace(CATALOG["svhn"], counts={"test": 5}))
    official, downloads = [None, "downloaded"], []
    for may_download in (True, False):
        finder = SourceFinder("svhn", [], tmp_path, may_download)
        monkeypatch.setattr(finder, "_official", lambda split: official.pop(0) if official else None)
        monkeypatch.setattr(finder, "unverified", lambda split: iter([found(2), found(5), found(4), found(6)]))
        monkeypatch.setattr(finder, "download", lambda split: downloads.append(split) or True)
        finder.problems = ["of an earlier split"]
        candidates = list(finder.candidates("test"))
        lengths = [c if isinstance(c, str) else len(c) for c in candidates]
        assert lengths == ([5, 6, "downloaded", 4, 2] if may_download else [5, 6, 4, 2]) and finder.problems == []
    assert downloads == ["test"]
    for _ in range(2):
        assert finder.try_(lambda: exec("raise OSError('lost')")) is None
    assert finder.problems == ["lost"] and finder.try_(lambda a: a + 1, 1) == 2


def test_a_download_that_failed_is_not_tried_for_the_next_split(tmp_path, monkeypatch):
    asked = []

    def fetch(url, target, md5, size):
        asked.append((url, target, md5, size))
        raise (download.Absent if "absent" in url else UserError)(f"{url}: no")

    monkeypatch.setattr(download, "fetch", fetch)
    host = HTTP_TOO[0]
    file = File("a/b c.mat", "m", f"https://{host}/file", 7)
    monkeypatch.setitem(SOURCES, "svhn", replace(SOURCES["svhn"], parts={"train": [file], "test": [file]}))
    finder = SourceFinder("svhn", ["http://absent/", "http://x"], tmp_path)
    put(tmp_path, {"a/b c.mat": b"damaged"})
    finder._sums[tmp_path / "a/b c.mat"] = "of the damaged one"
    for split in ("train", "test"):
        with pytest.raises(UserError, match="^http://x/a/b%20c.mat: no; .*http://x/b%20c.mat: no; https://.*; http://.*$"):
            finder.download(split)
    urls = [f"http://{mirror}/{name}" for mirror in ("absent", "x") for name in (
        "a/b%20c.mat", "svhn/b%20c.mat", "b%20c.mat")]
    assert asked == [(url, tmp_path / "a/b c.mat", "m", 7) for url in [
        *urls, f"https://{host}/file", f"http://{host}/file"]]
    assert not (tmp_path / "a/b c.mat").exists() and finder._sums == {}, "it was not what it should be"
    with pytest.raises(UserError, match="OpenOOD keeps it on Google Drive"):
        SourceFinder("ssb_hard", [], tmp_path).download("test")
    asked.clear()
    monkeypatch.setitem(SOURCES, "svhn", replace(SOURCES["svhn"], parts={"test": [replace(file, url="http://absent/y")]}))
    with pytest.raises(UserError, match="^http://absent/y: no$"):
        SourceFinder("svhn", [], tmp_path).download("test")
    finder = SourceFinder("svhn", [tmp_path], tmp_path)
    put(tmp_path, {"b c.mat": b"x"})
    finder._sums[tmp_path / "b c.mat"] = "m"
    assert finder.download("test") is True and len(asked) == 1, "it is there"


def test_an_official_archive_of_images_is_read_below_its_folder(tmp_path, monkeypatch):
    inside = "NINCO/NINCO_OOD_classes"
    packed = tar_of({f"{inside}/b/1.jpg": b"x", f"{inside}/a/2.jpg": b"", "NINCO/c/3.jpg": b""})
    archive = replace(SOURCES["ninco"].archive, md5=hashlib.md5(packed).hexdigest())
    monkeypatch.setitem(SOURCES, "ninco", replace(SOURCES["ninco"], archive=archive))
    finder = SourceFinder("ninco", [tmp_path], tmp_path / "d")
    assert finder._official("test") is None and SourceFinder("ssb_hard", [], tmp_path)._official("test") is None
    put(tmp_path, {archive.path: packed})
    found = finder._official("test")
    assert (found.content.names, found.source, found.verified) == (["a/2.jpg", "b/1.jpg"], find.OFFICIAL, True)
    assert find.OFFICIAL == "official files, MD5 verified" and len(found) == 2


def test_folders_of_a_mirror_are_looked_at_in_order(tmp_path):
    put(tmp_path, {f"{folder}/a/1.png": b"" for folder in (
        "places365/test", "places365", "val_256", "images_classic/places365", "svhn/train", "svhn")})
    folders = SourceFinder("places365", [tmp_path], tmp_path).unverified_folders("test")
    assert [str(f.relative_to(tmp_path)) for f in folders] == [
        "places365/test", "val_256", "images_classic/places365", "places365", "places365"]
    assert SourceFinder("svhn", [tmp_path], tmp_path).unverified_folders("train") == [tmp_path / "svhn/train"]
    assert SourceFinder("cifar10_c", [tmp_path], tmp_path).unverified_folders("test") == []
    for name, split in (("train-images", "train"), ("t10k-x", "test"), ("x-test-y", "test"), ("other", None)):
        assert find._split_of_idx(Path(f"train/{name}")) == split


# ---- the plan ----

def test_sizes_of_downloads_and_of_what_is_made(monkeypatch):
    assert [plan.download_size(name) for name in ("svhn", "ninco", "digits", "cifar10")] == [
        182_040_794 + 64_275_384, 0, 0, 170_498_071]
    assert plan.disk_size("cifar10") == 60_000 * 3072 and plan.disk_size("mnist") == 70_000 * 784
    assert plan.disk_size("digits") == (845 + 419) * 784 and plan.disk_size("photo_patches") == 660 * 784 * 3
    assert plan.disk_size("textures") == 5_640 * 3 * (28**2 + 32**2) + 625_239_812
    assert plan.disk_size("places365") == 36_500 * 3 * (28**2 + 32**2) and plan.disk_size("ninco") == 0
    assert plan.disk_size("cifar10_c") == plan.disk_size("cifar100_c") == 19 * 50_000 * 3072
    assert plan.disk_size("notmnist") == 18_724 * 784 * 3 and plan.disk_size("imagenet1k") == 0
    asked = {name for name in CATALOG if plan.needs_confirmation(name)}
    assert asked == {"cifar10_c", "cifar100_c", "imagenet1k", "imagenet200", "imagenet800", "imagenet_o", "inaturalist",
                     "openimage_o", "ssb_hard", "ninco"}
    monkeypatch.setattr(plan, "LARGE_DOWNLOAD", 170_498_071)
    assert not plan.needs_confirmation("cifar10") and plan.needs_confirmation("svhn")
    assert plan.where_to_get("ninco").startswith("size not published, https://zenodo")
    assert plan.where_to_get("ssb_hard") == SOURCES["ssb_hard"].by_hand
    assert plan.where_to_get("svhn") == "246 MB, " + ", ".join(
        f"https://ufldl.stanford.edu/housenumbers/{split}_32x32.mat" for split in ("train", "test"))


def test_where_prepare_will_look(tmp_path, monkeypatch):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)

    def sources(name, *mirrors, unasked=False, fresh=False):
        return plan.sources_of(name, mirrors, tmp_path / "data", unasked, fresh)

    assert sources("digits") == ["scikit-learn's files"] and sources("ssb_hard") == ["by hand"]
    assert sources("svhn") == ["https://ufldl.stanford.edu/housenumbers"] == sources("svhn", unasked=True)
    assert sources("svhn", "https://x", "https://y") == ["https://x"]
    assert sources("ninco", unasked=True) == ["mirrors only: name it to download"]
    assert sources("ninco") == ["https://zenodo.org/record/8013288/files"]
    put(tmp_path / "m", {"CIFAR-10-C/labels.npy": b"", "imagenet/train/n1/1.JPEG": b"", "train_32x32.mat": b"",
                         "cifar-100-python.tar.gz": b"", "places/a/1.png": b""})
    assert sources("cifar10_c", tmp_path / "m") == [f"{tmp_path}/m/CIFAR-10-C"]
    assert sources("cifar100", tmp_path / "m") == [f"{tmp_path}/m/cifar-100-python.tar.gz"]
    assert sources("imagenet1k", tmp_path / "m") == [f"{tmp_path}/m/imagenet/train, unverified", "by hand"]
    assert sources("svhn", tmp_path / "m") == [f"{tmp_path}/m", "https://ufldl.stanford.edu/housenumbers"]
    assert sources("places365", tmp_path / "m") == [
        f"class folders {tmp_path}/m/places, unverified", "https://data.csail.mit.edu/places/places365"]
    monkeypatch.setitem(CATALOG, "places365", replace(CATALOG["places365"], counts={"test": 1}))
    assert sources("places365", tmp_path / "m") == [f"class folders {tmp_path}/m/places, unverified"]
    monkeypatch.setattr(plan, "ready_splits", lambda folder: {"test": {"verified": True}} if folder == (
        tmp_path / "data/svhn") else {})
    assert sources("svhn") == ["https://ufldl.stanford.edu/housenumbers", "ready"]
    assert sources("svhn", fresh=True) == ["https://ufldl.stanford.edu/housenumbers"]


def test_the_plan_ends_with_the_sum_of_the_downloads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=5e9 if place == tmp_path else 0))
    data = tmp_path / "data/deep"
    for names, total in ((["svhn", "digits"], "at most 246 MB"), (["ninco"], "what is marked ?"), (
            ["svhn", "ninco"], "at most 246 MB and what is marked ?"), (["digits", "ssb_hard"], "nothing")):
        plan.print_plan(names, [], data, False, False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2:] == [f"To download: {total}; free in {data}: 5.0 GB", ""] and len(lines) == 3 + 2 * len(names)
    assert lines[0] == f"{'set':20} {'images':>9}  {'download':>12}  {'on disk':>8}  from"
    assert lines[1:3] == [f"{'digits':20}     1,264             –    991 kB  scikit-learn's files",
                          f"{'':20} CC BY 4.0; cite Alpaydin and Kaynak 1998"]
    plan.print_plan(["ninco"], [], data, True, False)
    assert f"{'ninco':20}     5,879             ?         ?  mirrors only" in capsys.readouterr().out


def test_the_table_of_the_documentation_is_printed(capsys):
    readme_table.main()
    assert capsys.readouterr().out == readme_table.markdown()
    assert readme_table.role("mnist") == ("dismax: in-distribution, near of fashion_mnist; openood: in-distribution, "
                                          "far of cifar10 and cifar100")
    assert readme_table.role("tinyimagenet597") == "outlier exposure of cifar10 and cifar100"
    assert readme_table.minutes(12.5e6 * 60 * 7) == "7 minutes"
