"""Small claims about the words of the commands that get data: what is refused, what help says, how many at once."""
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import tar_of

from data import openood, prepare
from data.sources import corruptions, images, sklearn_digits
from data.sources.acquire import prepare_splits
from data.sources.find import Found, SourceFinder
from data.sources.store import recorded


def leaves(monkeypatch, main, *words):
    """The exit status of a command."""
    monkeypatch.setattr("sys.argv", ["command", *map(str, words)])
    with pytest.raises(SystemExit) as leaving:
        main()
    return leaving.value.code


@pytest.mark.parametrize("module", [prepare, openood, corruptions])
def test_help_shows_what_the_file_says_of_itself(module, monkeypatch, capsys):
    assert leaves(monkeypatch, module.main, "--help") == 0
    assert module.__doc__.strip() in capsys.readouterr().out


@pytest.mark.parametrize("main, words, said", [
    (prepare.main, ("--jobs", 0), "--jobs: invalid choice: 0"), (prepare.main, ("--jobs", 17), "invalid choice: 17"),
    (prepare.main, ("--jobs", "x"), "--jobs: invalid int value"), (prepare.main, ("--size", "x"), "invalid int value"),
    (prepare.main, ("--test-fraction", "x"), "invalid float value"), (prepare.main, ("--for", "svhn"), "invalid ch"),
    (prepare.main, ("--benchmark", "x"), "--benchmark: invalid choice"), (openood.main, ("svhn",), "invalid choice"),
    (openood.main, (), "are required: dataset"), (corruptions.main, ("svhn",), "invalid choice: 'svhn'"),
    (corruptions.main, ("cifar10", "--severity", 6), "--severity: invalid choice: 6"),
    (corruptions.main, ("cifar10", "--severity", 0), "--severity: invalid choice: 0"),
    (corruptions.main, ("cifar10", "--corruptions", "rain"), "--corruptions: invalid choice: 'rain'"),
    (corruptions.main, ("cifar10", "--count", "x"), "--count: invalid int value")])
def test_words_that_no_command_takes(main, words, said, monkeypatch, capsys):
    assert leaves(monkeypatch, main, *words) == 2 and said in capsys.readouterr().err


def test_what_the_commands_take_and_what_they_take_by_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["prepare.py"])
    given = prepare.parse_arguments()
    assert (given.names, given.datasets, given.benchmark, given.mirror, given.folder) == ([], None, None, [], [])
    assert (given.dry_run, given.verify, given.fresh, given.jobs, given.size) == (False, False, False, 2, 32)
    assert given.test_fraction == 0.2 and given.data_dir.samefile(prepare.__file__.rsplit("/", 1)[0])
    for jobs in (1, 16):
        monkeypatch.setattr("sys.argv", ["prepare.py", "--jobs", str(jobs), "--for", "imagenet200", "--for", "digits"])
        given = prepare.parse_arguments()
        assert given.jobs == jobs and given.datasets == ["imagenet200", "digits"]


def test_as_many_sets_at_once_as_jobs_and_openoods_lists_for_its_sets(tmp_path, monkeypatch):
    jobs, lists = [], []
    monkeypatch.setattr(prepare, "ThreadPoolExecutor", lambda count: jobs.append(count) or ThreadPoolExecutor(count))
    monkeypatch.setattr(prepare, "prepare", lambda *_: True)
    monkeypatch.setattr(prepare, "copy_lists", lambda *words: lists.append(words))
    for words in (["cifar10", "--jobs", "5", "--mirror", str(tmp_path)], ["cifar10", "--benchmark", "dismax"],
                  ["svhn"], ["--for", "mnist", "--benchmark", "openood"]):
        monkeypatch.setattr("sys.argv", ["prepare.py", "--data-dir", str(tmp_path), *words])
        prepare.main()
    assert jobs == [5, 2, 2, 2] and lists == [([tmp_path], tmp_path), ([], tmp_path)]


def test_unpacking_shows_its_progress(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(corruptions, "tqdm", lambda items, **how: made.append(how) or items)
    (tmp_path / "x.tar").write_bytes(tar_of({"a/fog.npy": b"fog", "b/other.npy": b""}, "w"))
    done = corruptions._unpack(tmp_path / "x.tar", tmp_path / "out", {"fog.npy": "m", "snow.npy": "n"})
    assert done == {"fog.npy": {"bytes": 3, "md5": "m"}} and (tmp_path / "out/fog.npy").read_bytes() == b"fog"
    assert made == [{"total": 1, "desc": "x.tar", "disable": None}]
    limits = corruptions.ARCHIVE_LIMITS
    assert (limits.members, limits.member) == (100, 2**28)


def test_sets_without_a_download_are_made(tmp_path, monkeypatch):
    split = np.zeros((533, 28, 28, 1), np.uint8), np.arange(533) % 3
    calls = []
    monkeypatch.setitem(sklearn_digits.MAKERS, "digits_789", lambda: calls.append(1) or {"test": split})
    for fresh, count in ((False, 1), (False, 1), (True, 2)):
        lines = []
        finder = SourceFinder("digits_789", [], tmp_path / "downloads")
        assert prepare_splits(finder, tmp_path / "digits_789", fresh, lines) is True and len(calls) == count
        assert lines == [f"{'digits_789':14} test      533 images: made from scikit-learn's files"]
    record = recorded(tmp_path / "digits_789")["test"]
    assert record["verified"] is True and record["images"] == 533 == len(Found(split, "", True))
    assert record["sha256"] == hashlib.sha256(split[0].tobytes() + split[1].astype(np.int64).tobytes()).hexdigest()


def test_what_a_mirrors_folder_left_out_is_told(tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "m/places/a").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "m/places/a/1.png")
    (tmp_path / "m/places/a/._2.png").write_bytes(b"")
    finder, lines = SourceFinder("places365", [tmp_path / "m"], tmp_path / "downloads", False), []
    assert prepare_splits(finder, tmp_path / "data/places365", False, lines) is False
    assert lines == [f"left out {tmp_path}/m/places/a/._2.png: an AppleDouble file of macOS",
                     f"{'places365':14} test        1 of 36500 images, unverified: class folders {tmp_path}/m/places"]
    assert images.FolderSource(tmp_path / "m/places").skipped == [("a/._2.png", "an AppleDouble file of macOS")]
