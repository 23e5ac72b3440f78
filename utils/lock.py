"""A folder for one process at a time, on file systems with and without flock."""
import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

from utils.io import UserError, system_error

NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
NO_LINK = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL, errno.EACCES}
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
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            release = _take(folder)
            break
        except LockedError:
            if not wait:
                raise
            time.sleep(1)
        except OSError as error:
            raise system_error(error, folder, "use") or UserError(f"could not use {folder}: {error}") from error
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
    new = path.with_name(f"{LOCK_FILE}.{socket.gethostname()}.{os.getpid()}")
    try:
        new.write_text(json.dumps(own))
        for _ in range(2):
            try:
                os.link(new, path)  # the file is there at once with its content, or not at all
                return lambda: _release_file(path, own)
            except FileExistsError:
                _take_over(path, folder)
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
                if _create(path, own):
                    return lambda: _release_file(path, own)
                _take_over(path, folder)
    finally:
        new.unlink(missing_ok=True)
    raise LockedError(f"another process works in {folder}: wait for it, or stop it and try again")


def _create(path, own):
    """Whether the lock file was made, on a file system without hard links."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        json.dump(own, file)
    return True


def _release_file(path, own):
    if _holder(path) == own:
        path.unlink(missing_ok=True)


def _holder(path):
    """What the lock file says, or None."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _take_over(path, folder):
    """Remove the lock file of a process of this host that has ended. LockedError while it may be alive."""
    holder = _holder(path)
    is_known = isinstance(holder, dict) and holder.get("host") == socket.gethostname() and "pid" in holder
    is_alive = is_known and holder == _identity(holder["pid"])
    if is_alive or not is_known and path.exists():
        who = f"process {holder['pid']}" if is_known else "a process"
        where = f" on {holder['host']}" if isinstance(holder, dict) and "host" in holder else ""
        more = "" if is_alive else f". If that process has ended, remove {path}"
        raise LockedError(f"{who}{where} works in {folder}: wait for it, or stop it and try again{more}")
    moved = path.with_name(f"{LOCK_FILE}.{socket.gethostname()}.{os.getpid()}.old")
    try:
        path.rename(moved)
    except FileNotFoundError:
        return  # another process was faster
    if _holder(moved) != holder:  # another process was faster, and this is its lock
        with contextlib.suppress(OSError):
            os.link(moved, path)
    moved.unlink(missing_ok=True)


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
