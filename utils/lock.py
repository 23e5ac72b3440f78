"""A folder that one process works in at a time, on file systems with and without flock."""
import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

from utils.io import UserError

NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
LOCK_FILE = ".lock"
_said = []  # that flock is missing, once a process


class LockedError(UserError):
    """Another process holds the folder."""


@contextlib.contextmanager
def locked(folder, wait=False):
    """Hold a folder for this process. It is made if it is missing.

    The kernel releases a flock however the process ends. Where the file system has none (Lustre without its mount
    option, some FUSE file systems), a file in the folder names host, process and its start time; the lock of a process
    that is no longer there is taken over. LockedError when another process holds the folder; with `wait` it is waited
    for.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            release = _take(folder)
            break
        except LockedError:
            if not wait:
                raise
            time.sleep(1)
    try:
        yield
    finally:
        release()


def _take(folder):
    """Lock the folder; returns the function that releases it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise LockedError(f"another process works in {folder}: wait for it, or stop it and try again") from None
    except OSError as error:
        os.close(handle)
        if error.errno not in NO_FLOCK:
            raise
        return _take_by_file(folder)
    return lambda: os.close(handle)


def _take_by_file(folder):
    path, own = folder / LOCK_FILE, _identity(os.getpid())
    if not _said:
        _said.append(path)
        print(f"The file system of {folder} has no flock. {path.name} files are used instead; they protect a run from "
              "processes of this host only", file=sys.stderr)
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            break
        except FileExistsError:
            _take_over(path, folder)
    else:
        raise LockedError(f"another process works in {folder}: wait for it, or stop it and try again")
    with os.fdopen(handle, "w") as file:
        json.dump(own, file)
    return lambda: path.unlink(missing_ok=True)


def _take_over(path, folder):
    """Remove the lock file of a process that has ended. LockedError while it may be alive."""
    try:
        holder = json.loads(path.read_text())
        known = holder["host"] == socket.gethostname()
        alive = known and holder == _identity(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        known, alive, holder = False, False, {"host": "an unknown host", "pid": "?"}
    if alive or not known:
        more = "" if alive else f". If that process has ended, remove {path}"
        raise LockedError(f"process {holder['pid']} on {holder['host']} works in {folder}: wait for it, or stop it and "
                        f"try again{more}")
    path.unlink(missing_ok=True)


def _identity(pid):
    """Host, process number and start time: a process number alone is given out again."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        try:
            os.kill(pid, 0)
            started = ""
        except PermissionError:
            started = ""
        except (OSError, TypeError):
            started = None  # no such process
    return {"host": socket.gethostname(), "pid": pid, "started": started}
