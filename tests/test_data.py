"""From official files to batches: checksums, faults, idempotence, and the same crops that torchvision would make."""
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import tarfile
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, script
from PIL import Image
from scipy.io import savemat
from torchvision.transforms import v2

from data import augment, loaders, prepare, sources
from data.catalog import CATALOG, OUTLIERS
from files import UserError, written_whole

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

    recipes = RECIPES["dismax"]
    assert set(recipes) == set(OUTLIERS) and set(recipes) <= set(CATALOG)
    for name in recipes:
        assert len(CATALOG[name].mean) == len(CATALOG[name].std) == 3 and "train" in CATALOG[name].counts


# ---- official files, made here: the real formats with their own checksums ----

def pack(*arrays):
    """gzipped idx bytes of each array."""
    headers = (bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) for a in arrays)
    return [gzip.compress(header + a.tobytes()) for header, a in zip(headers, arrays)]


@pytest.fixture
def official(monkeypatch):
    """Put bytes in the place of a set's official files: CATALOG's checksums become theirs. Returns path → bytes."""
    def become(name, files, archive=None):
        data_set, contents = CATALOG[name], {}
        parts = {split: [replace(part, md5=md5(content).hexdigest()) for part, content in zip(parts, files[split])]
                 for split, parts in data_set.parts.items()}
        for split in parts:
            contents |= {part.path: content for part, content in zip(parts[split], files[split])}
        packed = data_set.archive
        if packed:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
                for path, content in contents.items():
                    member = tarfile.TarInfo(path)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            packed = replace(packed, md5=md5(buffer.getvalue()).hexdigest(), url="http://127.0.0.1:9/nothing")
            contents[packed.path] = buffer.getvalue()
        monkeypatch.setitem(CATALOG, name, replace(data_set, parts=parts, archive=packed))
        monkeypatch.setattr(sources, "_archives", {})
        return contents
    return become


def cifar_batches(label_key=b"labels"):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 60)
    rows = images.transpose(0, 3, 1, 2).reshape(60, -1)
    batches = [pickle.dumps({b"data": rows[k : k + 10], label_key: labels[k : k + 10].tolist()})
               for k in range(0, 60, 10)]
    return images, labels, {"train": batches[:5], "test": batches[5:]}


def put(folder, contents, *paths):
    for path in paths or contents:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(contents[path])


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
    assert not list((tmp_path / "data").rglob("*.npz")) and not list(tmp_path.rglob("*.part"))


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


def test_download_over_http(tmp_path, official, monkeypatch):
    """A real server on loopback: a good file arrives whole; a wrong one, and a 404, leave nothing."""
    import http.server
    import threading

    contents = official("cifar10", cifar_batches()[2])
    archive = CATALOG["cifar10"].archive
    (tmp_path / "www").mkdir()
    (tmp_path / "www/good").write_bytes(contents[archive.path])
    (tmp_path / "www/bad").write_bytes(b"<html>quota exceeded</html>")
    handler = lambda *a, **k: http.server.SimpleHTTPRequestHandler(*a, directory=tmp_path / "www", **k)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *a: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    try:
        for path, message in (("bad", "is cut or altered: its MD5 is"), ("absent", "could not be fetched: File not f")):
            with pytest.raises(UserError, match=message):
                sources.download(replace(archive, url=f"{base}/{path}"), tmp_path / "downloads")
            assert not list((tmp_path / "downloads").glob("*")), "nothing is left behind"
        monkeypatch.setitem(CATALOG, "cifar10", replace(
            CATALOG["cifar10"], archive=replace(archive, url=f"{base}/good")))
        assert prepare.prepare("cifar10", tmp_path / "data", [])
    finally:
        server.shutdown()
    assert (tmp_path / "data/downloads" / archive.path).read_bytes() == contents[archive.path]


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


# ---- the embedded benchmark ----

def test_digits_are_real_disjoint_and_as_the_catalog_says(data_dir):
    for name in ("digits", "digits_789", "photo_patches"):
        for split, expected in CATALOG[name].counts.items():
            images, labels = loaders.read_split(name, split, data_dir)
            assert len(images) == len(labels) == expected and images.shape[1:3] == (28, 28)
            assert sorted(set(labels)) == list(range(CATALOG[name].classes))
    train, test = (loaders.read_split("digits", split, data_dir)[0] for split in ("train", "test"))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}
    assert train.max() == 255 and train.min() == 0


# ---- loading ----

def test_missing_and_damaged_sets_say_what_to_type(tmp_path, data_dir):
    with pytest.raises(UserError, match="python data/prepare.py svhn"):
        loaders.open_set("svhn", "test", tmp_path, CPU)
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    path = tmp_path / "digits" / "test.npz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="test.npz is damaged .* --fresh"):
        loaders.open_set("digits", "test", tmp_path, CPU)
    content = bytearray((data_dir / "digits" / "test.npz").read_bytes())
    content[5000] ^= 1  # one flipped bit
    path.write_bytes(content)
    with pytest.raises(UserError, match="test.npz is damaged"):
        loaders.open_set("digits", "test", tmp_path, CPU)


@pytest.mark.parametrize("padding, flip", [(4, True), (2, False), (0, False)])
def test_crop_and_flip_equal_torchvisions(padding, flip):
    """The one gather against pad, crop and hflip of torchvision, image by image, with the same offsets."""
    functional = v2.functional
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    index = torch.randint(0, 10, (50,))
    top, left = torch.randint(0, 2 * padding + 1, (2, 50))
    flipped = torch.rand(50) < 0.5
    ours = augment.crop(augment.pad(images, padding), index, top, left, 32)
    ours = augment.flip(ours, flipped) if flip else ours
    for k in range(50):
        expected = functional.crop(functional.pad(images[index[k]], [padding] * 4), int(top[k]), int(left[k]), 32, 32)
        expected = functional.horizontal_flip(expected) if flip and flipped[k] else expected
        assert torch.equal(ours[k], expected)


def test_normalisation_equals_torchvisions():
    grey = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    mean, std = (0.491, 0.482, 0.446), (0.247, 0.243, 0.261)
    ours = augment.normalise(grey, torch.tensor(mean), torch.tensor(std))
    theirs = v2.functional.normalize(grey.expand(5, 3, 28, 28) / 255, mean, std)
    assert ours.shape == (5, 3, 28, 28) and torch.allclose(ours, theirs, atol=1e-5)


def test_grey_images_with_one_mean_and_std_stay_one_channel_in_memory():
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    for mean, std, stride in (((0.5,) * 3, (0.5,) * 3, 0), ((0.5, 0.4, 0.5), (0.5,) * 3, 28 * 28)):
        (shown, _), = loaders.ResidentImages(images, np.zeros(5, int), CPU, 28, (mean, std)).eval_batches()
        expected = augment.normalise(torch.from_numpy(images).permute(0, 3, 1, 2), *map(torch.tensor, (mean, std)))
        assert shown.shape == (5, 3, 28, 28) and shown.stride(1) == stride and torch.equal(shown, expected)


def test_outliers_are_resized_as_torchvision_resizes_pictures():
    transform = v2.Compose([v2.Resize(28), v2.CenterCrop(28)])
    for shape in ((32, 32, 3), (64, 40, 3), (20, 20, 1)):
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        expected = np.asarray(transform(Image.fromarray(image.squeeze()))).reshape(28, 28, -1)
        assert np.array_equal(loaders.resized(image[None], 28)[0], expected), shape


def test_an_epoch_is_every_image_once_and_a_function_of_seed_and_epoch(data_dir):
    digits = loaders.open_set("digits", "train", data_dir, CPU)
    def epoch(seed, number, start=0):
        return list(digits.train_batches(64, seed, number, 2, False, start))

    first = epoch(1, 1)
    assert [len(t) for _, t in first] == [64] * 13 + [13], "the last batch is kept"
    assert torch.equal(torch.cat([t for _, t in first]).bincount(), digits.labels.bincount())
    assert all(torch.equal(a, b) for x, y in zip(first, epoch(1, 1)) for a, b in zip(x, y))
    assert not torch.equal(first[0][0], epoch(1, 2)[0][0]) and not torch.equal(first[0][0], epoch(2, 1)[0][0])
    assert all(torch.equal(a, b) for x, y in zip(first[5:], epoch(1, 1, start=5)) for a, b in zip(x, y))
    shown = torch.cat([x for x, _ in digits.eval_batches(100)])
    assert torch.equal(shown, augment.normalise(digits.images, digits.mean, digits.std)), "in order, untouched"


def test_padding_may_change_between_epochs(data_dir):
    digits = loaders.open_set("digits", "train", data_dir, CPU)
    for padding in (0, 3, 1):
        batch, _ = next(digits.train_batches(16, 1, 1, padding, True))
        assert batch.shape == (16, 3, 28, 28)


# ---- whole or absent ----

def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "file"
    with written_whole(path) as file:
        file.write(b"first")
    with pytest.raises(RuntimeError), written_whole(path) as file:
        file.write(b"second, cut sh")
        raise RuntimeError("the process has other worries")
    assert path.read_bytes() == b"first" and [p.name for p in path.parent.iterdir()] == ["file"]
    killed = subprocess.Popen(["true"])
    killed.wait()
    (path.parent / f"file.{killed.pid}.part").write_bytes(b"of a process that was killed")
    (path.parent / f"file.{os.getppid()}.part").write_bytes(b"of a process that is alive")
    with written_whole(path) as file:
        file.write(b"third")
    assert sorted(p.name for p in path.parent.iterdir()) == ["file", f"file.{os.getppid()}.part"]
