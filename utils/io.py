"""A file is whole or absent: written beside its place, flushed to disk, then renamed."""
import contextlib
import errno
import os
from pathlib import Path


class UserError(Exception):
    """For the person at the terminal: what was wrong, where, and what to do. The scripts print it and leave."""


@contextlib.contextmanager
def written_whole(path, mode="wb"):
    """A file object; when the block ends well its content replaces `path` at once, else nothing changes.

    UserError when the disk does not take it; what was at `path` before stays untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    _remove_leftovers(path)
    try:
        with open(part, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO):
            raise UserError(f"could not write {path}: {error.strerror}. Nothing before it was touched; make room "
                            "(or choose another folder) and run the same command again") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _remove_leftovers(path):
    """What processes that were killed in the middle of writing this file have left beside it."""
    for part in path.parent.glob(f"{path.name}.*.part"):
        writer = part.name.split(".")[-2]
        try:
            os.kill(int(writer), 0)
        except ProcessLookupError:
            part.unlink(missing_ok=True)
        except (ValueError, PermissionError):
            pass  # not one of ours, or another user's, at work


def write_text(path, text):
    with written_whole(path, "w") as file:
        file.write(text)
