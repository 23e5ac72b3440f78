"""Boundaries and words of the small modules below the scripts: files, locks, recipes, records, arguments."""
import argparse
import errno
import json
import math
import os
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from utils import io, lock, npz, script
from utils.io import UserError

# ---- io ----

@pytest.mark.parametrize("size, text", [
    (0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_499, "999 kB"), (1_000_000, "1 MB"), (1_234_567, "1 MB"),
    (999_999_999, "1000 MB"), (1_000_000_000, "1.0 GB"), (12_345_678_901, "12.3 GB")])
def test_sizes_are_told_in_the_largest_unit(size, text):
    assert io.human_bytes(size) == text


@pytest.mark.parametrize("content, text", [
    (b"\xef\xbb\xbfa\xc3\xa4", "aä"), ("aä".encode("utf-16"), "aä"), (b"\xfe\xff" + "aä".encode("utf-16-be"), "aä"),
    ("aä".encode("utf-32"), "aä"), (b"\0\0\xfe\xff" + "aä".encode("utf-32-be"), "aä"), ("aä".encode("utf-16-le"), "aä"),
    ("aä".encode("utf-16-be"), "aä"), (b"a\xe4", "aä"), ("aä".encode(), "aä"), (b"", "")])
def test_text_is_read_in_its_encoding(content, text):
    assert io.decode_text(content) == text


def test_zeros_after_the_first_512_bytes_are_no_utf_16(tmp_path):
    """Text whose every other byte is 0 is UTF-16; a file with a 0 elsewhere is no text."""
    assert io.decode_text(b"ab" * 256 + b"\0") == "ab" * 256 + "\0"
    for content in (b"ab" * 256 + b"\0", b"a\0b", b"\xff\xfea"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UserError, match=f"{tmp_path / 'x'} is not a text file. Save it again as UTF-8"):
            io.read_text(tmp_path / "x")


def test_errors_of_the_system_come_with_advice():
    def said(number, *words):
        found = io.system_error(OSError(number, "reason"), "place", *words)
        return found and str(found)
    assert said(errno.ENOSPC) == ("could not read place: reason. Make room, or choose another folder, and run the same "
                                  "command again")
    assert said(errno.EACCES, "use") == "could not use place: reason. Change its permissions, or choose another folder"
    assert said(errno.EINVAL) is None and "choose a folder on another" in said(errno.EINVAL, "write")
    assert io.system_error(ValueError("x"), "place") is None and said(None) is None
    assert io.system_error(OSError("damaged"), "place") is None


def test_a_lack_of_memory_is_told_in_the_last_line():
    def said(error):
        found = io.memory_error(error)
        return found and str(found)
    advice = ". Free some memory, or use fewer workers or jobs"
    assert said(MemoryError()) == "there is no memory left (MemoryError)" + advice
    assert said(RuntimeError("a\nb: not enough memory\n")) == "there is no memory left (b: not enough memory)" + advice
    assert said(RuntimeError("cannot allocate memory" + "x" * 300)).count("x") == 200 - len("cannot allocate memory")
    assert said(RuntimeError("other")) is None
    assert said(MemoryError("first\nlast")).startswith("there is no memory left (last)")


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    path, dead = tmp_path / "a.csv", 2**22 + 1  # no process has this number
    here = io._host()
    gone = [tmp_path / f"a.csv.{here}.{dead}.part", tmp_path / f"a.csv.{dead}.part"]
    kept = [tmp_path / name for name in (f"a.csv.elsewhere.{dead}.part", f"a.csv.{here}.{os.getpid()}.part",
                                         "b.csv.1.part",
                                         f"a.csv.{here}.text.part", f"ba.csv.{here}.{dead}.part",
                                         f"a.csv.{here}.1.part")]
    for part in gone + kept:
        part.write_text("")
    io._remove_leftovers(path)
    assert not any(part.exists() for part in gone) and all(part.exists() for part in kept)
    assert "." not in here and "/" not in here and here


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with io.atomic_write(path, "w") as file:
        file.write("ä\udcff")
    assert path.read_bytes() == "ä\\udcff".encode()
    with pytest.raises(ZeroDivisionError), io.atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == "ä\\udcff".encode() and [*path.parent.iterdir()] == [path]
    with pytest.raises(FileNotFoundError), io.atomic_write(path):
        (tmp_path / "other").read_text()
    with pytest.raises(UserError,
                       match=f"could not write {path}: reason. What was there before is untouched. Make room"), \
            io.atomic_write(path):
        raise OSError(errno.ENOSPC, "reason", str(path))
    with pytest.raises(UserError, match="Choose another folder, and run the same command again"), io.atomic_write(path):
        raise OSError(errno.EDOM, "reason")


@pytest.mark.parametrize("number, passed", [(errno.EINVAL, True), (errno.ENOSYS, True), (errno.ENOTSUP, True),
                                            (errno.EIO, False)])
def test_a_file_system_without_fsync_will_do(tmp_path, monkeypatch, number, passed):
    def fsync(handle):
        raise OSError(number, "reason")
    monkeypatch.setattr(io.os, "fsync", fsync)
    if passed:
        io.write_text(tmp_path / "a", "x")
    else:
        with pytest.raises(UserError, match="could not write"):
            io.write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").exists() == passed


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match=f"{path} is a device or a pipe"):
            io.read_file(path)
    io.refuse_endless(tmp_path)
    io.refuse_endless(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        io.read_text(tmp_path / "missing")
    with pytest.raises(UserError, match="Move away what is in its place"):
        io.read_text(tmp_path)


# ---- locks ----

def holder_file(folder, **entries):
    (folder / lock.LOCK_FILE).write_text(json.dumps(entries))
    return folder / lock.LOCK_FILE


def test_the_lock_of_a_process_that_has_ended_is_taken_over(tmp_path):
    own = lock._identity(os.getpid())
    assert own["host"] == socket.gethostname() and own["pid"] == os.getpid()
    assert lock._identity(2**22 + 1)["started"] is None and lock._identity("no number")["started"] is None
    for entries in ({**own, "started": "0"}, {**own, "pid": 2**22 + 1, "started": "5"}):
        path = holder_file(tmp_path, **entries)
        lock._take_over(path, tmp_path)
        assert not path.exists() and not [*tmp_path.iterdir()]
    lock._take_over(tmp_path / lock.LOCK_FILE, tmp_path)  # another process was faster


def test_a_lock_is_respected_and_its_holder_named(tmp_path):
    path = holder_file(tmp_path, **lock._identity(os.getpid()))
    with pytest.raises(lock.LockedError, match=f"^process {os.getpid()} on {socket.gethostname()} works in {tmp_path}: "
                                               "wait for it, or stop it and try again$"):
        lock._take_over(path, tmp_path)
    for content, who in (({"host": "elsewhere", "pid": 7}, "a process on elsewhere"), ({"pid": 7}, "a process"),
                         ({"host": socket.gethostname()}, f"a process on {socket.gethostname()}")):
        holder_file(tmp_path, **content)
        with pytest.raises(lock.LockedError, match=f"^{who} works in .*. If that process has ended, remove {path}$"):
            lock._take_over(path, tmp_path)
    path.write_text("[]")
    with pytest.raises(lock.LockedError, match="^a process works in"):
        lock._take_over(path, tmp_path)
    assert path.exists()


def test_only_ones_own_lock_is_released(tmp_path):
    own = lock._identity(os.getpid())
    path = tmp_path / lock.LOCK_FILE
    assert lock._create(path, own) and json.loads(path.read_text()) == own and not lock._create(path, {})
    lock._release_file(path, {**own, "pid": 1})
    assert path.exists() and lock._holder(path) == own
    lock._release_file(path, own)
    assert not path.exists() and lock._holder(path) is None
    path.write_text("{")
    assert lock._holder(path) is None


def test_a_folder_is_held_and_released(tmp_path):
    with lock.locked(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
        with pytest.raises(lock.LockedError, match=f"another process works in {tmp_path / 'a/b'}: wait"):
            lock._take(tmp_path / "a/b")
    with lock.locked(tmp_path / "a/b", wait=True):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError,
                       match=f"could not use {tmp_path / 'file'}: .*Move away"), lock.locked(tmp_path / "file"):
        pass


def test_with_wait_a_held_folder_is_tried_again_each_second(tmp_path, monkeypatch):
    tries, slept, released = [], [], []
    def take(folder):
        tries.append(folder)
        if len(tries) < 3:
            raise lock.LockedError("held")
        return lambda: released.append(folder)
    monkeypatch.setattr(lock, "_take", take)
    monkeypatch.setattr(lock.time, "sleep", slept.append)
    with pytest.raises(lock.LockedError), lock.locked(tmp_path):
        pass
    with lock.locked(tmp_path, wait=True):
        assert len(tries) == 3 and slept == [1] and not released
    assert released == [tmp_path]


# ---- arrays ----

def test_arrays_are_read_by_name_with_shapes_and_types(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, one=np.arange(6, dtype=np.int16).reshape(2, 3), two=np.float32(1.5))
    headers = npz.array_headers(path)
    assert {name: header[:2] for name, header in headers.items()} == {"one": ((2, 3), np.int16),
                                                                      "two": ((), np.float32)}
    assert list(npz.array_headers(path, ("two",))) == ["two"] and npz.array_headers(path, ()) == {}
    two, one = npz.read_arrays(path, "two", "one")
    assert two == 1.5 and one.tolist() == [[0, 1, 2], [3, 4, 5]]
    np.savez(path, objects=np.array([{}], dtype=object))
    with pytest.raises(npz.Damaged, match="objects.npy does not hold the array that its header says"):
        npz.array_headers(path)
    with pytest.raises(npz.Damaged, match="missing"):
        npz.read_arrays(path, "missing")
    for error, kind, words in ((MemoryError(), UserError, f"there is no memory left to read {path}"),
                               (OSError(errno.EIO, "reason"), UserError, f"could not read {path}: reason"),
                               (ZeroDivisionError(), npz.Damaged, "ZeroDivisionError"),
                               (FileNotFoundError("gone"), FileNotFoundError, "gone")):
        with pytest.raises(kind, match=words), npz._damage(path):
            raise error


# ---- scripts ----

def test_arguments_that_are_numbers():
    assert script.count("0") == 0 and script.count("7") == 7 and script.not_negative("0") == 0
    assert script.not_negative("0.5") == 0.5 and script.not_negative("inf") == math.inf
    for kind, text in ((script.count, "-1"), (script.not_negative, "-0.5"), (script.not_negative, "nan")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"must be 0 or more, got {text}"):
            kind(text)
    assert script.named_folder("a=b=c") == ("a", "b=c")
    for text in ("a", "=b", "a=", "="):
        with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=DIR"):
            script.named_folder(text)


@pytest.mark.parametrize("error, status, said", [
    (UserError("wrong"), 1, "x.py, rank 1: wrong\n"),
    (KeyboardInterrupt(), 130, "x.py: stopped. What is finished stays; the same command continues\n"),
    (BrokenPipeError(), 0, ""), (OSError(errno.ENOSPC, "full", "f"), 1,
                                 "x.py, rank 1: could not use f: full. Make room"),
    (OSError(errno.ENOSPC, "full"), 1, "x.py, rank 1: could not use a file or output: full."),
    (MemoryError("m"), 1, "x.py, rank 1: there is no memory left (m).")])
def test_errors_become_a_sentence_and_a_status(error, status, said, capfd, monkeypatch):
    def main():
        raise error
    monkeypatch.setattr(script, "_open_outputs", lambda: None)
    monkeypatch.setattr(script, "_discard", lambda stream: None)
    with pytest.raises(SystemExit) as left:
        script.run_script("x.py", main, lambda: ", rank 1")
    assert left.value.code == status and capfd.readouterr().err.startswith(said)


def test_other_errors_are_left_with_their_traceback_and_ctrl_c_works_again(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(script, "_open_outputs", lambda: None)
    def main():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        raise RuntimeError("a defect")
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with pytest.raises(RuntimeError, match="a defect"):
            script.run_script("x.py", main)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        script.run_script("x.py", lambda: None)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_line_that_nobody_takes_stops_nothing(monkeypatch, capsys):
    discarded = []
    monkeypatch.setattr(script, "_discard", discarded.append)
    script.say("a")
    assert capsys.readouterr().out == "a\n" and not discarded
    class Closed:
        def write(self, *text):
            raise OSError
        flush = write
    closed = Closed()
    monkeypatch.setattr(sys, "stdout", closed)
    script.say("b")
    assert discarded == [closed]
    with pytest.raises(SystemExit, match="3"):
        script._leave("c", 3)
    assert capsys.readouterr().err == "c\n"
