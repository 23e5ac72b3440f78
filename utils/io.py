"""Files that are written completely or not at all, text in any encoding, and error messages for users."""
import contextlib
import errno
import glob
import os
import socket
import stat
from pathlib import Path


class UserError(Exception):
    """An error that the user can act on: what was wrong, where, and what to do. Scripts print it and exit with 1."""


# Errors of the system, not of a file's content: what to do about them.
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
ADVICE = {
    **dict.fromkeys((errno.EMFILE, errno.ENFILE),
                    "Raise the limit of open files (ulimit -n 8192), or use fewer workers or jobs"),
    errno.ENOMEM: "Free some memory, or use fewer workers or jobs",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT),
                    "Make room, or choose another folder, and run the same command again"),
    errno.EFBIG: "Make room, or choose a folder on a file system that takes files of this size",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Change its permissions, or choose another folder"),
    errno.EROFS: "Choose a folder that can be written to",
    errno.ENAMETOOLONG: "Choose a folder with a shorter name",
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), "Move away what is in its place"),
    **dict.fromkeys((errno.EBUSY, errno.ETXTBSY), "Another program uses it: close that one, and try again"),
    errno.ELOOP: "Repair the link",
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT,
                     errno.EHOSTDOWN), "Check the disk, or the connection to it"),
}
# Of reading, such an error may come from a damaged file.
ADVICE_TO_WRITE = {**ADVICE, **dict.fromkeys(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EMLINK),
    "Its file system does not do what is needed: choose a folder on another")}


def system_error(error, path, what="read"):
    """The UserError for an OSError that the system raised, or None if it says nothing about the system.

    A damaged file is no system error: decoders raise OSErrors without a number for it.
    """
    advice = ADVICE if what == "read" else ADVICE_TO_WRITE
    if not isinstance(error, OSError) or error.errno not in advice:
        return None
    return UserError(f"could not {what} {path}: {error.strerror}. {advice[error.errno]}")


def memory_error(error):
    """The UserError for a MemoryError, or for PyTorch's RuntimeError in its place; None for other errors."""
    text = str(error)
    if not isinstance(error, MemoryError) and "not enough memory" not in text and "allocate memory" not in text:
        return None
    reason = text.strip().splitlines()[-1][:200] if text else "MemoryError"
    return UserError(f"there is no memory left ({reason}). {ADVICE[errno.ENOMEM]}")


@contextlib.contextmanager
def atomic_write(path, mode="wb"):
    """A file object. When the block ends without an error its content replaces `path`, else nothing changes.

    The content is written beside `path`, flushed to disk and renamed. Text is UTF-8; what no UTF-8 can say, of file
    names that are none, is written as \\udc…. UserError when the file system does not take it.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{_host()}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
        with open(part, mode, **text) as file:
            yield file
            file.flush()
            _flush_to_disk(file)
        os.replace(part, path)
    except OSError as error:
        if error.filename is not None and not _is_about(error, path, part):
            raise  # of something else that the block did
        advice = ADVICE_TO_WRITE.get(error.errno, "Choose another folder, and run the same command again")
        raise UserError(f"could not write {path}: {error.strerror or error}. What was there before is untouched. "
                        f"{advice}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _is_about(error, path, part):
    names = {os.fspath(name) for name in (part, path, *path.parents)}
    return isinstance(error.filename, str | os.PathLike) and os.fspath(error.filename) in names


def _flush_to_disk(file):
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a file system without fsync
            raise


def _host():
    return socket.gethostname().replace("/", "_").replace(".", "_") or "host"


def _remove_leftovers(path):
    """Remove what processes of this host that were killed while they wrote this file have left beside it."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        *host, writer = part.name[len(path.name) + 1 : -len(".part")].split(".")
        if host not in ([], [_host()]):
            continue
        try:
            os.kill(int(writer), 0)
        except ProcessLookupError:
            part.unlink(missing_ok=True)
        except (ValueError, OverflowError, PermissionError):
            pass  # not one of ours, or another user's, at work


def write_bytes(path, content):
    with atomic_write(path) as file:
        file.write(content)


def write_text(path, text):
    with atomic_write(path, "w") as file:
        file.write(text)


def read_file(path):
    """The bytes of a file. OSError when it cannot be read; UserError for a device or a pipe, which may never end."""
    refuse_endless(path)
    return Path(path).read_bytes()


def refuse_endless(path):
    """UserError when a path leads to a device, a pipe or a socket."""
    with contextlib.suppress(OSError, ValueError):  # what reads the file says so
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{path} is a device or a pipe, and no file. Move it away")


def read_text(path):
    """The text of a file in UTF-8, UTF-16 or UTF-32, with or without byte-order mark, or in Windows' Western encoding.

    FileNotFoundError when it is missing; UserError when it cannot be read or holds no text.
    """
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise system_error(error, path) or error from error
    try:
        text = decode_text(content)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{path} is not a text file. Save it again as UTF-8")
    return text


def decode_text(content):
    """bytes → str; UnicodeDecodeError when a stated encoding is not kept."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
                           (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding)
    start = content[:512]
    if b"\0" in start:  # UTF-16 without its mark: every other byte of Western text is 0
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if not any(start[first::2]):
                return content.decode(encoding)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def human_bytes(size):
    """1234567 → "1 MB"; gigabytes with one digit after the point."""
    for unit, factor, digits in (("GB", 1e9, 1), ("MB", 1e6, 0), ("kB", 1e3, 0)):
        if size >= factor:
            return f"{size / factor:.{digits}f} {unit}"
    return f"{size} bytes"

