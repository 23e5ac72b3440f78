"""Small claims about sets of the user's own: the split, what is made anew, what is refused, names and manifests."""
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from claims_data import catalog, tree  # noqa: F401
from PIL import Image

from data.datasets import IMAGENET_MEAN, IMAGENET_STD
from data.manifest import read_manifest
from data.sources import user_folder
from data.sources.images import FolderSource
from data.sources.user_folder import held_out_positions, open_sources, prepare_folder
from data.splits import Split
from utils.io import UserError


def identity(data, size=8):
    """Of the files of both splits: it changes when they are written again."""
    paths = [data / "own" / f"{split}{'.npz' if size <= 64 else ''}" for split in ("train", "test")]
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]


def test_the_manifest_says_from_what_and_how_the_test_images_were_chosen(tmp_path):
    root, data = tree(tmp_path / "images", a=5, b=10), tmp_path / "data"
    said = prepare_folder("own", root, 8, data)
    content = read_manifest(data / "own")
    facts = content["dataset"]
    assert facts["split"] == {"test_fraction": 0.2, "seed": 1, "by": "MD5 of '<seed> <name>' within each class"}
    assert (facts["made_from"], facts["size"], facts["folders"]) == (str(root.resolve()), 8, False)
    assert facts["class_names"] == ["a", "b"] and content["name"] == "own"
    for split, count in (("train", 12), ("test", 3)):
        record = content["splits"][split]
        assert (record["images"], record["source"], record["verified"]) == (count, f"folder {root}", False)
        assert list(record["files"]) == [f"{split}.npz"] and record["sha256"] == record["files"][f"{split}.npz"][
            "sha256"] and "left_out" not in record and "also_in_train" not in record
    assert said == [f"{'own':14} train      12 images: folder {root}",
                    f"{'own':14} test        3 images: folder {root}", f"{'own':14} 2 classes (a, b), 8×8 pixels"]
    train, test = (Split.open("own", split, data) for split in ("train", "test"))
    assert not set(train.names) & set(test.names) and np.bincount(test.labels).tolist() == [1, 2]
    for split in (train, test):
        for name, label, image in zip(split.names, split.labels, split.images):
            assert np.array_equal(image[0, 0], np.asarray(Image.open(root / name))[0, 0]) and "ab"[label] == name[0]
    tree(tmp_path / "both/train", a=2, b=2)
    tree(tmp_path / "both/test", a=1)
    prepare_folder("both", tmp_path / "both", 8, data)
    assert "split" not in read_manifest(data / "both")["dataset"], "its test images are the folder's own"


@pytest.mark.parametrize("size", [64, 65])
def test_a_set_is_made_anew_when_something_differs_and_only_then(tmp_path, size):
    root, data = tree(tmp_path / "images", a=5, b=5), tmp_path / "data"
    said = prepare_folder("own", root, size, data)
    before = identity(data, size)
    assert sorted(prepare_folder("own", root, size, data)) == sorted(said) and identity(data, size) == before
    for change in (lambda: {"test_fraction": 0.4}, lambda: {"fresh": True, "test_fraction": 0.4},
                   lambda: tree(root, a=6) and {}, lambda: (root / "a/00.png").write_bytes(
                       (root / "a/00.png").read_bytes() + b"\0") and {}):
        prepare_folder("own", root, size, data, **change())
        assert identity(data, size) != before
        before = identity(data, size)
    missing = data / "own" / ("test.npz" if size <= 64 else "test")
    (shutil.rmtree if missing.is_dir() else Path.unlink)(missing)
    prepare_folder("own", root, size, data)
    assert len(Split.open("own", "test", data)) == 2


def test_another_size_removes_what_the_first_left(tmp_path):
    root, data = tree(tmp_path / "images", a=4, b=4), tmp_path / "data"
    prepare_folder("own", root, 64, data)
    assert sorted(p.name for p in (data / "own").iterdir()) == ["manifest.json", "test.npz", "train.npz"]
    prepare_folder("own", root, 65, data)
    assert sorted(p.name for p in (data / "own").iterdir()) == ["manifest.json", "test", "train"]
    facts = read_manifest(data / "own")
    assert facts["dataset"]["folders"] and tuple(facts["dataset"]["mean"]) == IMAGENET_MEAN
    assert tuple(facts["dataset"]["std"]) == IMAGENET_STD
    links = {split: sorted(p.relative_to(data / "own" / split).as_posix() for p in (data / "own" / split).rglob("*.png")
                           ) for split in ("train", "test")}
    assert [len(links[split]) for split in ("train", "test")] == [6, 2] == [
        facts["splits"][split]["folder"]["images"] for split in ("train", "test")]
    assert sorted(sum(links.values(), [])) == sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    assert all((data / "own/test" / name).resolve() == root / name for name in links["test"])
    for record in facts["splits"].values():
        assert record["folder"]["linked"] is True and record["folder"]["sha256"] == record["sha256"]
        assert record["verified"] is False and record["images"] == record["folder"]["images"]
    prepare_folder("own", root, 8, data)
    assert sorted(p.name for p in (data / "own").iterdir()) == ["manifest.json", "test.npz", "train.npz"]
    assert len(list(root.rglob("*.png"))) == 8, "links were removed, not images"


@pytest.mark.parametrize("size, fraction, fits", [
    (7, 0.5, False), (8, 0.5, True), (1024, 0.5, True), (1025, 0.5, False), (8, 0, False), (8, 1, False),
    (8, 0.01, True), (8, 0.99, True)])
def test_sizes_go_from_8_to_1024_and_fractions_lie_between_0_and_1(tmp_path, size, fraction, fits):
    root = tree(tmp_path / "images", a=3, b=3)
    if fits:
        prepare_folder("own", root, size, tmp_path / "data", fraction)
        assert len(Split.open("own", "test", tmp_path / "data")) == (2 if fraction < 0.1 else 4)
    else:
        with pytest.raises(UserError, match=f"from 8 to 1024, .*between 0 and 1, got {size} and {fraction}$"):
            prepare_folder("own", root, size, tmp_path / "data", fraction)
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("count, fraction, held_out", [
    (2, 0.2, 1), (2, 0.9, 1), (5, 0.2, 1), (10, 0.2, 2), (10, 0.25, 2), (10, 0.96, 9), (4, 0.01, 1)])
def test_of_each_class_the_lowest_md5s_are_held_out(tmp_path, count, fraction, held_out):
    source = FolderSource(tree(tmp_path, a=count, b=4))
    lowest = sorted((name for name in source.names if name.startswith("a/")),
                    key=lambda name: hashlib.md5(f"1 {name}".encode()).digest())[:held_out]
    positions = held_out_positions(source, fraction)
    assert [source.names[k] for k in positions if source.names[k] in lowest] == sorted(lowest)
    assert sum(source.names[k].startswith("a/") for k in positions) == held_out
    assert positions.tolist() == sorted(positions)
    if held_out == 2:
        assert not np.array_equal(held_out_positions(source, fraction, seed=3), positions)


def test_a_class_with_one_image_is_named(tmp_path):
    with pytest.raises(UserError, match=f"the class b of {tmp_path} has one image: two or more"):
        held_out_positions(FolderSource(tree(tmp_path, a=2, b=1, c=1)), 0.2)


def test_which_folders_are_the_training_and_the_test_images(tmp_path):
    def opened(name, *folders):
        for folder in folders:
            tree(tmp_path / name / folder, a=2, b=2)
        return {split: source.root.name for split, source in open_sources(tmp_path / name).items()}

    assert opened("plain", "") == {"all": "plain"}
    assert opened("train", "Training") == {"all": "Training"}
    assert opened("all", "TRAIN", "validation", "Val", "testing") == {"train": "TRAIN", "test": "testing"}
    assert opened("hidden", "train", ".test") == {"all": "train"}
    assert opened("first", "training", "train", "valid", "validation") == {"train": "train", "test": "valid"}
    tree(tmp_path / "classes", test=2, rose=2)  # a class that is called so
    assert opened("classes") == {"all": "classes"}
    with pytest.raises(UserError, match=r"alone has valid/ and no train/: name the folder above both, or the folder"):
        opened("alone", "valid")
    with pytest.raises(UserError, match="--folder: there is no folder .*nowhere"):
        open_sources(tmp_path / "nowhere")
    tree(tmp_path / "first/valid", zebra=1, yak=1)
    with pytest.raises(UserError, match="first/valid has images of 2 classes that .*first/train does not have, for "
                                        "instance yak"):
        opened("first")
    shutil.rmtree(tmp_path / "all/testing")
    (tmp_path / "all/testing").mkdir()
    with pytest.raises(UserError, match="all/testing holds no images"):
        opened("all")
    shutil.rmtree(tmp_path / "plain/b")
    with pytest.raises(UserError, match="plain has one class: two or more class folders"):
        opened("plain")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images in class folders"):
        opened("empty")
    Image.new("RGB", (8, 8)).save(tmp_path / "empty/1.png")
    with pytest.raises(UserError, match="empty has one class"):
        opened("empty")


def test_a_folder_of_something_else_stays_as_it_is(tmp_path):
    root, data = tree(tmp_path / "images", a=2, b=2), tmp_path / "data"
    (data / "own").mkdir(parents=True)
    (data / "own/train.npz.host.7.part").write_bytes(b"of a killed process")
    prepare_folder("own", root, 8, data)
    for name, file, content, fresh in (("one", "notes.txt", "mine", False), ("two", "notes.txt", "mine", True),
                                       ("three", "manifest.json", "{", False),
                                       ("four", "manifest.json", '{"splits": {}}', True)):
        (data / name).mkdir()
        (data / name / file).write_text(content)
        with pytest.raises(UserError, match=f"{name} is there already and was not made by --folder: it stays as it is"):
            prepare_folder(name, root, 8, data, fresh=fresh)
        assert [(p.name, p.read_text()) for p in (data / name).iterdir()] == [(file, content)]
    prepare_folder("three", root, 8, data, fresh=True)
    assert len(Split.open("three", "train", data)) == 2


def test_an_earlier_set_stays_when_the_images_cannot_be_used(tmp_path):
    root, data = tree(tmp_path / "images", a=3, b=3), tmp_path / "data"
    prepare_folder("own", root, 8, data)
    kept = (data / "own/manifest.json").read_text(), identity(data)
    for k in range(2):
        (root / f"a/0{k}.png").unlink()
    with pytest.raises(UserError, match="the class a of .* has one image"):
        prepare_folder("own", root, 8, data)
    assert kept == ((data / "own/manifest.json").read_text(), identity(data))
    with pytest.raises(UserError, match="the class a of"):
        prepare_folder("other", root, 8, data)
    assert not (data / "other").exists()


def test_arrays_may_take_two_gigabytes_and_not_a_byte_more(tmp_path, monkeypatch):
    root = tree(tmp_path / "images", a=3, b=3)
    assert user_folder.MOST_BYTES == 1 << 31
    monkeypatch.setattr(user_folder, "MOST_BYTES", 6 * 3 * 8 * 8)
    prepare_folder("own", root, 8, tmp_path / "data")
    monkeypatch.setattr(user_folder, "MOST_BYTES", 6 * 3 * 8 * 8 - 1)
    with pytest.raises(UserError, match="^6 images of 8×8 pixels need more than 2 GB of memory: choose a --size above"):
        prepare_folder("own", root, 8, tmp_path / "data", fresh=True)


def test_up_to_a_tenth_of_the_images_may_be_unreadable(tmp_path):
    root, data = tree(tmp_path / "images", a=10, b=10), tmp_path / "data"
    for name in ("a/03.png", "b/07.png"):
        (root / name).write_bytes(b"no image")
    said = prepare_folder("own", root, 8, data)
    records = read_manifest(data / "own")["splits"]
    assert records["train"]["left_out"] == ["a/03.png", "b/07.png"] and "left_out" not in records["test"]
    assert records["train"]["images"] + records["test"]["images"] == 18
    assert [line for line in said if "left out" in line] == [
        f"{'':21}  left out, unreadable: {name}" for name in ("a/03.png", "b/07.png")]
    (root / "a/04.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="^3 of 20 images cannot be read, for instance a/03.png"):
        prepare_folder("own", root, 8, data)


def test_every_class_keeps_an_image_to_train_on_and_some_remain_to_test_on(tmp_path):
    root = tmp_path / "images"
    tree(root / "train", a=20, b=1, c=1)
    tree(root / "test", a=1)
    (root / "train/b/00.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no image of the class b is left to train on"):
        prepare_folder("own", root, 8, tmp_path / "data")
    tree(root / "train", b=1)
    (root / "test/a/00.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no image is left to test on"):
        prepare_folder("own", root, 8, tmp_path / "data")


def test_statistics_are_those_of_all_pixels(tmp_path):
    images = np.random.default_rng(0).integers(0, 200, (2_500, 2, 3, 3), dtype=np.uint8)
    images[:1_000] //= 2
    mean, std = user_folder._statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)), abs=6e-5) and mean == np.round(mean, 4).tolist()
    assert std == pytest.approx((images / 255).std((0, 1, 2)), abs=6e-5) and std == np.round(std, 4).tolist()
    assert user_folder._statistics(np.full((1, 8, 8, 3), 51, np.uint8)) == ([0.2] * 3, [0.0039] * 3)


@pytest.mark.parametrize("count, end", [(6, "f), 8×8"), (7, "f …), 8×8")])
def test_six_classes_are_shown(tmp_path, count, end):
    root = tree(tmp_path / "images", **dict.fromkeys("gfedcba"[-count:], 2))
    said = prepare_folder("own", root, 8, tmp_path / "data")
    assert said[-1] == f"own            {count} classes (a, b, c, d, e, {end} pixels"


@pytest.mark.parametrize("size", [8, 72])
def test_two_test_images_that_are_training_images_are_counted_as_two(tmp_path, size):
    root = tmp_path / "images"
    tree(root / "train", a=3, b=3)
    tree(root / "test", c=2)
    (root / "test/c").rename(root / "test/a")
    for k in range(2):
        shutil.copy(root / f"train/b/0{k}.png", root / f"test/a/1{k}.png")
    said = prepare_folder("own", root, size, tmp_path / "data")
    assert "own            test        2 of them are training images, too: results will look too good" in said
    assert read_manifest(tmp_path / "data/own")["splits"]["test"]["also_in_train"] == 2
