"""Situations that users report of such software, and two of each kind: the right value, or a refusal in words."""
import csv
import io
import json
import os
import shutil
import subprocess
import sys

import forked
import numpy as np
import pytest
import torch
from conftest import ROOT, script
from PIL import Image

from data.decode import UnreadableImage, open_rgb
from data.image_files import ImageTree, class_names, labelled_files
from data.openood_lists import read_list
from data.sources.store import write_arrays
from data.splits import read_split
from utils.io import UserError

WNIDS = ("n01440764", "n01443537", "n01484850")
rng = np.random.default_rng(5)


def picture(path, value=90, side=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, 20, 200)).save(path, "PNG")
    return path


# ---- which class an image shows ----

def tree(root, folders):
    for k, folder in enumerate(folders):
        picture(root / folder / "a.png", k)
    return root


@pytest.mark.parametrize("odd", [
    ".ipynb_checkpoints", "lost+found", "@eaDir", "n00000001", "__MACOSX/._n01440764", ".Trash-0/files"])
def test_folders_that_are_no_classes_shift_no_label(tmp_path, odd):
    """Empty ones, hidden ones and those of file systems, in the training folder or in the other."""
    train, val = tree(tmp_path / "train", WNIDS), tree(tmp_path / "val", WNIDS)
    for split in (train, val):
        (split / odd).mkdir(parents=True)
        assert class_names(train) == list(WNIDS)
        assert labelled_files(val, class_names(train))[1] == labelled_files(train)[1] == [0, 1, 2]


@pytest.mark.parametrize("arrangement", ["{}", "val/{}", "{}/images", "a/b/{}", "{}/images/more"])
def test_the_class_is_the_folder_that_is_a_class_however_deep(tmp_path, arrangement):
    root = tree(tmp_path / "val", [arrangement.format(wnid) for wnid in WNIDS])
    assert ImageTree.open(root).classes == list(WNIDS)
    assert labelled_files(root)[1:] == ([0, 1, 2], list(WNIDS))


@pytest.mark.parametrize("folders, said", [
    (["cats/old", "cats/new", "dogs/old", "dogs/new"], "is unknown"), (["train/cats", "val/cats"], "name one")])
def test_what_is_a_class_is_not_guessed(tmp_path, folders, said):
    with pytest.raises(UserError, match=said):
        labelled_files(tree(tmp_path / "photos", folders))


# ---- the same picture, however it is stored ----

GRAY = rng.integers(0, 256, (20, 30), dtype=np.uint8)
COLOURS = np.asarray(Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).quantize(64).convert("RGB"))


def as_modes():
    gray, colours = Image.fromarray(GRAY), Image.fromarray(COLOURS)
    deep = GRAY.astype(np.uint16) * 257
    yield gray, Image.fromarray(deep), "PNG"
    yield gray, Image.fromarray(deep), "TIFF"
    yield gray, Image.fromarray(GRAY.astype(np.int32)), "TIFF"
    yield gray, Image.fromarray(GRAY.astype(np.float32)), "TIFF"
    yield gray, Image.fromarray((GRAY / 255).astype(np.float32)), "TIFF"
    yield gray, gray.convert("LA"), "PNG"
    yield colours, colours.convert("RGBA"), "PNG"
    yield colours, colours.quantize(64), "PNG"
    yield colours, colours.quantize(64), "GIF"
    yield gray.point(lambda v: 255 * (v > 99)), gray.point(lambda v: 255 * (v > 99)).convert("1"), "PNG"


@pytest.mark.parametrize("plain, stored, form", list(as_modes()))
def test_the_same_picture_gives_the_same_pixels_in_every_mode(plain, stored, form):
    buffer = io.BytesIO()
    stored.save(buffer, form)
    with open_rgb(buffer.getvalue()) as image:
        assert np.abs(np.asarray(image).astype(int) - np.asarray(plain.convert("RGB"))).max() <= 1


def test_transparent_pixels_are_white_and_cmyk_keeps_its_colours():
    see_through = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    for image, options in ((see_through, {}), (palette, {"transparency": 1}), (see_through.convert("LA"), {})):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        with open_rgb(buffer.getvalue()) as found:
            assert np.asarray(found).min() == 255
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(buffer, "JPEG", quality=100)
    with open_rgb(buffer.getvalue()) as found:
        assert np.abs(np.asarray(found).mean((0, 1)) - [0, 255, 255]).max() < 5


@pytest.mark.parametrize("values", [[-5.0, 3.0], [0.0, 70_000.0], [np.nan, 1.0]])
def test_numbers_whose_white_is_unknown_are_refused(values):
    buffer = io.BytesIO()
    Image.fromarray(np.array([values], dtype=np.float32)).save(buffer, "TIFF")
    with pytest.raises(UnreadableImage, match="is unknown"), open_rgb(buffer.getvalue()):
        pass


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_the_upright_one(form, orientation):
    from PIL import ImageOps

    picture, exif = Image.fromarray(np.kron(COLOURS[:4, :6], np.ones((8, 8, 1), np.uint8))), Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, form, exif=exif, **({"quality": 100} if form == "JPEG" else {}))
    with open_rgb(buffer.getvalue()) as found, Image.open(io.BytesIO(buffer.getvalue())) as stored:
        assert np.array_equal(np.asarray(found), np.asarray(ImageOps.exif_transpose(stored).convert("RGB")))


# ---- lists ----

ENCODINGS = {"UTF-8": ("", "utf-8"), "BOM": ("", "utf-8-sig"), "UTF-16": ("", "utf-16"), "UTF-16 LE": ("", "utf-16-le"),
             "UTF-16 BE": ("", "utf-16-be"), "UTF-32": ("", "utf-32")}
WRITTEN = {
    "spaces": lambda image, label: f"{image} {label}\n", "tabs": lambda image, label: f"{image}\t{label}\n",
    "Windows": lambda image, label: f"{image} {label}\r\n", "semicolons": lambda image, label: f"{image};{label}\n",
    "commas": lambda image, label: f"{image},{label}\n", "quotes": lambda image, label: f'"{image}" "{label}"\n',
    "blank lines": lambda image, label: f"\n{image}   {label}  \n\n",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("written", WRITTEN)
def test_lists_of_labels_are_read_however_they_were_saved(tmp_path, written, encoding):
    names = ["one.png", "two words.png", "three.png"]
    for name in names:
        picture(tmp_path / "val" / name)
    text = "".join(WRITTEN[written](name, wnid) for name, wnid in zip(names, WNIDS))
    (tmp_path / "val.txt").write_bytes(text.encode(ENCODINGS[encoding][1]))
    files, labels, classes = labelled_files(tmp_path / "val")
    found = {os.path.basename(file): classes[label] for file, label in zip(files, labels)}
    assert found == dict(zip(names, WNIDS))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("written", WRITTEN)
def test_openoods_lists_are_read_however_they_were_saved(tmp_path, written, encoding):
    text = "".join(WRITTEN[written](image, label) for image, label in (("a\\b\\c d.png", -1), ("a/b/e.png", 7)))
    (tmp_path / "list.txt").write_bytes(text.encode(ENCODINGS[encoding][1]))
    assert [(str(image), label) for image, label in read_list(tmp_path / "list.txt")] == [
        ("a/b/c d.png", -1), ("a/b/e.png", 7)]


@pytest.mark.parametrize("content", [b"a/b.png\n", b"a/b.png cat\n", b"\x89PNG\0\0\0\0", b"a/b.png 1 2 x\n"])
def test_lists_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match="list.txt"):
        read_list(tmp_path / "list.txt")


# ---- scores ----

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_finite_logits_are_finite(dtype):
    from losses.calibration import SCORES

    logits = torch.tensor([[60_000.0, -60_000, 10], [0, 0, 0], [-60_000, -60_000, -60_000], [1e-7, 0, -1e-7]]).to(dtype)
    for name, function in SCORES.items():
        values = function(logits)
        assert values.isfinite().all() and values.dtype in (torch.float32, torch.float64, dtype), name
        assert torch.allclose(values.double(), function(logits.double()), rtol=1e-2, atol=1e-2), name


# ---- sets of one image, other terminals ----

@pytest.fixture
def run_and_data(tmp_path, results_dir, data_dir):
    """Copies of a finished run and of the prepared digits."""
    run = tmp_path / "results/digits/lenet/softmax/seed1"
    shutil.copytree(results_dir / "digits/lenet/softmax/seed1", run)
    shutil.copytree(data_dir, tmp_path / "data")
    return run, tmp_path / "data"


def test_test_sets_of_one_image_are_evaluated(run_and_data):
    run, data = run_and_data
    for name in ("digits", "photo_patches"):
        images, labels = read_split(name, "test", data)
        record = write_arrays(data / name / "test.npz", images[:1], labels[:1])
        manifest = json.loads((data / name / "manifest.json").read_text())
        manifest["splits"]["test"] |= {"images": 1, "files": {"test.npz": record}, "sha256": record["sha256"]}
        (data / name / "manifest.json").write_text(json.dumps(manifest))
    done = script("evaluate.py", run, "--data-dir", data, "--device", "cpu")
    assert "Traceback" not in done.stderr and "metrics" in done.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_terminals_that_are_not_utf_8(results_dir, encoding):
    code = (f"import io, sys\nfor name in ('stdout', 'stderr'):\n    stream = getattr(sys, name)\n"
            f"    setattr(sys, name, io.TextIOWrapper(stream.buffer, encoding='{encoding}', errors='strict'))\n")
    from .injected import script as injected

    for words in (["analyze.py", "--results-dir", results_dir], ["train.py", "--help"], ["evaluate.py", "--help"]):
        done = injected(code, *words)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_answers_for_a_file_whose_name_is_not_utf_8(tmp_path, results_dir):
    path = os.fsencode(picture(tmp_path / "a.png").parent) + b"/caf\xe9.png"
    os.rename(tmp_path / "a.png", path)
    done = script("detect.py", results_dir / "digits/lenet/softmax/seed1", os.fsdecode(path), "--device", "cpu")
    assert [row["file"] for row in csv.DictReader(io.StringIO(done.stdout))] == [f"{tmp_path}/caf\\udce9.png"]


# ---- make ----

@pytest.mark.parametrize("typed", ["my data", "a:b", "a;b", "a$b", "a'b", "a(b", "a*"])
@pytest.mark.parametrize("variable", ["DATA", "RESULTS"])
def test_make_says_which_folders_it_cannot_handle(variable, typed):
    done = subprocess.run(["make", "-n", "help", f"{variable}={typed}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "must not contain spaces" in done.stderr


def test_make_goes_on_after_a_run_that_fails_and_names_it_at_the_end(run_and_data, tmp_path):
    run, data = run_and_data
    for name in ("metrics.csv", "calibration.json"):
        (run / name).unlink()
    broken = tmp_path / "results/digits/lenet/isomax/seed1"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text('{"cut')
    done = subprocess.run(
        ["make", "--no-print-directory", "-j2", "runs", f"PY={forked.python()}", f"PYTHON={sys.executable}", "SEEDS=1",
         "DATASET=digits", "MODELS=lenet", "METHODS=isomax softmax", "DEVICE=cpu", f"DATA={data}",
         f"RESULTS={tmp_path / 'results'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.split("Not finished")[1].splitlines()[1].strip() == str(broken), "named at the end"
    assert (run / "metrics.csv").exists(), "the other is evaluated"
