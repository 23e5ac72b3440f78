"""Small claims about what official files hold: archives, arrays, image files; and what is written from them."""
import errno
import gzip
import hashlib
import io
import pickle
import stat
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from claims_data import idx, picture
from conftest import put, tar_of, zip_of
from scipy.io import savemat

from data.sources import archives, formats, images
from data.sources.archives import Limits
from utils.io import UserError

# ---- archives ----

@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_an_archive_may_be_as_large_as_the_limits(tmp_path, make):
    path = tmp_path / "archive"
    path.write_bytes(make({"a/1": b"12345", "b/2": b"123", "c": b""}))
    assert archives.members(path, Limits(3, 5, 8)) == ["a/1", "b/2", "c"]
    for limits, said in ((Limits(2, 5, 8), "up to c it holds 3 members and 8 bytes; plausible are 2 members, 5 bytes "
                          "in one and 8 in all"), (Limits(3, 4, 8), "up to a/1 it holds 1 members and 5 bytes"),
                         (Limits(3, 5, 7), "up to b/2 it holds 2 members and 8 bytes")):
        with pytest.raises(UserError, match=f"archive was refused, nothing of it was unpacked: {said}"):
            archives.members(path, limits)
    found = archives.read_members(path, ["c", "b/2", "none"])
    assert list(found) == [("b/2", b"123"), ("c", b"")], "in the archive's order"
    assert Limits(7) == Limits(7, 2**30, 4 * 2**30)
    assert Limits.of_images(10) == Limits(1_040, 100 * 2**20, 20 * 2**20 + 2**30)


def test_folders_and_links_are_no_members(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, link in (("a", tarfile.DIRTYPE, ""), ("a/link", tarfile.SYMTYPE, "1"), ("a/1", b"0", "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
    (tmp_path / "tar").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a/", b"")
        link = zipfile.ZipInfo("a/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, b"1")
        archive.writestr("a/1", b"")
    for kind in ("tar", "zip"):
        assert archives.members(tmp_path / kind, Limits(3)) == ["a/1"]
    assert list(archives.read_members(tmp_path / "tar", ["a", "a/link", "a/1"])) == [("a/1", b"")]


def test_devices_are_refused_by_every_python(tmp_path, monkeypatch):
    member = tarfile.TarInfo("a/disk")
    member.type = tarfile.BLKTYPE
    (tmp_path / "tar").write_bytes(member.tobuf() + bytes(1024))
    monkeypatch.delattr("tarfile.data_filter", raising=False)
    with pytest.raises(UserError, match="'a/disk' is a device"):
        archives.members(tmp_path / "tar", Limits(3))
    with pytest.raises(UserError, match="^x cannot be read as an archive: EOFError$"), archives._read("x"):
        raise EOFError


# ---- arrays ----

def test_idx_files_hold_images_and_as_many_labels(monkeypatch):
    pixels, labels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3), np.array([1, 26], np.uint8)
    parts = [idx(pixels), idx(labels)]
    for given in (parts, [gzip.compress(part) for part in parts]):
        found = formats.read_idx(given)
        assert np.array_equal(found[0], pixels[..., None]) and found[1].tolist() == [1, 26]
    letters, numbers = formats.read_emnist(parts)
    assert np.array_equal(letters[..., 0], pixels.swapaxes(1, 2)) and numbers.tolist() == [0, 25]
    for given, said in (([parts[0], idx(labels[:1])], r"images of shape \(2, 2, 3\) with labels of shape \(1,\)"),
                        ([idx(pixels[0]), parts[1]], r"images of shape \(2, 3\) with labels"),
                        ([parts[0][:-1], parts[1]], r"27 bytes do not hold an array of \(2, 2, 3\)"),
                        ([parts[0] + b"x", parts[1]], r"29 bytes do not hold"), ([b"\0\0\x08", parts[1]], "not an idx"),
                        ([idx(pixels, 9), parts[1]], "not an idx file of bytes"),
                        ([b"\0\0\x08\x03" + bytes(12), parts[1]], r"16 bytes do not hold an array of \(-1,\)"),
                        ([gzip.compress(parts[0])[:-9], parts[1]], "an incomplete or altered .gz")):
        with pytest.raises(ValueError, match=said):
            formats.read_idx(given)
    monkeypatch.setattr(formats, "MOST_IDX", 28)
    assert len(formats.read_idx([gzip.compress(parts[0]), parts[1]])[0]) == 2
    monkeypatch.setattr(formats, "MOST_IDX", 27)
    with pytest.raises(ValueError, match="not an idx file of bytes"):
        formats.read_idx([gzip.compress(parts[0]), parts[1]])


def test_what_a_gz_unpacks_to_is_bounded(tmp_path, monkeypatch):
    assert formats.MOST_IDX == 2**30
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"12345"))
    for most, digest in ((5, hashlib.md5(b"12345").hexdigest()), (4, "")):
        monkeypatch.setattr(formats, "MOST_IDX", most)
        assert formats.md5_of_unpacked(tmp_path / "x.gz") == digest


def test_cifars_and_svhns_pixels_and_labels():
    pixels = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3, 32, 32)
    for key in (b"labels", b"fine_labels"):
        batches = [pickle.dumps({b"data": pixels[k : k + 1].reshape(1, -1), key: [k + 4], b"coarse_labels": [0]})
                   for k in range(2)]
        found, labels = formats.read_cifar(batches)
        assert np.array_equal(found, pixels.transpose(0, 2, 3, 1)) and labels.tolist() == [4, 5]
    matlab = io.BytesIO()
    savemat(matlab, {"X": pixels.transpose(2, 3, 1, 0), "y": np.array([[10], [9]], np.uint8)})
    found, labels = formats.read_svhn([matlab.getvalue()])
    assert np.array_equal(found, pixels.transpose(0, 2, 3, 1)) and labels.tolist() == [0, 9]


# ---- image files ----

def test_an_archives_images_lie_below_its_folder(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(zip_of({"set/b/1.png": picture(1), "set/a/2.png": picture(2), "set/a/._2.png": b"", "set/a/t.txt":
                             b"", "other/a/3.png": picture(3), "setx/4.png": b""}))
    found = images.ArchiveSource(path, "set", 4)
    assert found.names == ["a/2.png", "b/1.png"] and found.labels.tolist() == [0, 1] and len(found) == 2
    assert dict(found.read()) == {"a/2.png": picture(2), "b/1.png": picture(1)}
    assert found.skipped == [("a/._2.png", "an AppleDouble file of macOS")]
    for inside, said in (("none", "x.zip holds no images below none$"), ("setx/none", "below setx/none")):
        with pytest.raises(UserError, match=said):
            images.ArchiveSource(path, inside, 4)
    path.write_bytes(zip_of({"note.txt": b""}))
    with pytest.raises(UserError, match="x.zip holds no images$"):
        images.ArchiveSource(path, "", 4)
    path.write_bytes(zip_of({"p/x/1.png": b"", "q/y/1.png": b"", "q/z/1.png": b""}))
    assert images.ArchiveSource(path, "", 4, 3).tree.classes == ["x", "y", "z"]


def test_numbered_names_tell_labels_and_order(tmp_path):
    put(tmp_path, dict.fromkeys(("10_3.png", "9_7.png", "2_3.png"), b""))
    pattern = images.NUMBERED["svhn"]
    found = images.FolderSource(tmp_path, pattern)
    assert found.numbered and found.names == [f"images/{k}.png" for k in ("2_3", "9_7", "10_3")]
    assert found.labels.tolist() == [3, 7, 3] and found.classes == 1
    assert images.FolderSource(tmp_path, images.NUMBERED["mnist"]).numbered is False, "a label has one digit"
    assert images.NUMBERED["fashion_mnist"] == images.NUMBERED["mnist"] != pattern
    plain = images.FolderSource(tmp_path)
    assert plain.numbered is False and plain.labels.tolist() == [0] * 3
    put(tmp_path, {"other.png": b""})
    assert not images.FolderSource(tmp_path, pattern).numbered and len(images.FolderSource(tmp_path, pattern)) == 4
    (tmp_path / "empty").mkdir()
    assert images.FolderSource(tmp_path / "empty", pattern).numbered is False


def sourced(**contents):
    """A source of images by name."""
    return SimpleNamespace(names=sorted(contents), read=lambda: iter(contents.items()))


def test_images_stand_in_the_order_of_their_names_and_one_in_a_hundred_may_be_left_out():
    many = {f"{k:03}": picture(k) for k in reversed(range(200))}
    arrays, keep, left_out = images.to_arrays(sourced(**many), (8, 4))
    assert arrays[8][:, 0, 0, 0].tolist() == list(range(200)) == keep.tolist() and left_out == []
    assert arrays[4].shape == (200, 4, 4, 3) and arrays[4][:, 3, 3, 0].tolist() == list(range(200))
    broken = many | {"007": b"", "150": images.UnreadableImage("gone")}
    arrays, keep, left_out = images.to_arrays(sourced(**broken), (8,))
    assert left_out == ["007", "150"] and keep.tolist() == [k for k in range(200) if k not in (7, 150)]
    assert arrays[8][:, 0, 0, 0].tolist() == keep.tolist()
    with pytest.raises(UserError, match=r"^3 of 200 images cannot be read, for instance 007 \("):
        images.to_arrays(sourced(**broken | {"199": b"no"}), (8,))
    with pytest.raises(UserError, match=r"^2 of 3 images cannot be read, for instance 000 \(gone\)$"):
        images.to_arrays(sourced(**{"001": picture(), "002": b"", "000": images.UnreadableImage("gone")}), (8,))
    assert images.to_arrays(sourced(**{"001": picture(), "002": b""}), (8,))[2] == ["002"], "one always may"
    assert len(images.to_arrays(sourced(**{"0": picture()}), (4,), exact=8)[1]) == 1
    with pytest.raises(UserError, match="^0 is 8×8 pixels, expected 9×9$"):
        images.to_arrays(sourced(**{"0": picture()}), (4,), exact=9)


@pytest.mark.parametrize("cores, threads", [(3, 3), (8, 8), (20, 8)])
def test_at_most_eight_threads_decode(monkeypatch, cores, threads):
    made = []
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(images, "ThreadPoolExecutor", lambda count: made.append(count) or ThreadPoolExecutor(1))
    images.to_arrays(sourced(**{"0": picture()}), (4,))
    assert made == [threads]


def test_annotations_in_an_archive_tell_classes(tmp_path):
    path, lines = tmp_path / "x.zip", b"1.png\tdog\t0\n2.png\tcat\t0\n"
    path.write_bytes(zip_of({"set/images/1.png": b"", "set/images/2.png": b"", "set/val_annotations.txt": lines}))
    assert images.ArchiveSource(path, "set", 2).names == ["cat/2.png", "dog/1.png"]
    path.write_bytes(zip_of({"set/images/1.png": b"", "set/images/3.png": b"", "set/val_annotations.txt": lines}))
    with pytest.raises(UserError, match="x.zip/set/val_annotations.txt has no label for 1 of the 2 images in .*3.png"):
        images.ArchiveSource(path, "set", 2)
    assert images.ArchiveSource(path, "set/images", 2).names == ["images/1.png", "images/3.png"], "it lies outside"


def test_a_few_hundred_images_are_in_memory_at_a_time(monkeypatch):
    assert images.AT_ONCE == (256, 2**28)
    monkeypatch.setattr(images, "AT_ONCE", (3, 10))
    def sizes(*contents):
        return [[len(content) for _, content in some] for some in images._chunks([("", c) for c in contents])]

    assert sizes(*[b""] * 7) == [[0] * 3, [0] * 3, [0]] and sizes() == [] and sizes(*[b""] * 3) == [[0] * 3]
    assert sizes(b"1234", b"12345", b"1", b"12", b"1234567890", b"1") == [[4, 5, 1], [2, 10], [1]]
    assert [len(some) for some in images._chunks([("", images.UnreadableImage("x"))] * 4)] == [3, 1]


def test_unpacked_images_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
    contents = {"a/1.png": b"one", "b/2.png": b"two"}
    folder = tmp_path / "set/test"
    put(folder, {"old/0.png": b"old"})
    put(tmp_path / "set/test.part", {"left/over.png": b"by a kill"})

    class Source:
        def read(self):
            return iter(contents.items())

        def __len__(self):
            return 2

    digest = images.unpack(Source(), folder)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")} == contents
    expected = "\n".join(f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in contents.items())
    assert digest == hashlib.sha256(expected.encode()).hexdigest() == images.unpacked_digest(folder)
    assert not (tmp_path / "set/test.part").exists()

    for number, said in ((errno.ENOSPC, "could not write .*set/test: no space. Make room, or choose another folder"),
                         (99, "could not write .*test: no space. Make room, or choose another --data-dir")):
        def fail(self, content, number=number):
            raise OSError(number, "no space")

        monkeypatch.setattr("pathlib.Path.write_bytes", fail)
        with pytest.raises(UserError, match=said):
            images.unpack(Source(), folder)
        assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["test"]
        assert images.unpacked_digest(folder) == digest


def test_links_lead_to_folders_of_classes_or_of_images(tmp_path):
    put(tmp_path / "classes", {"a/1.png": b"1", "b/2.png": b"22"})
    put(tmp_path / "flat", {"1.png": b"333"})
    for name, link in (("classes", "."), ("flat", "images")):
        source = images.FolderSource(tmp_path / name)
        digest = images.link(source, tmp_path / "data/set/test")
        assert (tmp_path / "data/set/test" / link).is_symlink()
        assert (tmp_path / "data/set/test" / link).resolve() == tmp_path / name
        rows = {"classes": "a/1.png 1\nb/2.png 2", "flat": "images/1.png 3"}[name]
        assert digest == hashlib.sha256(rows.encode()).hexdigest()
    images.remove_images(tmp_path / "data/set/test")
    assert not (tmp_path / "data/set/test").exists() and (tmp_path / "flat/1.png").exists()
    images.remove_images(tmp_path / "data/set/test")
