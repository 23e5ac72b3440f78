"""Small claims about prepare.py: what is asked for, where it is looked for, what is said; all in this process."""
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from claims_data import catalog, found  # noqa: F401
from conftest import put

from data import prepare
from data.datasets import CATALOG
from data.sources import acquire, store
from data.sources.find import Found
from data.sources.registry import SOURCES
from utils.io import UserError

# ---- the command ----

@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Calls prepare.main; what it prepares is noted. Returns (exit status, output, what was asked of `prepare`)."""
    def call(*words, whole=lambda name: True):
        asked = []

        def prepared(*arguments):
            asked.append(arguments)
            return whole(arguments[0])

        monkeypatch.setattr(prepare, "prepare", prepared)
        monkeypatch.setattr("sys.argv", ["prepare.py", "--data-dir", str(tmp_path / "data"), *map(str, words)])
        try:
            prepare.main()
            status = 0
        except SystemExit as leaving:
            status = leaving.code
        return status, capsys.readouterr().out, asked
    return call


def test_what_is_asked_for(command, tmp_path):
    data = tmp_path / "data"
    assert command("svhn", "imagenet200", "svhn", "--fresh", "--mirror", tmp_path, "--mirror", "https://x")[2] == [
        (name, data, [tmp_path, "https://x"], True, True) for name in ("svhn", "imagenet1k")]
    status, said, asked = command("--for", "digits", "--for", "mnist")
    assert status == 0 and [words[0] for words in asked] == [
        "digits", "digits_789", "photo_patches", "mnist", "fashion_mnist", "cifar10"]
    assert asked[0] == ("digits", data, [], False, True) and "OpenOOD's lists" in said
    assert "OpenOOD's lists" not in command("svhn")[1]
    status, said, asked = command("--benchmark", "dismax")
    assert "OpenOOD's lists" not in said and "textures" not in [words[0] for words in asked]
    assert [words[0] for words in command("--benchmark", "openood", "--for", "imagenet200")[2]][:2] == [
        "imagenet1k", "ssb_hard"]
    status, said, asked = command()
    may = {words[0]: words[4] for words in asked}
    assert may.keys() == {CATALOG[name].part_of or name for name in SOURCES}
    assert may["svhn"] and may["textures"] and not may["cifar10_c"] and not may["ninco"], "large ones only if named"
    assert command("svhn", "--dry-run")[2] == []
    assert prepare.parse_arguments().jobs == 2 and prepare.parse_arguments().size == 32
    assert prepare.parse_arguments().test_fraction == 0.2


def test_the_exit_status_says_whether_all_is_there(command):
    status, said, _ = command("svhn", "mnist", whole=lambda name: name == "mnist")
    assert status == 1 and "\nNot complete: svhn. Everything else works; the tables show what is missing.\n" in said
    assert f"\n  {'svhn':20} 246 MB, https://ufldl" in said
    status, said, _ = command(whole=lambda name: name not in ("ssb_hard", "ninco", "cifar10_c"))
    assert status == 0 and "Not complete: cifar10_c, ssb_hard, ninco." in said
    assert command(whole=lambda name: name not in ("ssb_hard", "svhn"))[0] == 1
    assert command("ssb_hard", whole=lambda name: False)[0] == 1
    assert command("svhn")[:1] == (0,) and "Not complete" not in command("svhn")[1]


@pytest.mark.parametrize("words, said", [
    (("nothing",), r"^unknown data set 'nothing': choose from cifar10, .*photo_patches$"),
    (("svhn", "--mirror", "/no/such"), "^the mirror /no/such is not a folder$"),
    (("--folder", "x"), "^--folder x: write NAME=DIR, for instance flowers=/mnt/flowers$"),
    (("--folder", "x="), "^--folder x=: write NAME=DIR"),
    (("--folder", "x=a", "--folder", "y=a", "--folder", "y=b"), "^--folder has the name y twice: each set needs a"),
    (("--folder", "x=a", "--folder", "X=b"), "^--folder has the name x twice: each set needs a")])
def test_words_that_are_refused(command, words, said):
    with pytest.raises(UserError, match=said):
        command(*words)


def test_own_sets_are_prepared_with_the_words_that_were_given(command, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(prepare, "prepare_folder", lambda *words: calls.append(words) or ["done", "well"])
    words = ("--size", 9, "--test-fraction", 0.5, "--fresh")
    status, said, asked = command("--folder", "x=a", "--folder", "y=b=c", *words)
    assert calls == [(*own, 9, tmp_path / "data", 0.5, True) for own in (("x", Path("a")), ("y", Path("b=c")))]
    assert (status, said, asked) == (0, "done\nwell\n" * 2, [])
    assert [words[0] for words in command("svhn", "--folder", "x=a")[2]] == ["svhn"] and calls[-1][2:] == (
        32, tmp_path / "data", 0.2, False)
    put(tmp_path / "own", {"a/1.png": b"", "b/1.png": b"", "b/2.png": b""})
    count = len(calls)
    status, said, _ = command("--folder", f"z={tmp_path / 'own'}", "--dry-run")
    assert len(calls) == count and said == f"{'z':20}         3  from {tmp_path / 'own'}\n"
    dataset = {"made_from": "/x", "class_names": ["a", "b"], "size": 8, "folders": False, "mean": [1] * 3}
    content = json.dumps({"splits": {"train": {"images": 2}}, "dataset": dataset | {"std": [1] * 3}}).encode()
    put(tmp_path / "data/mine", {"manifest.json": content})
    with pytest.raises(UserError, match="photo_patches. mine is your own: --folder mine=/x$"):
        command("mine")


def test_verify_asks_for_each_set_once(command, monkeypatch, tmp_path):
    results, asked = {"svhn": True, "mine": True}, []
    monkeypatch.setattr(prepare, "verify", lambda name, data: asked.append((name, data)) or results.get(name))
    put(tmp_path / "data", {"mine/train.npz": b"", "other/manifest.json": b"", "none/x.txt": b"", "file.txt": b""})
    assert prepare.prepared_folders(tmp_path / "data") == ["mine", "other"]
    assert command("--verify", "svhn", "mine", "svhn")[:2] == (0, "")
    assert asked == [("svhn", tmp_path / "data"), ("mine", tmp_path / "data")]
    asked.clear()
    assert command("--verify")[0] == 0 and {"svhn", "mine", "other", "mnist"} <= {name for name, _ in asked}
    assert len(asked) == len(set(asked)) and "none" not in dict(asked)
    status, said, _ = command("--verify", "svhn", "mnist")
    assert status == 1 and said.startswith(f"{'mnist':14} is not prepared in {tmp_path / 'data'}. Prepare it: python")
    results["svhn"] = False
    assert command("--verify", "svhn")[:2] == (1, "") and command("--verify")[0] == 1
    results.clear()
    assert command("--verify")[:2] == (0, f"No set is prepared in {tmp_path / 'data'}\n")


# ---- one set ----

class Finder:
    """Stands in for a SourceFinder: what it finds of each split, in its order."""

    def __init__(self, name, **candidates):
        self.name, self.set, self.given, self.problems = name, CATALOG[name], candidates, []
        self.tried = []

    def candidates(self, split):
        self.problems = [f"a problem of {split}"]
        return iter(self.given.get(split, []))

    def try_(self, step, *arguments):
        self.tried.append(arguments[0])
        try:
            return step(*arguments)
        except UserError as error:
            self.problems.append(str(error))


def test_the_first_source_that_can_be_stored_is_taken_and_told(tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOG, "mnist", replace(CATALOG["mnist"], counts={"train": 5, "test": 4}))
    whole, part = found(5, "whole", True), found(2, "part")

    def stored(found, folder, split, name):
        if found.source == "bad":
            raise UserError("it is bad")
        return {"images": len(found), "source": found.source, "verified": found.verified, "files": {}, "sha256": "",
                "folder": {}, **({"left_out": ["x.png"]} if found.source == "part" else {})}

    monkeypatch.setattr(acquire, "store", stored)
    monkeypatch.setattr(store, "_lies_there", lambda *_: True)
    finder, lines = Finder("mnist", train=[found(5, "bad"), whole, part], test=[part]), []
    assert acquire.prepare_splits(finder, tmp_path / "mnist", False, lines) is False
    assert [f.source for f in finder.tried] == ["bad", "whole", "part"]
    assert lines == [f"{'mnist':14} train       5 images: whole", f"{'':21}  but a problem of train",
                     f"{'':21}  but it is bad", f"{'mnist':14} test        2 of 4 images, unverified: part",
                     f"{'':21}  left out, unreadable: x.png", f"{'':21}  but a problem of test"]
    assert list(store.recorded(tmp_path / "mnist")) == ["test", "train"]
    before = (tmp_path / "mnist/manifest.json").stat().st_mtime_ns
    same = Found((None, range(3)), "part", False)  # two images and one that was left out
    finder, lines = Finder("mnist", train=[whole], test=[same]), []
    assert acquire.prepare_splits(finder, tmp_path / "mnist", False, lines) is False
    assert finder.tried == [] and lines[0] == f"{'mnist':14} train       5 images: whole"
    assert (tmp_path / "mnist/manifest.json").stat().st_mtime_ns == before
    assert not acquire.prepare_splits(Finder("mnist", train=[whole]), tmp_path / "mnist", True, []), "no new test"
    finder = Finder("mnist", train=[whole], test=[found(4, "test")])
    assert acquire.prepare_splits(finder, tmp_path / "mnist", True, []) is True and len(finder.tried) == 2
    assert acquire.prepare_splits(Finder("mnist"), tmp_path / "mnist", False, []) is True, "all is there"
    lines = []
    assert acquire.prepare_splits(Finder("mnist"), tmp_path / "new", False, lines) is False
    assert lines == [f"{'mnist':14} {split:6} missing: a problem of {split}" for split in ("train", "test")]
    assert not (tmp_path / "new").exists()


def test_a_failure_is_a_line_and_the_other_sets_go_on(tmp_path, monkeypatch, capsys):
    for error in (UserError("not today"), OSError(5, "bad disk")):
        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(acquire, "prepare_splits", fail)
        assert acquire.prepare("svhn", tmp_path) is False
        assert capsys.readouterr().out == f"{'svhn':14} failed: {error}\n"
    calls = []
    for name in ("prepare_splits", "prepare_corrupted"):
        monkeypatch.setattr(acquire, name, lambda *words, name=name: calls.append((name, words)) or True)
    assert acquire.prepare("svhn", tmp_path, ["https://x"], True, False) and acquire.prepare("cifar10_c", tmp_path)
    (first, (finder, *rest)), (second, (other, *_)) = calls
    assert (first, second) == ("prepare_splits", "prepare_corrupted") and rest == [tmp_path / "svhn", True, []]
    assert (finder.name, finder.addresses, finder.downloads, finder.may_download) == (
        "svhn", ["https://x"], tmp_path / "downloads", False) and other.may_download is True
    assert acquire.how_to_place("ssb_hard") == SOURCES["ssb_hard"].by_hand
    assert acquire.how_to_place("svhn") == ("in no mirror, and too large to be downloaded unless it is named. Prepare "
                                            "it: python data/prepare.py svhn (or make prepare-data DATASETS=svhn)")


def test_imagenet_is_linked_only_where_nothing_is(tmp_path, monkeypatch):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    monkeypatch.setitem(CATALOG, "imagenet1k", replace(CATALOG["imagenet1k"], classes=2))
    tree = {f"imagenet/{split}/n0000000{k}/{k}.JPEG": b"x" for split in ("train", "val") for k in range(2)}
    put(tmp_path / "mirror", tree)
    lines, data = [], tmp_path / "data"
    assert acquire.link_imagenet(tmp_path / "new", [tmp_path / "mirror"], []) is True
    (data / "imagenet1k").mkdir(parents=True)
    (data / "imagenet1k/val").symlink_to(tmp_path / "gone")
    assert acquire.link_imagenet(data, [tmp_path / "mirror"], lines) is True
    assert lines == [f"{'imagenet1k':14} {split:6} 2 images of 2 classes in {data}/imagenet1k/{folder}, unverified"
                     for split, folder in (("train", "train"), ("test", "val"))]
    assert os.readlink(data / "imagenet1k/val") == str(tmp_path / "mirror/imagenet/val")
    (data / "imagenet1k/train").unlink()
    lines.clear()
    assert acquire.link_imagenet(data, [], lines) is False
    assert "train  missing: ImageNet-1k is used where you keep it" in lines[0]
    put(data / "imagenet1k/train", {"n00000001/1.JPEG": b"x", "x/1.JPEG": b"x"})
    lines.clear()
    assert acquire.link_imagenet(data, [tmp_path / "mirror"], lines) is False
    assert f"train  {data}/imagenet1k/train has images in x, which is no class of ImageNet" in lines[0]
