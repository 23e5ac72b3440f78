"""Whatever a picture file is: it is decoded, or named with a reason, and all others are still read."""
import csv
import io
import os

import pytest
from conftest import script
from PIL import Image

from data.image_files import find_images, printable_path

from . import mutated_pictures


def test_mutated_pictures_are_decoded_or_named():
    counts, broken = mutated_pictures.run(count=250, seed=1)
    assert not broken
    assert counts["pictures decoded"] > 50 and counts["pictures named"] > 50, "the corpus holds both"


@pytest.fixture
def scans(tmp_path):
    """A folder of two good pictures among everything else; the names of those that have no answer."""
    folder = tmp_path / "scans"
    folder.mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 20, 200)).save(buffer, "PNG")
    (folder / "a.png").write_bytes(buffer.getvalue())
    (folder / "z.png").write_bytes(buffer.getvalue())
    for name, content in mutated_pictures.strange().items():
        (folder / name).write_bytes(content)
    odd = mutated_pictures.odd_entries(folder)
    latin = mutated_pictures.not_utf8(folder, buffer.getvalue())
    return folder, odd, latin


LONG = ["high.png", "long.jpg", "long.png"]  # they are pictures, too
UNREADABLE = ["announced.png", "bomb.png", "empty.png", "html.jpg", "no_size.png", "pickle.jpg"]


def test_detect_names_what_it_cannot_read_and_answers_for_the_others(scans, results_dir):
    folder, odd, latin = scans
    done = script("detect.py", results_dir / "digits/lenet/softmax/seed1", folder, "--device", "cpu", check=False,
                  timeout=120)
    answered = [os.path.basename(row["file"]) for row in csv.DictReader(io.StringIO(done.stdout))]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert {"a.png", "z.png", *LONG} <= set(answered) <= {"a.png", "z.png", "text.png", *LONG}
    for name in [*UNREADABLE, *({"text.png"} - set(answered))]:
        assert f"{folder / name} cannot be read: " in done.stderr
    # given by name, everything that was left out of the folder is named, too
    names = [str(folder / name) for name in (*odd[:4], "folder.png", "missing.png", "a.png")] + [latin]
    named = script("detect.py", results_dir / "digits/lenet/softmax/seed1", *names, "--device", "cpu", check=False,
                   timeout=120)
    assert named.returncode == 1 and "Traceback" not in named.stderr


def test_every_file_that_is_left_out_of_a_folder_has_its_reason(scans):
    folder, odd, latin = scans
    found, skipped = find_images(folder)
    reasons = dict(skipped)
    assert {*odd, os.path.basename(latin), "up"} == set(reasons)
    assert reasons["fifo.png"] == reasons["zero.png"] == "not a regular file"
    assert reasons["circle.png"] == reasons["nowhere.png"] == "a link to nowhere"
    assert "UTF-8" in reasons[os.path.basename(latin)] and "circular" in reasons["up"]
    assert set(found) == {"a.png", "z.png", *mutated_pictures.strange()}
    assert printable_path(latin).isascii()


def test_prepare_and_the_loader_count_the_same(tmp_path, scans):
    """A folder of classes with everything odd in it becomes a set; 64 pixels: arrays; 72: files, which stay there."""
    folder, _, _ = scans
    for name in mutated_pictures.strange():
        if name != "empty.png":
            (folder / name).unlink()
    (folder / "empty.png").unlink()
    classes = tmp_path / "classes"
    classes.mkdir()
    for name in ("cats", "dogs"):
        (classes / name).mkdir()
        for k in range(4):
            Image.new("RGB", (80, 80), (k * 9, 9, 9)).save(classes / name / f"{k}.png")
        mutated_pictures.odd_entries(classes / name)
        mutated_pictures.not_utf8(classes / name, (classes / name / "0.png").read_bytes())
    (classes / ".ipynb_checkpoints").mkdir()
    (classes / "empty").mkdir()
    for size in (64, 72):
        done = script("data/prepare.py", "--folder", f"pets{size}={classes}", "--size", size, "--data-dir",
                      tmp_path / "data", timeout=120)
        assert "Traceback" not in done.stderr
        for split, count in (("train", 6), ("test", 2)):
            assert f"pets{size}         {split:6} {count:6} images" in done.stdout, done.stdout
            code = ("import sys; from data.splits import Split; s = Split.open(*sys.argv[1:]); "
                    "print(len(s), s.class_names)")
            opened = script("-c", code, f"pets{size}", split, tmp_path / "data")
            assert opened.stdout.strip() == f"{count} ['cats', 'dogs']"
