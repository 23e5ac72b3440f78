"""Small claims about corrupted test images, official and made here, and about scikit-learn's digits."""
import hashlib
import io
import sys
import types
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import put, tar_of
from PIL import Image
from test_openood import give

from data import corruptions
from data.sources import acquire, download, sklearn_digits
from data.sources import corruptions as sources
from data.sources.store import recorded
from utils.io import UserError

NAME = "cifar10_c"


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pixels(count):
    return (np.arange(count * 32 * 32 * 3) % 251).astype(np.uint8).reshape(count, 32, 32, 3)


def made(folder, corruption="fog", severity=2, count=3, labels=4):
    put(folder / NAME, {f"{corruption}-{severity}.npy": saved(pixels(count)),
                        "labels-made.npy": saved(np.arange(labels))})


def official(folder, images=10, labels=10):
    put(folder / NAME, {"fog.npy": saved(pixels(images)), "labels.npy": saved(np.arange(labels, dtype=np.uint8))})


def test_each_severity_is_a_fifth_of_an_official_array(tmp_path):
    official(tmp_path)
    made(tmp_path)
    for severity in range(1, 6):
        images, labels = corruptions.read_corrupted(NAME, "fog", severity, tmp_path)
        assert np.array_equal(images, pixels(10)[2 * severity - 2 : 2 * severity])
        assert labels.tolist() == [2 * severity - 2, 2 * severity - 1] and labels.dtype == np.int64
        assert corruptions.note(NAME, "fog", severity, tmp_path) == ""
    assert corruptions.available_corruptions(NAME, tmp_path) == [("fog", s) for s in range(1, 6)]
    for corruption, severity in (("fog", 0), ("fog", 6), ("rain", 1)):
        with pytest.raises(UserError, match=f"cifar10_c has no '{corruption}' in severity {severity}: choose from "
                                            "gaussian_noise, .*saturate; 1 … 5$"):
            corruptions.read_corrupted(NAME, corruption, severity, tmp_path)
    opened = corruptions.open_corrupted(NAME, "fog", 3, tmp_path, torch.device("cpu"))
    assert opened.labels.tolist() == [4, 5] and opened.size == 32
    assert opened.mean.tolist() == pytest.approx([0.491, 0.482, 0.446])
    (tmp_path / NAME).rename(tmp_path / "cifar100_c")
    other = corruptions.open_corrupted("cifar100_c", "fog", 3, tmp_path, torch.device("cpu"))
    assert other.mean.tolist() == pytest.approx([0.507, 0.486, 0.440]), "of the set that it is made from"
    (tmp_path / "cifar100_c").rename(tmp_path / NAME)
    own = corruptions.open_corrupted(NAME, "fog", 3, tmp_path, torch.device("cpu"), ((0, 0, 0.5), (1, 1, 2)))
    assert own.mean.tolist() == [0, 0, 0.5] and own.std.tolist() == [1, 1, 2]


def test_arrays_made_here_are_read_whole_and_may_have_more_labels(tmp_path):
    for labels in (3, 4):
        made(tmp_path, labels=labels)
        images, found = corruptions.read_corrupted(NAME, "fog", 2, tmp_path)
        assert np.array_equal(images, pixels(3)) and found.tolist() == [0, 1, 2]
    assert corruptions.note(NAME, "fog", 2, tmp_path).startswith("not CIFAR-10-C but made from the test images")
    assert corruptions.available_corruptions(NAME, tmp_path) == [("fog", 2)]
    with pytest.raises(UserError, match=f"^cifar10_c has no fog in severity 1 in {tmp_path}. Prepare it: .*, or make "
                                        "it: python data/sources/corruptions.py cifar10 --severity 1$"):
        corruptions.read_corrupted(NAME, "fog", 1, tmp_path)


@pytest.mark.parametrize("images, labels, said", [
    (pixels(10).astype(np.int16), np.arange(10), r"it holds int16 of shape \(10, 32, 32, 3\)"),
    (pixels(10)[:, :31], np.arange(10), r"it holds uint8 of shape \(10, 31, 32, 3\)"),
    (pixels(10)[..., :1], np.arange(10), "it holds uint8.*"), (pixels(10), np.zeros((10, 1)), "it holds uint8.*"),
    (pixels(9), np.arange(9), "it has 9 images, and there are 9 labels"),
    (pixels(10), np.arange(11), "it has 10 images, and there are 11 labels"),
    (pixels(10), np.arange(9), "it has 10 images, and there are 9 labels")])
def test_other_arrays_are_refused(tmp_path, images, labels, said):
    put(tmp_path / NAME, {"fog.npy": saved(images), "labels.npy": saved(labels)})
    with pytest.raises(UserError, match=f"^fog in {tmp_path}/{NAME} is damaged .{said}.. Prepare it: .*--fresh$"):
        corruptions.read_corrupted(NAME, "fog", 1, tmp_path)
    made(tmp_path, "snow", 1, 4, 3)
    with pytest.raises(UserError, match="it has 4 images, and there are 3 labels"):
        corruptions.read_corrupted(NAME, "snow", 1, tmp_path)


def test_a_digest_changes_with_the_images_and_the_severity(tmp_path):
    made(tmp_path)
    path = tmp_path / NAME / "fog-2.npy"
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    for k in range(64):
        digest.update(path.read_bytes()[size * k // 64 :][:4096])
    assert corruptions.corruption_digest(NAME, "fog", 2, tmp_path) == f"sample {digest.hexdigest()} 2"
    sources.record_files(tmp_path / NAME, NAME, {"fog-2.npy": {"bytes": size, "md5": "abc"}}, {"made": "x"})
    assert corruptions.corruption_digest(NAME, "fog", 2, tmp_path) == "abc 2"
    sources.record_files(tmp_path / NAME, NAME, {"fog-2.npy": {"bytes": size + 1, "md5": "abc"}}, {})
    assert corruptions.corruption_digest(NAME, "fog", 2, tmp_path).startswith("sample ")
    official(tmp_path)
    first = corruptions.corruption_digest(NAME, "fog", 2, tmp_path)
    assert first.endswith(" 2") and corruptions.corruption_digest(NAME, "fog", 3, tmp_path) == first[:-1] + "3"
    assert digest.hexdigest() not in first, "the official arrays are preferred"


# ---- bringing them ----

@pytest.fixture
def arrays(monkeypatch):
    """Two official files in miniature; the others have checksums that nothing has."""
    contents = {"fog.npy": saved(pixels(5)), "labels.npy": saved(np.arange(5))}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(sources, "ARRAYS", ("fog", "snow"))
    monkeypatch.setattr(sources, "MD5S", {"fog": (sums["fog.npy"], "other"), "snow": ("none", "100's")})
    monkeypatch.setattr(sources, "LABELS_MD5", {NAME: sums["labels.npy"], "cifar100_c": "labels"})
    assert sources.official_files("cifar100_c") == {"labels.npy": "labels", "fog.npy": "other", "snow.npy": "100's"}
    return contents


class Finder:
    """Stands in for a SourceFinder."""

    def __init__(self, folders, downloads, archive=None, may_download=True):
        self.name, self.folders, self.downloads, self.problems = NAME, folders, downloads, []
        self.archive, self.may_download, self.downloaded = archive, may_download, []
        self.source = SimpleNamespace(archive="the archive")

    def try_(self, step, *arguments):
        try:
            return step(*arguments)
        except UserError as error:
            self.problems.append(str(error))

    def download(self, split):
        self.downloaded.append(split)

    def verified(self, file):
        assert file == "the archive"
        return self.archive


def test_official_arrays_are_linked_verified_and_unpacked(tmp_path, arrays):
    folder, sizes = tmp_path / "data" / NAME, {name: len(content) for name, content in arrays.items()}
    put(folder, {"labels.npy": arrays["labels.npy"]})
    put(tmp_path / "mirror/CIFAR-10-C", {"fog.npy": arrays["fog.npy"], "snow.npy": b"altered"})
    finder = Finder([tmp_path / "mirror"], tmp_path / "data/downloads")
    done = sources.prepare_official(finder, folder, {})
    md5s = sources.official_files(NAME)
    assert done == {name: {"bytes": sizes[name], "md5": md5s[name]} for name in ("labels.npy", "fog.npy")}
    assert (folder / "fog.npy").resolve() == tmp_path / "mirror/CIFAR-10-C/fog.npy" and finder.downloaded == ["test"]
    assert not (folder / "labels.npy").is_symlink() and "snow.npy is incomplete or altered" in finder.problems[0]
    assert sources.prepare_official(Finder([], tmp_path, None, False), folder, {"snow.npy": 7})["snow.npy"] == 7
    (tmp_path / "x.tar").write_bytes(tar_of({f"deep/{name}": content for name, content in arrays.items()} | {"y": b""}))
    finder = Finder([], tmp_path / "data/downloads", tmp_path / "x.tar", False)
    again = sources.prepare_official(finder, tmp_path / "new", {})
    assert again == done and finder.downloaded == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()} == arrays
    put(tmp_path / "beside/CIFAR-10-C", arrays)
    finder = Finder([], tmp_path / "beside/downloads")
    assert sources.prepare_official(finder, tmp_path / "very/third", {}) == done
    put(tmp_path / "bare", arrays)
    assert sources.prepare_official(Finder([tmp_path / "bare"], tmp_path / "d"), tmp_path / "fourth", {}) == done


def test_what_is_there_of_a_corrupted_set_is_told(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(acquire, "official_files", sources.official_files)
    folder = tmp_path / "data" / NAME
    made(tmp_path / "data")
    sources.record_files(folder, NAME, {name: {"bytes": (folder / name).stat().st_size, "md5": "m"} for name in (
        "fog-2.npy", "labels-made.npy")}, {"made": "here"})
    lines = []
    assert acquire.prepare_corrupted(Finder([], tmp_path / "d"), folder, False, lines) is False
    assert lines == [f"{NAME:14} test   1 arrays made here, see data/sources/corruptions.py",
                     f"{NAME:14} test   missing: {acquire.how_to_place(NAME)}"]
    put(tmp_path / "mirror/CIFAR-10-C", arrays)
    lines.clear()
    assert acquire.prepare_corrupted(Finder([tmp_path / "mirror"], tmp_path / "d"), folder, False, lines) is False
    assert lines[0] == f"{NAME:14} test   2 of 3 arrays: official files, MD5 verified" and len(lines) == 3
    record = recorded(folder)["test"]
    assert (record["images"], record["verified"], record["source"], record["made"]) == (
        50_000, True, "official files, MD5 verified", "here") and len(record["files"]) == 4
    before = (folder / "manifest.json").stat().st_mtime_ns
    acquire.prepare_corrupted(Finder([], tmp_path / "d"), folder, False, lines)
    assert (folder / "manifest.json").stat().st_mtime_ns == before, "nothing new is not written"
    monkeypatch.setattr(sources, "ARRAYS", ("fog",))
    lines.clear()
    assert acquire.prepare_corrupted(Finder([], tmp_path / "d"), folder, True, lines) is True
    assert lines == [f"{NAME:14} test   2 of 2 arrays: official files, MD5 verified"]


# ---- making them ----

def test_the_command_makes_severities_1_and_5_of_the_fifteen(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(sources, "make_corruptions", lambda *words: calls.append(words))
    for words in (["cifar100"], ["cifar10", "--severity", "2", "3", "--corruptions", "fog", "snow", "--count", "7",
                                 "--data-dir", str(tmp_path)]):
        monkeypatch.setattr("sys.argv", ["corruptions.py", *words])
        sources.main()
    assert calls == [("cifar100", corruptions.CORRUPTIONS, [1, 5], 10_000, Path(corruptions.__file__).parent),
                     ("cifar10", ["fog", "snow"], [2, 3], 7, tmp_path)]


def test_seeds_go_to_the_generator_or_to_the_corruption(tmp_path, monkeypatch, capsys):
    """As crc32 of "<data set> <corruption> <severity>"; a corruption with a seed of its own gets one more an image."""
    seen = []

    def corrupt(image, corruption_name, severity, **seed):
        seen.append((corruption_name, severity, np.random.randint(1 << 30), seed))
        if corruption_name == "fog":
            raise TypeError("gone")
        return image // 2 + severity

    package = types.SimpleNamespace(corrupt=corrupt, fog=lambda x, severity: x, snow=lambda x, severity: x,
                                    frost=lambda x, severity, seed: x)
    monkeypatch.setitem(sys.modules, "imagecorruptions", package)
    monkeypatch.setattr(sources, "_version", {"imagecorruptions": "1.2"}.get)
    give(tmp_path, "cifar10", labels=np.array([3, 1, 2]), images=pixels(3))
    sources.make_corruptions("cifar10", ["fog", "snow", "frost"], [4], 2, tmp_path)
    crc = {name: zlib.crc32(f"cifar10 {name} 4".encode()) for name in ("snow", "frost")}
    assert [(name, severity) for name, severity, *_ in seen] == [("fog", 4), *[("snow", 4)] * 2, *[("frost", 4)] * 2]
    first = [np.random.RandomState(crc[name]).randint(1 << 30) for name in ("snow", "frost")]
    assert [seen[1][2], seen[3][2]] == first and [words[3] for words in seen[1:]] == [
        {}, {}, {"seed": crc["frost"]}, {"seed": crc["frost"] + 1}]
    images, labels = corruptions.read_corrupted(NAME, "snow", 4, tmp_path)
    assert np.array_equal(images, pixels(2) // 2 + 4) and labels.tolist() == [3, 1] and images.dtype == np.uint8
    record = recorded(tmp_path / NAME)["test"]
    assert record["made"] == "imagecorruptions 1.2, first 2 test images"
    assert set(record["files"]) == {"labels-made.npy", "snow-4.npy", "frost-4.npy"}
    path = tmp_path / NAME / "snow-4.npy"
    assert record["files"]["snow-4.npy"] == {"bytes": path.stat().st_size, "md5": download.md5_of(path)}
    assert capsys.readouterr().out == (f"{tmp_path / NAME}: 2 arrays of 2 images made with imagecorruptions 1.2\n"
                                       "imagecorruptions could not make: fog 4 (gone)\n")
    sources.make_corruptions("cifar10", ["snow"], [5], 2, tmp_path)
    assert "could not make" not in capsys.readouterr().out and len(recorded(tmp_path / NAME)["test"]["files"]) == 4
    monkeypatch.undo()
    assert sources._version("numpy") == np.__version__ and sources._version("no-such-package") == ""


# ---- scikit-learn's images ----

def test_digits_are_every_third_of_a_class_to_test_on():
    from sklearn.datasets import load_digits

    content, splits = load_digits(), sklearn_digits.digits()
    images, labels = splits["test"]
    place = [k for k in range(len(content.target)) if content.target[k] == 4]
    assert np.count_nonzero(labels == 4) == len(place) // 3 and images.shape == (419, 28, 28, 1)
    for k, shown in zip(place[2::3], images[labels == 4], strict=True):
        small = Image.fromarray((content.images[k] * 255 / 16).round().astype(np.uint8))
        assert np.array_equal(shown[..., 0], small.resize((28, 28), Image.Resampling.BILINEAR))
    assert images.max() == 255 and images.min() == 0 and images.dtype == np.uint8
    assert set(splits["train"][1]) == set(labels) == set(range(7))
    last, numbers = sklearn_digits.digits_789()["test"]
    assert set(numbers) == {0, 1, 2} and numbers[:3].tolist() == [0, 1, 2] and last.shape[1:] == (28, 28, 1)


def test_patches_cover_the_photographs():
    from sklearn.datasets import load_sample_images

    patches, labels = sklearn_digits.photo_patches()["test"]
    photos = load_sample_images().images
    rows, columns = photos[0].shape[0] // 28, photos[0].shape[1] // 28
    assert labels.tolist() == [0] * rows * columns + [1] * rows * columns
    for row, column in ((0, 0), (0, 1), (1, 0), (rows - 1, columns - 1)):
        k = row * columns + column
        corner = slice(28 * row, 28 * row + 28), slice(28 * column, 28 * column + 28)
        assert np.array_equal(patches[k], photos[0][corner])
        assert np.array_equal(patches[rows * columns + k], photos[1][corner])
