"""Small claims about files, folders and lists of labels: which are images, and which class each shows."""
import errno
import os

import numpy as np
import pytest
from scipy.io import savemat

from data import image_files
from data.image_files import ImageTree, class_level, class_names, find_images, labelled_files, report_skipped
from data.label_lists import annotated_labels, devkit_names, labels_beside, labels_of_annotations
from utils.io import UserError


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


# ---- which files are images ----

def test_images_are_found_in_the_order_of_their_parts_and_the_rest_has_its_reason(tmp_path):
    root = make(tmp_path / "root", "b/1.JPG", "a b/2.webp", "a/3.Tif", "a/x/4.png", "a/note.txt", "0.bmp", "a/.hid.png",
                "a/._5.png", ".hidden/6.png", "@eaDir/7.png", "a/png")
    (root / "a/gone.png").symlink_to(root / "nowhere.png")
    (root / "a/to.png").symlink_to(root / "0.bmp")
    (root / "self").symlink_to(root)
    for name in ("loop", "loop.png"):
        (root / "a" / name).symlink_to(root / "a" / name)
    os.mkfifo(root / "a/pipe.png")
    paths, skipped = find_images(root)
    assert paths == ["0.bmp", "a/3.Tif", "a/to.png", "a/x/4.png", "a b/2.webp", "b/1.JPG"]
    assert sorted(skipped) == [("a/._5.png", "an AppleDouble file of macOS"), ("a/.hid.png", "hidden"),
                               ("a/gone.png", "a link to nowhere"), ("a/loop.png", "a link to nowhere"),
                               ("a/pipe.png", "not a regular file"),
                               ("self", "a circular link")]
    with pytest.raises(UserError, match="could not read .*missing"):
        find_images(tmp_path / "missing")


def test_a_folder_that_cannot_be_read_is_named_but_not_the_root(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir
    for number, passed_over in ((errno.EACCES, True), (errno.ENOENT, True), (errno.ELOOP, True), (errno.EIO, False)):
        def fail(path, number=number):
            if str(path).rstrip("/") == f"{tmp_path}/a":
                raise OSError(number, "no entry")
            return scandir(path)

        monkeypatch.setattr("os.scandir", fail)
        if passed_over:
            assert find_images(tmp_path) == (["b/2.png"], [("a", "no entry")])
        else:
            with pytest.raises(UserError, match=f"could not read {tmp_path}/a: no entry"):
                find_images(tmp_path)
        with pytest.raises(UserError, match=f"could not read {tmp_path}/a"):
            find_images(tmp_path / "a")


def test_a_file_that_the_system_cannot_look_at_is_no_damage(tmp_path):
    class Entry:
        name, path = "a.png", "/x/a.png"

        def __init__(self, error, link=False):
            self.error, self.link = error, link

        def is_file(self, follow_symlinks=True):
            return False

        def stat(self):
            raise self.error

        def is_symlink(self):
            return self.link

    assert image_files._unfit(Entry(OSError(errno.EIO, "bad disk"))) == "bad disk"
    assert image_files._unfit(Entry(OSError(errno.ENOENT, "gone"), True)) == "a link to nowhere"
    with pytest.raises(UserError, match="could not read /x/a.png: too many"):
        image_files._unfit(Entry(OSError(errno.EMFILE, "too many")))


@pytest.mark.parametrize("path, reason", [
    ("a/b.png", ""), ("a/.b.png", "hidden"), (".a/b.png", "hidden"), ("__MACOSX/a/b.png", "hidden"),
    ("a/._b.png", "an AppleDouble file of macOS"), ("a/\udce9.png", "its name is not UTF-8"), ("a._b.png", ""),
    ("lost+found/b.png", "hidden")])
def test_names_that_are_left_out(path, reason):
    assert image_files.unfit_name(path) == reason


def test_five_of_the_skipped_files_are_named():
    skipped = [(f"{k}.png", "hidden") for k in range(7)]
    lines = [f"left out /in/{k}.png: hidden" for k in range(5)]
    assert report_skipped(skipped[:5], "/in") == lines and report_skipped([], "/in") == []
    assert report_skipped(skipped, "/in") == [*lines, "left out 2 more files below /in"]
    assert report_skipped(skipped[:2], "/in", most=1) == [lines[0], "left out 1 more files below /in"]
    assert report_skipped([("\udce9.png", "so")], "/in") == [r"left out /in/\udce9.png: so"]


def test_what_is_left_out_of_a_folder_is_said_once(tmp_path, capsys):
    make(tmp_path, "a/1.png", "b/1.png", "b/.2.png")
    for _ in range(2):
        labelled_files(tmp_path)
    assert capsys.readouterr().err == f"left out {tmp_path}/b/.2.png: hidden\n"


# ---- which class each shows ----

@pytest.mark.parametrize("paths, known, expected, level", [
    ([], (), 0, None), (["1.png"], (), 0, None), (["a/1.png", "b/1.png"], (), 0, 0),
    (["set/a/1.png", "set/b/1.png"], (), 0, 1), (["set/a/1.png", "set/b/1.png"], ("set",), 0, 0),
    (["x/set/a/1.png", "x/set/b/1.png"], (), 0, 2), (["a/1.png"], (), 0, 0), (["x/a/1.png"], (), 0, 1),
    (["a/1.png", "a/more/2.png"], (), 0, 0), (["a/1.png", "a/more/2.png", "b/3.png"], (), 0, 0),
    (["a/images/1.png", "b/images/1.png"], (), 0, 0), (["p/cat/1.png", "q/cat/1.png"], ("cat", "dog"), 0, 1),
    (["p/cat/1.png", "q/dog/1.png"], ("cat", "dog"), 0, 1), (["p/x/1.png", "q/y/1.png", "q/z/1.png"], (), 3, 1),
    (["p/x/1.png", "q/y/1.png", "q/z/1.png"], (), 2, 0), (["p/n01440764/1.png", "q/n01443537/1.png"], (), 0, 1),
    (["n01440764/p/1.png", "n01443537/q/1.png"], (), 0, 0), (["set/1.png", "set/a/1.png", "set/b/1.png"], (), 1, 1)])
def test_how_many_folders_stand_above_the_classes(paths, known, expected, level):
    assert class_level(paths, "root", known, expected) == level


@pytest.mark.parametrize("paths, known, said", [
    (["train/a/1.png", "test/b/1.png"], (), "^root holds test and train: name one of these folders$"),
    (["val/1.png", "train/1.png"], (), "^root holds train and val: name one of these folders$"),
    (["p/x/1.png", "q/y/1.png"], (), r"^the images below root lie two folders deep \(p/x and others\)."),
    (["p/cat/1.png", "q/cow/1.png"], ("cat", "dog"), r"\(p/cat and others\)"),
    (["p/n01440764/1.png", "q/dog/1.png"], (), r"\(p/dog and others\)")])
def test_folders_that_may_be_two_things_are_refused(paths, known, said):
    with pytest.raises(UserError, match=said):
        class_level(paths, "root", known)
    assert class_level(["train/1.png", "val/1.png"], "root", ("train", "val")) == 0, "classes that are called so"
    assert class_level(["train/1.png", "dog/1.png"]) == 0


def test_images_beside_and_below_class_folders():
    tree = ImageTree.of("root", ["set/a/1.png", "set/b/x/1.png", "set/stray.png", "top.png"], [("x", "hidden")])
    assert tree.names == ["a/1.png", "b/x/1.png"] and tree.classes == ["a", "b"] and len(tree) == 2
    assert tree.paths == ["set/a/1.png", "set/b/x/1.png"] and tree.labelled
    assert tree.skipped == [("x", "hidden"), *((path, "it lies beside the class folders") for path in (
        "set/stray.png", "top.png"))]
    plain = ImageTree.of("root", ["b/1.png", "a b/1.png", "a/2.png", "a/1.png"])
    assert plain.names == plain.paths == ["a/1.png", "a/2.png", "a b/1.png", "b/1.png"]
    assert plain.classes == ["a", "a", "a b", "b"] and plain.labelled and plain.skipped == []
    flat = ImageTree.of("root", ["2.png", "1.png"])
    assert (flat.names, flat.classes, flat.paths) == (["images/1.png", "images/2.png"], ["images"] * 2, [
        "1.png", "2.png"]) and not flat.labelled
    empty = ImageTree.of("root", [])
    assert len(empty) == 0 and empty.names == empty.classes == empty.paths == [] and not empty.labelled
    twice = ImageTree.of("root", ["p/cat/1.png", "q/cat/1.png", "q/dog/1.png"], known=("cat", "dog"))
    assert twice.names == ["cat/p/cat/1.png", "cat/q/cat/1.png", "dog/q/dog/1.png"], "a class in two folders"


def test_labels_count_for_one_folder_of_images_only():
    labels = lambda paths: {path: "dog" if "1" in path else "cat" for path in paths}
    for paths in (["1.png", "2.png"], ["images/1.png", "images/2.png"]):
        tree = ImageTree.of("root", paths, labels=labels)
        assert tree.names == ["cat/2.png", "dog/1.png"] and tree.labelled and tree.classes == ["cat", "dog"]
    assert ImageTree.of("root", ["a/1.png", "b/2.png"], labels=labels).classes == ["a", "b"]
    for name, known in (("n01440764", ()), ("fish", ("fish", "bird"))):
        assert ImageTree.of("root", [f"{name}/1.png"], known=known, labels=labels).classes == [name]
    assert ImageTree.of("root", ["fish/1.png"], known=("bird",), labels=labels).classes == ["dog"]
    assert ImageTree.of("root", ["images/1.png", "stray.png"], labels=labels).names == ["cat/stray.png", "dog/1.png"]


def test_classes_have_the_numbers_that_are_given_or_their_order(tmp_path):
    root = make(tmp_path / "set", "dog/1.png", "cat/2.png", "cat/1.png", "cow/1.png")
    files = [str(root / name) for name in ("cat/1.png", "cat/2.png", "cow/1.png", "dog/1.png")]
    assert labelled_files(root) == (files, [0, 0, 1, 2], ["cat", "cow", "dog"])
    assert labelled_files(root, ["dog", "x", "cow", "cat"]) == (files, [3, 3, 2, 0], ["dog", "x", "cow", "cat"])
    keeps = lambda name: name != "cow"
    assert labelled_files(root, keeps=keeps) == (files[:2] + files[3:], [0, 0, 1], ["cat", "dog"])
    assert labelled_files(root, ["cow", "dog", "cat"], keeps=keeps)[1:] == ([1, 1, 0], ["dog", "cat"])
    with pytest.raises(UserError, match="set has 2 classes that the training folder does not have, for instance cow"):
        labelled_files(root, ["cat"])
    flat = make(tmp_path / "flat", "1.png", "2.png")
    assert labelled_files(flat, needed=False)[1:] == ([0, 0], ["images"])
    with pytest.raises(UserError, match="flat holds 2 images without class folders: .*LOC_val_solution.csv or val.txt"):
        labelled_files(flat)
    (tmp_path / "val.txt").write_text("1.png b\n2.png a\n")
    assert labelled_files(flat)[1:] == ([1, 0], ["a", "b"])
    assert labelled_files(flat, needed=False)[1:] == ([0, 0], ["images"]), "no list counts then"
    deep = make(tmp_path / "deep", "p/x/1.png", "q/y/1.png", "q/z/1.png")
    assert labelled_files(deep, expected=3)[2] == ["x", "y", "z"]


def test_the_classes_of_a_folder_are_those_with_images(tmp_path, monkeypatch):
    assert class_names(tmp_path / "nowhere") == []
    root = make(tmp_path / "set", "b/1.png", "a/1.png", ".c/1.png", "top.txt")
    assert class_names(root) == ["a", "b"]
    make(root, "empty/note.txt", "odd/._1.png", "deep/x/1.png")
    assert class_names(root) == ["a", "b", "deep"]
    assert class_names(make(tmp_path / "one", "set/a/1.png", "set/b/1.png")) == ["a", "b"]
    assert class_names(make(tmp_path / "single", "a/1.png")) == ["a"]
    plain = make(tmp_path / "plain", "b/1.png", "a/1.png", ".c/1.png")
    monkeypatch.setattr(image_files, "find_images", lambda root: pytest.fail("a million images are not listed"))
    assert class_names(plain) == ["a", "b"]


# ---- lists of labels ----

IMAGES = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000003.JPEG"]


def test_lists_in_the_folder_come_before_those_beside_it(tmp_path):
    root = make(tmp_path / "val", *(f"images/{k}.png" for k in (1, 2)))
    paths = ["images/1.png", "images/2.png"]
    assert labels_beside(root, paths) is None and labels_beside(root, []) is None
    for place in (tmp_path, root, root / "images"):
        (place / "labels.txt").write_text(f"1.png {place.name}\n2.png x\n")
        assert labels_beside(root, paths)["images/1.png"] == place.name
    (tmp_path / "val/images/val.txt").write_text("1.png first\n2.png x\n")
    assert labels_beside(root, paths)["images/1.png"] == "first", "val.txt comes before labels.txt"


def test_annotations_in_the_folder_count(tmp_path):
    make(tmp_path, "images/1.png")
    assert annotated_labels(tmp_path, ["images/1.png"]) is None and annotated_labels(tmp_path, []) is None
    (tmp_path / "images/val_annotations.txt").write_text("1.png\tinner\t0\n")
    assert annotated_labels(tmp_path, ["images/1.png"]) == {"images/1.png": "inner"}
    (tmp_path / "val_annotations.txt").write_text("1.png\touter\t0\n")
    assert annotated_labels(tmp_path, ["images/1.png"]) == {"images/1.png": "outer"}
    with pytest.raises(UserError, match="x/list.txt has no label for 1 of the 2 images in x, for instance 2.png"):
        labels_of_annotations("1.png a", "x/list.txt", ["1.png", "2.png"])


@pytest.mark.parametrize("line", [
    "1 b.png cat", "1 b.png\tcat\t3", '"1 b.png",cat', "1 b.png; cat ;9", "x\\y\\1 b.png cat", "val/1 b.png cat",
    "1 b cat", '"1 b.png" "cat"'])
def test_columns_may_be_separated_in_several_ways(line):
    assert labels_of_annotations(f"\n0.png dog\n{line}\nlonely.png\n", "list", ["1 b.png"]) == {"1 b.png": "cat"}


def test_a_name_without_its_ending_counts_where_only_one_image_has_it():
    assert labels_of_annotations("1 a\n2.png b", "list", ["1.png", "2.png"]) == {"1.png": "a", "2.png": "b"}
    with pytest.raises(UserError, match="no label for 2 of the 2"):
        labels_of_annotations("1 a", "list", ["1.png", "1.jpg"])


@pytest.mark.parametrize("text, classes, labels", [
    ("1.png 1\n2.png 0", ["a", "b"], ["b", "a"]), ("1.png 1\n2.png 1\n9.png 0", ["a", "b"], ["b", "b"]),
    ("1.png 1\n2.png x", ["a", "b"], ["1", "x"]), ("1.png 7\n2.png 5", ["5", "7"], ["7", "5"]),
    ("1.png 1\n2.png 2", ["a", "b", "c"], "has no class 0, so it is unknown whether its numbers begin at 0 or at 1"),
    ("1.png 2\n2.png 0", ["a", "b"], "numbers a class 2, and there are 2 classes, from 0"),
    ("1.png 1\n2.png 0", [], "numbers its classes, but there is no training folder that names them")])
def test_numbers_become_names_where_they_are_no_names(tmp_path, text, classes, labels):
    (tmp_path / "val.txt").write_text(text)
    if isinstance(labels, str):
        with pytest.raises(UserError, match=f"val.txt {labels}"):
            labels_beside(tmp_path, ["1.png", "2.png"], classes)
    else:
        assert labels_beside(tmp_path, ["1.png", "2.png"], classes) == dict(zip(("1.png", "2.png"), labels))


def test_a_class_a_line_is_that_of_the_images_number(tmp_path):
    (tmp_path / "synset_labels.txt").write_text("a\nb\nc\n")
    assert labels_beside(tmp_path, IMAGES) == dict(zip(IMAGES, "ac"))
    assert labels_beside(tmp_path, ["2.png", "1.png", "10.png"][:2] + ["3.png"]) == {
        "1.png": "a", "2.png": "b", "3.png": "c"}
    for images, said in (([IMAGES[0], "x.JPEG"], "tells classes by the numbers of images, and x.JPEG has none"),
                         ([IMAGES[0].replace("1.", "4.")], "has 3 lines, and there is an image number 4"),
                         ([IMAGES[0].replace("1.", "0.")], "has 3 lines, and there is an image number 0"),
                         (["a.png", "b.png"], "has 3 lines, and there are 2 images whose names do not tell"),
                         (["9.png", "10.png", "8.png"], "the order of the images cannot be known: 8.png comes second")):
        with pytest.raises(UserError, match=said):
            labels_beside(tmp_path, images)


def test_kaggles_file_has_its_two_columns_in_any_order_and_with_any_separator(tmp_path):
    path = tmp_path / "LOC_val_solution.csv"
    for separator in ",;\t":
        path.write_text(separator.join(["PredictionString", "Other, x" if separator != "," else "Other", "ImageId"])
                        + "\n" + "".join(f"{word} 1 2{separator}0{separator} {image}\n" for image, word in (
                            ("1", "cat"), ("2", "dog"), ("3", "cow"))) + f"{separator}0{separator}1\n")
        assert labels_beside(tmp_path, ["1.png", "2.png"]) == {"1.png": "cat", "2.png": "dog"}
    path.write_text("ImageId,Label\n1,cat\n")
    with pytest.raises(UserError, match="has no columns ImageId and PredictionString: put Kaggle's own file there"):
        labels_beside(tmp_path, ["1.png"])


def test_the_development_kit_is_found_two_folders_deep(tmp_path):
    meta = np.array([(1, "n02"), (2, "n01")], dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O")])
    root = make(tmp_path / "val", *IMAGES)
    for place in ("kit/data", "kit", "."):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        savemat(folder / "meta.mat", {"synsets": meta})
        (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n1\n")
        assert labels_beside(root, IMAGES) == dict(zip(IMAGES, ("n01", "n02")))
        (folder / "ILSVRC2012_validation_ground_truth.txt").unlink()
    (tmp_path / "truth.txt").write_text("3\n")
    with pytest.raises(UserError, match=r"truth.txt and its meta.mat cannot be used .KeyError.3..: unpack the"):
        devkit_names(tmp_path / "truth.txt")
