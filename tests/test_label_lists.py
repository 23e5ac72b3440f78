"""What a list of labels cannot tell is refused: two classes for an image, numbers of unknown meaning, unknown order."""
import os

import pytest
from PIL import Image

from data.image_files import labelled_files
from utils.io import UserError

WNIDS = ["n01440764", "n01443537", "n01484850"]


def found(folder, content, name="val.txt", images=("a.png", "b.png", "c.png"), classes=None):
    """{image: class name} by a list beside a folder of images."""
    (folder / "val").mkdir()
    for image in images:
        Image.new("RGB", (4, 4)).save(folder / "val" / image, "PNG")
    (folder / name).write_text(content)
    files, labels, classes = labelled_files(folder / "val", classes)
    return {os.path.basename(file): classes[label] for file, label in zip(files, labels)}


KAGGLE = "ImageId,PredictionString\na,n01440764 1 2 3 4\nb,n01443537 1\nc,n01484850 1\n"


@pytest.mark.parametrize("name, content", [
    ("val.txt", "a.png n01440764\nb.png n01443537\nc.png n01484850\na.png n01484850\n"),
    ("val.txt", "a n01440764\nb.png n01443537\nc.png n01484850\nval/a.png n01484850\n"),
    ("LOC_val_solution.csv", KAGGLE + "a,n01484850 1\n")])
def test_two_classes_for_one_image_are_refused(tmp_path, name, content):
    with pytest.raises(UserError, match="gives a.png two classes, n01440764 and n01484850"):
        found(tmp_path, content, name)


def test_the_same_line_twice_is_read(tmp_path):
    assert found(tmp_path, KAGGLE + "a,n01440764 9\n", "LOC_val_solution.csv") == dict(zip(
        ("a.png", "b.png", "c.png"), WNIDS))


def test_numbers_count_from_0_and_are_refused_where_they_may_count_from_1(tmp_path):
    lines = "a.png {}\nb.png {}\nc.png {}\n"
    (tmp_path / "zero").mkdir()
    labels = found(tmp_path / "zero", lines.format(0, 2, 2), classes=WNIDS)
    assert list(labels.values()) == [WNIDS[k] for k in (0, 2, 2)]
    (tmp_path / "elsewhere").mkdir()  # class 0 is that of an image that is not there
    assert found(tmp_path / "elsewhere", "z.png 0\n" + lines.format(1, 2, 2), classes=WNIDS)["a.png"] == WNIDS[1]
    with pytest.raises(UserError, match="has no class 0"):
        found(tmp_path, lines.format(1, 2, 2), classes=WNIDS)


def test_classes_that_are_called_by_numbers_are_meant_by_name(tmp_path):
    classes = sorted(str(k) for k in range(12))  # 0, 1, 10, 11, 2 …
    labels = found(tmp_path, "a.png 2\nb.png 10\nc.png 0\n", classes=classes)
    assert labels == {"a.png": "2", "b.png": "10", "c.png": "0"}


@pytest.mark.parametrize("label", ["²", "٢", "9" * 5_000, "-1", "1.0"])
def test_what_only_looks_like_a_number_is_no_class(tmp_path, label):
    with pytest.raises(UserError, match="classes that the training folder does not have"):
        found(tmp_path, f"a.png {label}\nb.png 0\nc.png 1\n", classes=WNIDS)


@pytest.mark.parametrize("images, message", [
    (("1.png", "2.png", "10.png"), "the order of the images cannot be known: 10.png comes second"),
    (("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002 copy.JPEG", "x.JPEG"), "2 copy.JPEG has none"),
    (("ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00000003.JPEG"), "do not belong together")])
def test_a_class_a_line_needs_the_numbers_of_the_images(tmp_path, images, message):
    with pytest.raises(UserError, match=message):
        found(tmp_path, "\n".join(WNIDS), "synset_labels.txt", images)


def test_numbers_with_leading_zeros_are_an_order(tmp_path):
    images = ("01.png", "02.png", "10.png")
    assert list(found(tmp_path, "\n".join(WNIDS), "synset_labels.txt", images).values()) == WNIDS


def test_a_field_that_no_csv_reader_takes_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="LOC_val_solution.csv is damaged"):
        found(tmp_path, KAGGLE + "d," + " 1" * 100_000, "LOC_val_solution.csv")


# ---- folders ----

def picture(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.new("RGB", (20, 20), (9, 200, 9)).save(file, "PNG")


@pytest.fixture
def odd_tree(tmp_path):
    """Two classes of three images, a class whose folder's name is Latin-1, and a thousand folders in one another."""
    from data.image_files import MOST_LEVELS

    for name in ("cats", "dogs", "caf\udce9"):
        for k in range(3):
            picture(f"{tmp_path}/photos/{name}/{k}.png")
    picture(f"{tmp_path}/photos/cats/" + "d/" * (MOST_LEVELS + 5) + "deep.png")
    return tmp_path / "photos"


def test_folders_whose_names_are_not_utf_8_and_endless_ones_are_named_and_left_out(odd_tree):
    from data.image_files import class_names, find_images

    paths, skipped = find_images(odd_tree)
    assert len(paths) == 6 and class_names(odd_tree) == ["cats", "dogs"]
    assert [why for _, why in skipped] == ["its name is not UTF-8", "it lies more than 100 folders deep"]


@pytest.mark.parametrize("size", [28, 72])
def test_prepare_evaluate_and_detect_leave_them_out(tmp_path, odd_tree, results_dir, data_dir, size):
    import shutil

    from conftest import script

    done = script("data/prepare.py", "--folder", f"odd={odd_tree}", "--size", size, "--data-dir", tmp_path / "data")
    assert "left out" in done.stdout and "not UTF-8" in done.stdout and "odd            2 classes" in done.stdout
    assert "as it was prepared" in script("data/prepare.py", "--verify", "odd", "--data-dir", tmp_path / "data").stdout
    if size == 28:
        run = tmp_path / "digits/lenet/softmax/seed1"
        shutil.copytree(results_dir / "digits/lenet/softmax/seed1", run)
        done = script("evaluate.py", run, "--ood", f"odd={odd_tree}", "--data-dir", data_dir, "--device", "cpu")
        assert "not UTF-8" in done.stderr and "Traceback" not in done.stderr
        done = script("detect.py", run, odd_tree, "--device", "cpu", check=False)
        assert done.stdout.count("\n") == 7 and "Traceback" not in done.stderr


@pytest.mark.parametrize("lines", [
    "a.png golden retriever\nb.png golden eagle\nc.png cat\n", "a.png,4,x\nb.png,4,y\nc.png,4,z\n",
    "a.png 4 1 62\nb.png 0 1 62\nc.png 4 1 62\n",
    "a.png,cat, black\nb.png,cat, white\nc.png,dog\n"])
def test_several_words_of_which_any_may_be_the_class_are_refused(tmp_path, lines):
    with pytest.raises(UserError, match="several words or numbers after a.png"):
        found(tmp_path, lines)


def test_quotes_hold_a_name_together_and_words_after_a_wnid_or_numbers_are_passed_over(tmp_path):
    lines = '"a.png","golden, eagle"\nb.png n01440764 tench, Tinca tinca\nc.png\tcat\t0\t-.5\t6.2e-05\n'
    assert found(tmp_path, lines) == {"a.png": "golden, eagle", "b.png": "n01440764", "c.png": "cat"}


@pytest.mark.parametrize("lines", [
    'a.png "golden eagle"\nb.png  "cat"\nc.png cat\n', "a.png,golden eagle,\nb.png,cat,,\nc.png,cat, \n",
    "a.png\tgolden eagle\nb.png\tcat\nc.png\tcat\n" + "x" * 200_000])
def test_quotes_between_spaces_empty_columns_and_endless_lines(tmp_path, lines):
    assert found(tmp_path, lines) == {"a.png": "golden eagle", "b.png": "cat", "c.png": "cat"}


def test_quotes_and_separators_after_a_class_0_do_not_hide_it(tmp_path):
    assert found(tmp_path, 'z.png,"0";\na.png,1\nb.png,2\nc.png,1\n', classes=WNIDS)["b.png"] == WNIDS[2]


def test_an_empty_class_is_none(tmp_path):
    with pytest.raises(UserError, match="has no label for 1 of the 3 images"):
        found(tmp_path, "a.png,,4\nb.png,cat\nc.png,cat\n")


def test_two_names_of_one_number_are_refused(tmp_path):
    with pytest.raises(UserError, match="called by other numbers"):
        found(tmp_path, "a.png 001\nb.png 2\nc.png 2\n", classes=["01", "1", "2"])


def test_a_class_a_line_may_have_words(tmp_path):
    content = 'golden retriever\n"n01443537" goldfish\ncat\n\n'
    assert list(found(tmp_path, content, "synset_labels.txt").values()) == ["golden retriever", "n01443537", "cat"]


def test_an_empty_line_between_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="an empty line between its classes"):
        found(tmp_path, "cat\n\ndog\n", "synset_labels.txt")


def test_a_number_is_never_the_place_of_a_class_that_is_called_by_another_number(tmp_path):
    classes = sorted(str(k) for k in range(1, 13))  # 1, 10, 11, 12, 2 …
    with pytest.raises(UserError, match="has a class 0, and the classes of the training folder are called by other"):
        found(tmp_path, "a.png 0\nb.png 1\nc.png 2\n", classes=classes)


def test_a_number_means_the_class_that_is_called_by_it_with_zeros_before_it(tmp_path):
    assert found(tmp_path, "a.png 1\nb.png 2\nc.png 1\n", classes=["01", "02"])["b.png"] == "02"


def test_the_last_number_of_a_box_is_no_class_0(tmp_path):
    with pytest.raises(UserError, match="has no class 0"):
        found(tmp_path, "z.png 1 5 0 0\na.png 1\nb.png 2\nc.png 1\n", classes=WNIDS)


@pytest.mark.parametrize("name", ["..", "animals/cat", "../../x", ".hidden"])
def test_what_cannot_be_a_folder_is_no_class(tmp_path, name):
    with pytest.raises(UserError, match="cannot be the name of a class folder"):
        found(tmp_path, f"a.png\t{name}\nb.png\tx\nc.png\tx\n")
