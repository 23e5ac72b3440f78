"""What the system refuses is said in a sentence that names the file, and costs nothing that was finished."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from conftest import script as undisturbed_script

from utils import lock
from utils.io import UserError, atomic_write, memory_error, system_error

from .injected import failing, script

TRAIN = ["train.py", "--dataset", "digits", "--model", "lenet", "--method", "softmax", "--epochs", 1, "--device", "cpu"]


def said(done, *parts):
    """Standard error, which is one sentence, and the exit status 1."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr
    return done.stderr


# ---- results folders that do not take what is written ----

@pytest.mark.parametrize("before, part", [
    (failing("os.replace", "ENOSPC"), "No space left on device"),
    (failing("os.replace", "EXDEV"), "Invalid cross-device link"),
    (failing("os.fsync", "EIO"), "Input/output error"),
    (failing("os.mkdir", "EROFS", "digits"), "Read-only file system"),
    (failing("fcntl.flock", "ESTALE"), "Stale file handle"),
    (failing("os.fsync", "EDQUOT", after=2), "Disk quota exceeded"),
    (failing("os.replace", "EINVAL", after=1), "Invalid argument"),
])
def test_a_results_folder_that_fails_is_named(tmp_path, data_dir, before, part):
    done = script(before, *TRAIN, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert str(tmp_path) in said(done, "train.py: could not", part)
    assert not list(tmp_path.rglob("weights.pt")) and not list(tmp_path.rglob("*.part"))


def test_an_error_while_a_file_is_written_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(UserError, match="could not write .*a: No space left.*untouched"), \
            atomic_write(tmp_path / "a") as file:
        file.write(b"new")
        raise OSError(28, os.strerror(28))
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "before"


@pytest.mark.parametrize("number", [24, 12, 116, 5, 13])  # EMFILE, ENOMEM, ESTALE, EIO, EACCES
def test_what_the_system_says_is_no_damage(tmp_path, data_dir, number):
    """A file that cannot be opened is not called damaged, neither a manifest, a config nor a checkpoint."""
    from data.manifest import read_manifest
    from engine import checkpoint
    from utils import run_dir
    from utils.npz import array_headers

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("io.open", fail)
        patch.setattr("builtins.open", fail)
        if hasattr(pathlib, "_NormalAccessor"):  # Python 3.10 has a reference of its own
            patch.setattr(pathlib._NormalAccessor, "open", staticmethod(fail))
        for read in (lambda: read_manifest(data_dir / "digits"), lambda: array_headers(data_dir / "digits/test.npz"),
                     lambda: run_dir.read_json(tmp_path / "config.json"),
                     lambda: checkpoint.load_state(tmp_path / "checkpoint.pt")):
            with pytest.raises(UserError) as raised:
                read()
            assert os.strerror(number) in str(raised.value) and "damaged" not in str(raised.value)


def test_errors_that_say_something_of_the_system_are_told_from_damage():
    assert system_error(ValueError("x"), "a") is None and system_error(OSError("broken data"), "a") is None
    assert "ulimit -n" in str(system_error(OSError(24, "Too many open files"), "a"))


# ---- memory, descriptors ----

def test_memory_that_is_not_there_is_a_sentence(tmp_path, data_dir):
    before = ("import torch\ndef no(*_, **__): raise RuntimeError(\"[enforce fail at alloc_cpu.cpp:117] "
              "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\")\ntorch.optim.SGD = no\n")
    done = script(before, *TRAIN, "--data-dir", data_dir, "--results-dir", tmp_path)
    said(done, "there is no memory left", "can't allocate memory", "fewer workers or jobs")
    assert memory_error(RuntimeError("shapes do not match")) is None
    assert "MemoryError" in str(memory_error(MemoryError()))


@pytest.mark.parametrize("function, file", [
    ("io.open", "train.npz"), ("io.open", "manifest.json"), ("os.open", "seed1")])
def test_descriptors_that_run_out_are_a_sentence(tmp_path, data_dir, function, file):
    done = script(failing(function, "EMFILE", file), *TRAIN, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert "damaged" not in said(done, "Too many open files", "ulimit -n", file)


# ---- locks without flock ----

@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_without_flock_a_file_keeps_others_out(tmp_path, monkeypatch, number, capfd):
    import errno
    import fcntl

    def flock(*_):
        raise OSError(getattr(errno, number), "not here")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "_said", [])
    with lock.locked(tmp_path):
        holder = json.loads((tmp_path / ".lock").read_text())
        assert holder == lock._identity(os.getpid()) and holder["started"]
        with pytest.raises(lock.LockedError, match=f"process {os.getpid()} on .* works in"), lock.locked(tmp_path):
            pass
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err.count("has no flock") == 1, "said once"
    # the lock of a process that has ended, and of one whose number was given out again, is taken over
    for change in ({"pid": 2**22 + 1}, {"started": "1"}):
        (tmp_path / ".lock").write_text(json.dumps({**holder, **change}))
        with lock.locked(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text()) == holder
    # another host's is not
    (tmp_path / ".lock").write_text(json.dumps({**holder, "host": "elsewhere"}))
    with pytest.raises(lock.LockedError, match="on elsewhere works in.*remove"), lock.locked(tmp_path):
        pass
    (tmp_path / ".lock").write_text("cut")
    with pytest.raises(lock.LockedError, match="remove"), lock.locked(tmp_path):
        pass


def test_without_flock_and_hard_links_too(tmp_path, monkeypatch):
    import errno
    import fcntl

    def fail(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(os, "link", fail)
    with lock.locked(tmp_path), pytest.raises(lock.LockedError), lock.locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_only_one_of_many_takes_over(tmp_path):
    """Six processes find the lock of one that has ended: one of them gets it, the others say so."""
    code = ("import errno, fcntl, os, sys, time\ndef no(*_): raise OSError(errno.ENOSYS, 'not here')\n"
            "fcntl.flock = no\nfrom utils.lock import locked, LockedError\ntry:\n    with locked(sys.argv[1]):\n"
            "        print('held', flush=True); time.sleep(2)\nexcept LockedError:\n    print('refused')")
    (tmp_path / ".lock").write_text(json.dumps({**lock._identity(os.getpid()), "pid": 2**22 + 1}))
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL) for _ in range(6)]
    outputs = [process.communicate()[0].strip() for process in processes]
    assert sorted(outputs) == ["held"] + ["refused"] * 5


# ---- outputs, signals ----

@pytest.mark.parametrize("before", [
    "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
    "import os; there, here = os.pipe(); os.close(there); os.dup2(here, 1)",  # as of `| head` that has left
])
def test_a_training_continues_without_an_output(tmp_path, data_dir, before):
    done = script(before, *TRAIN, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    assert len(list(tmp_path.rglob("weights.pt"))) == 1


def test_a_list_of_runs_ends_where_its_reader_leaves():
    done = subprocess.run(["bash", "-c", f"{sys.executable} recipes.py runs cifar10 | true"], cwd=ROOT,
                          capture_output=True, text=True)
    assert not done.stderr


def test_results_that_cannot_be_printed_end_in_a_sentence():
    """Python itself would only find out after the script's end, with the status 120."""
    code = "from utils.script import run_script\nrun_script('list.py', lambda: print('a table'))"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=buffered, text=True, stdout=full,
                              stderr=subprocess.PIPE)
    assert "Exception" not in said(done, "list.py: ", "No space left on device")


def test_a_training_continues_without_any_stream(tmp_path, data_dir):
    words = " ".join(map(str, [sys.executable, *TRAIN, "--data-dir", data_dir, "--results-dir", tmp_path]))
    assert subprocess.run(["bash", "-c", f"{words} <&- >&- 2>&-"], cwd=ROOT).returncode == 0
    assert len(list(tmp_path.rglob("weights.pt"))) == 1


def wait_for_script(process):
    """Until Python itself has started: before, it has a traceback of its own for Ctrl-C. It first catches SIGINT, and
    our scripts then let the signal end it."""
    has_caught, status = False, f"/proc/{process.pid}/status"
    while os.path.exists(status) and process.poll() is None:
        with open(status) as file:
            caught = int(re.search(r"SigCgt:\s*(\w+)", file.read())[1], 16) >> (signal.SIGINT - 1) & 1
        if has_caught and not caught:
            return
        has_caught |= caught
        time.sleep(0.001)


def test_ctrl_c_is_no_traceback_at_any_moment(tmp_path):
    """While modules are imported, and later."""
    for words, seconds in ((["train.py", "--help"], 0.1), (["data/prepare.py", "--dry-run"], 0.05)):
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        wait_for_script(process)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.communicate()[1]
        assert process.returncode in (0, 130, -signal.SIGINT)


def test_an_interrupt_of_a_script_is_a_sentence_and_130():
    code = "from utils.script import run_script\ndef main(): raise KeyboardInterrupt\nrun_script('it.py', main)"
    done = undisturbed_script("-c", code, check=False)
    assert done.returncode == 130 and done.stderr.startswith("it.py: stopped.")


def test_a_bug_is_still_a_traceback():
    code = "from utils.script import run_script\ndef main(): raise RuntimeError('ours')\nrun_script('it.py', main)"
    assert "Traceback" in undisturbed_script("-c", code, check=False).stderr


def test_nothing_is_removed_before_all_can_be(tmp_path, monkeypatch):
    from utils import run_dir

    for name in ("weights.pt", "config.json", "logits/a.npz", "scores/MPS/a.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").touch()
    (tmp_path / "features").symlink_to(tmp_path / "outside")
    before = sorted(tmp_path.rglob("*"))
    true = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "scores/MPS" and true(path, mode))
    with pytest.raises(UserError, match="MPS cannot be changed by this user: nothing was removed"):
        run_dir.clear(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.undo()
    run_dir.clear(tmp_path, ("features", *run_dir.MADE_BY_EVALUATION))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "outside", "weights.pt"]
    assert (tmp_path / "outside/kept").exists()


def test_damaged_states_are_refused_for_finished_runs_too(tmp_path):
    from engine import checkpoint

    torch.save([1], tmp_path / "list")
    with pytest.raises(UserError, match="holds a list"):
        checkpoint.load_state(tmp_path / "list")
