"""Image files in folders and archives: the same arrays from both, torchvision's bits, and archives that lie."""
import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from conftest import put, tar_of, zip_of
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from data import loaders, prepare, splits
from data.datasets import CATALOG, image_folder
from data.sources import archives, images
from data.sources.store import verify
from data.splits import Split
from utils.io import UserError

CPU = torch.device("cpu")
rng = np.random.default_rng(0)


def image(size, mode="RGB", format="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(buffer, format)
    return buffer.getvalue()


def photographs():
    """Of three classes, of several sizes and modes, names out of order."""
    sizes = {"b/2.jpg": (50, 40), "b/10.jpg": (40, 70), "a/z.png": (33, 33), "c/x.JPEG": (200, 100)}
    modes = {"b/10.jpg": "CMYK", "c/x.JPEG": "L", "a/z.png": "P"}
    return {name: image(size, modes.get(name, "RGB"), "PNG" if name.endswith("png") else "JPEG")
            for name, size in sizes.items()}


# ---- pictures ----

@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "zip"])
def test_every_source_gives_torchvisions_bits_in_imagefolders_order(tmp_path, kind):
    files = photographs()
    put(tmp_path / "root", files | {"a/._z.png": b"", "b/notes.txt": b""})
    inside = {f"set/images/{name}": content for name, content in files.items()} | {
        "set/labels.txt": b"", "set/other/a.png": image((9, 9), format="PNG"), "__MACOSX/set/images/a/z.png": b""}
    if kind == "folder":
        found = images.FolderSource(tmp_path / "root")
    else:
        make = {"tar": lambda c: tar_of(c, "w"), "tar.gz": tar_of, "zip": zip_of}[kind]
        (tmp_path / kind).write_bytes(make(inside))
        found = images.ArchiveSource(tmp_path / kind, "set/images", expected=4)
    assert found.names == ["a/z.png", "b/10.jpg", "b/2.jpg", "c/x.JPEG"] and found.labels.tolist() == [0, 1, 1, 2]
    arrays, keep, left_out = images.to_arrays(found, (28, 32))
    assert keep.tolist() == [0, 1, 2, 3] and not left_out
    (tmp_path / "root/a/._z.png").unlink()
    theirs = ImageFolder(tmp_path / "root")
    assert [label for _, label in theirs.samples] == found.labels.tolist()
    for size in (28, 32):
        transform = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])
        assert np.array_equal(arrays[size], np.stack([np.asarray(transform(image)) for image, _ in theirs]))


def test_what_no_decoder_reads_is_named_and_left_out(tmp_path):
    put(tmp_path, {f"a/{k:03}.png": image((8, 8), format="PNG") for k in range(150)})
    (tmp_path / "a/007.png").write_bytes(image((8, 8), format="PNG")[:60])
    arrays, keep, left_out = images.to_arrays(images.FolderSource(tmp_path), (8,))
    assert left_out == ["a/007.png"] and 7 not in keep and arrays[8].shape == (149, 8, 8, 3)
    for k in range(3):
        (tmp_path / f"a/{k:03}.png").write_bytes(b"")
    with pytest.raises(UserError, match="4 of 150 images cannot be read, for instance a/000.png"):
        images.to_arrays(images.FolderSource(tmp_path), (8,))
    with pytest.raises(UserError, match="is 8×8 pixels, expected 32×32"):
        images.to_arrays(images.FolderSource(tmp_path), (32,), exact=32)


def test_tiny_imagenets_classes_come_from_its_annotations(tmp_path, official):
    files = {f"val/images/val_{k}.JPEG": image((64, 64)) for k in range(4)}
    files["val/val_annotations.txt"] = b"".join(b"val_%d.JPEG\tn0%d\t0\t0\t9\t9\n" % (k, 3 - k) for k in range(4))
    contents = official("tinyimagenet", archive=zip_of({f"tiny-imagenet-200/{name}": c for name, c in files.items()}))
    put(tmp_path / "archive", contents)
    put(tmp_path / "folder/images_classic/tin", files)
    for kind in ("archive", "folder"):
        prepare.prepare("tinyimagenet", tmp_path / "data" / kind, [tmp_path / kind])
        assert Split.open("tinyimagenet", "test", tmp_path / "data" / kind).names == [
            "n00/val_3.JPEG", "n01/val_2.JPEG", "n02/val_1.JPEG", "n03/val_0.JPEG"]
    both = [splits.read_split("tinyimagenet", "test", tmp_path / "data" / kind)[0] for kind in ("archive", "folder")]
    assert both[0].shape == (4, 64, 64, 3) and np.array_equal(*both)


# ---- archives ----

def member(name, kind=tarfile.REGTYPE, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


def lying_tar(*infos):
    """A tar whose headers say what they like; no contents."""
    return b"".join(info.tobuf() for info in infos) + bytes(1024)


@pytest.mark.parametrize("content, what", [
    (tar_of({"a/b.png": b"", "../../evil.png": b"x"}), "'../../evil.png' leads out of the folder"),
    (tar_of({"a/../../evil.png": b"x"}), "leads out of the folder"),
    (zip_of({"ok.png": b"", "../evil.png": b"x"}), "'../evil.png' leads out of the folder"),
    (lying_tar(member("a/disk.png", tarfile.BLKTYPE)), "disk.png"),
    (lying_tar(member("a/link.png", tarfile.SYMTYPE, link="/etc/passwd")), "link to an absolute path"),
    (lying_tar(member("a/big.png", size=1 << 40)), "1,099,511,627,776 bytes"),
    (tar_of({f"a/{k}.png": b"" for k in range(1_050)}), "holds 1,041 members"),
    (tar_of({"a/1.png": bytes(1 << 20)})[:500], "cannot be read as an archive"),
    (b"<html>quota exceeded</html>", "cannot be read as an archive"),
], ids=["tar", "inner", "zip", "device", "link", "bomb", "many", "cut", "page"])
def test_an_archive_that_lies_is_refused_before_anything_is_unpacked(tmp_path, official, content, what, capsys):
    """Even with the right checksum: nothing lands outside, nothing is kept, and the other sets go on."""
    put(tmp_path / "deep/mirror", official("lsun_resize", archive=content, counts={"test": 10}))
    assert not prepare.prepare("lsun_resize", tmp_path / "deep/data", [tmp_path / "deep/mirror"])
    said = capsys.readouterr().out
    assert "lsun_resize    test   missing:" in said and what in said
    assert not list(tmp_path.rglob("evil*")) and not (tmp_path / "deep/data/lsun_resize").exists()


def test_a_bomb_of_zeros_is_refused_by_its_headers(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(30):
            archive.writestr(f"{k}.png", bytes(10 << 20))
    assert (tmp_path / "bomb.zip").stat().st_size < 1 << 20
    limits = archives.Limits(members=100, member=100 << 20, total=100 << 20)
    with pytest.raises(UserError, match="up to 10.png it holds 11 members and 115,343,360 bytes"):
        archives.members(tmp_path / "bomb.zip", limits)


def test_a_picture_that_would_fill_the_memory_is_left_out(tmp_path):
    head = image((8, 8), format="PNG")
    huge = head[:16] + (60_000).to_bytes(4, "big") * 2 + head[24:]  # a header that says 60,000 × 60,000
    put(tmp_path, {f"a/{k:03}.png": head for k in range(150)} | {"a/bomb.png": huge})
    assert images.to_arrays(images.FolderSource(tmp_path), (8,))[2] == ["a/bomb.png"]


# ---- photographs, for small networks and for ImageNet's ----

def test_photographs_are_prepared_for_both(tmp_path, official, capsys):
    files = photographs()
    put(tmp_path / "mirror", official("textures", archive=tar_of({f"dtd/images/{n}": c for n, c in files.items()})))
    data = tmp_path / "data"
    assert prepare.prepare("textures", data, [tmp_path / "mirror"])
    assert {p.name for p in (data / "textures").iterdir()} == {"manifest.json", "test", "test_28.npz", "test_32.npz"}
    for like, size in (("mnist", 28), ("cifar10", 32)):
        shown = loaders.open_set("textures", "test", data, CPU, like)
        assert shown.images.shape == (4, 3, size, size) and splits.available("textures", "test", data, like)
        assert Split.open("textures", "test", data, like).names == ["a/z.png", "b/10.jpg", "b/2.jpg", "c/x.JPEG"]
    for name, content in files.items():
        assert (data / "textures/test" / name).read_bytes() == content, "as published"
    digests = {Split.open("textures", "test", data, like).digest for like in ("mnist", "cifar10", "imagenet1k")}
    assert len(digests) == 3 and sum("4 files in 3 folders" in d for d in digests) == 1
    assert splits.available("textures", "test", data) and not splits.available("textures", "test", tmp_path)
    (data / "textures/test/b/2.jpg").write_bytes(b"bit rot")
    assert not verify("textures", data) and "DAMAGED: test/" in capsys.readouterr().out


def test_a_mirrors_folders_are_linked_and_never_touched(tmp_path, official, monkeypatch, capsys):
    """An OpenOOD data folder: large sets are used where they are; a part of a set gives way to all of it."""
    tree, data, files = tmp_path / "openood", tmp_path / "data", photographs()
    put(tree / "images_largescale/ninco", files)
    put(tree / "images_largescale/inaturalist/images", {f"{k}.jpg": image((30, 30)) for k in range(3)})
    put(tree / "images_classic/texture", files)
    before = {p: p.stat().st_mtime_ns for p in tree.rglob("*")}
    for name, count in (("ninco", 4), ("inaturalist", 3), ("textures", 4)):
        assert not prepare.prepare(name, data, [tree]), "a part of it"
        assert f"{count} of {CATALOG[name].counts['test']} images, unverified: class" in capsys.readouterr().out
        assert (data / name / "test").resolve().is_relative_to(tree)
        shown = loaders.open_set(name, "test", data, CPU, "imagenet1k")
        assert len(shown) == count
    with pytest.raises(UserError, match="ninco is not prepared for networks of 32 pixels, but for those of ImageNet"):
        loaders.open_set("ninco", "test", data, CPU, "cifar10")
    assert Split.open("inaturalist", "test", data, "imagenet1k").names == [f"images/{k}.jpg" for k in range(3)]

    kept = (data / "textures/test_32.npz").stat().st_mtime_ns
    prepare.prepare("textures", data, [tree])
    assert (data / "textures/test_32.npz").stat().st_mtime_ns == kept, "the same part is not made again"
    assert verify("ninco", data)
    put(tmp_path / "archives", official("textures", archive=tar_of({f"dtd/images/{n}": c for n, c in files.items()})))
    assert prepare.prepare("textures", data, [tree, tmp_path / "archives"])
    assert not (data / "textures/test").is_symlink() and before == {p: p.stat().st_mtime_ns for p in tree.rglob("*")}
    assert "4 images: official files, MD5 verified" in capsys.readouterr().out


def test_a_part_with_an_unreadable_picture_is_not_made_again(tmp_path, capsys):
    put(tmp_path / "mirror/places365", {f"a/{k:03}.png": image((40, 40), format="PNG") for k in range(150)})
    (tmp_path / "mirror/places365/a/003.png").write_bytes(b"")
    prepare.prepare("places365", tmp_path / "data", [tmp_path / "mirror"])
    said = capsys.readouterr().out
    assert "149 of 36500 images, unverified" in said and "left out, unreadable: a/003.png" in said
    made = (tmp_path / "data/places365/test_32.npz").stat().st_mtime_ns
    prepare.prepare("places365", tmp_path / "data", [tmp_path / "mirror"])
    assert (tmp_path / "data/places365/test_32.npz").stat().st_mtime_ns == made


def test_pictures_that_people_placed_themselves_stay(tmp_path, official, capsys):
    own = {"n0/mine.jpg": image((30, 30))}
    put(tmp_path / "data/imagenet_o/test", own)
    put(tmp_path / "mirror", official("imagenet_o", archive=tar_of({"imagenet-o/n1/theirs.jpg": image((30, 30))}, "w")))
    prepare.prepare("imagenet_o", tmp_path / "data", [tmp_path / "mirror"])
    assert "is there already and was not made by prepare.py: it stays as it is" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "data/imagenet_o/test").rglob("*.jpg")] == ["mine.jpg"]
    assert splits.available("imagenet_o", "test", tmp_path / "data", "imagenet1k")
    shutil.rmtree(tmp_path / "data/imagenet_o")
    assert prepare.prepare("imagenet_o", tmp_path / "data", [tmp_path / "mirror"])
    assert image_folder("imagenet_o", "test", tmp_path / "data").is_dir()


def test_imagenet_is_linked_where_a_mirror_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    for split in ("train", "val"):
        put(tmp_path / "mirror/imagenet" / split, {"n01/a.JPEG": image((30, 30)), "n02/b.JPEG": image((30, 30))})
    assert prepare.prepare("imagenet1k", tmp_path / "data", [tmp_path / "mirror"])
    assert "2 images of 2 classes in" in capsys.readouterr().out and (tmp_path / "data/imagenet1k/val").is_symlink()
    (tmp_path / "mirror").rename(tmp_path / "moved")
    assert prepare.prepare("imagenet1k", tmp_path / "data", [tmp_path / "moved"])
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "nowhere"))
    assert not prepare.prepare("imagenet1k", tmp_path / "data", [tmp_path / "moved"])
    assert not (tmp_path / "nowhere").exists(), "nothing is written where the user's ImageNet should be"
    assert "set IMAGENET_DIR" in capsys.readouterr().out


def test_numbered_files_are_put_in_the_publishers_order(tmp_path, capsys):
    """OpenOOD's MNIST and SVHN are single files that tell label and place."""
    values = {"mnist": {"7_1.jpg": 50, "3_0.jpg": 200, "9_10.jpg": 100},
              "svhn": {"000010_9.jpg": 100, "000001_3.jpg": 200, "000002_7.jpg": 50}}
    for name, files in values.items():
        size = CATALOG[name].size
        contents = {}
        for file, value in files.items():
            buffer = io.BytesIO()
            Image.new("L", (size, size), value).save(buffer, "JPEG")
            contents[file] = buffer.getvalue()
        put(tmp_path / "images_classic" / name / "test", contents)
        prepare.prepare(name, tmp_path / "data", [tmp_path])
        images, labels = splits.read_split(name, "test", tmp_path / "data")
        assert labels.tolist() == [3, 7, 9] and np.allclose(images[:, 5, 5, 0], [200, 50, 100], atol=2)
    assert "3 of 10000 images, unverified" in capsys.readouterr().out
