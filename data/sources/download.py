"""Downloads over HTTP from unreliable servers: resumed, retried, and verified before they are used."""
import errno
import fcntl
import hashlib
import http.client
import os
import random
import re
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from data.sources.connections import Watchdog, open_url
from utils.io import UserError
from utils.lock import NO_FLOCK, locked


@dataclass(frozen=True)
class RetryPolicy:
    timeout: float = 30  # seconds that a server may be silent
    slowest: int = 1000  # bytes a second, over one timeout; slower counts as silent
    tries: int = 5  # in a row that bring nothing new
    pause: float = 2  # seconds after the first failure, twice as long after each next one


RETRY = RetryPolicy()
UNKNOWN_SIZE = 20 << 30  # bytes at which a file of unknown size stops being plausible
_unreachable = {}  # host, or scheme://host, → why; not asked again by this process


class Absent(UserError):
    """The server is there and has no such file."""


class _TryAgain(Exception):
    """A failure that a second try may not meet."""

    def __init__(self, reason, wait=0):
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


def fetch(url, target, md5, size=0, policy=None):
    """Bring `url` to `target`, whole and with this MD5.

    What has come is kept in <target>.part, through failures and from one call to the next, and is asked for with a
    Range header. A server that cannot resume starts from the beginning. If a resumed file has the wrong MD5 it is
    fetched once more from the beginning. UserError when it cannot be had; what is wrong is never kept.
    """
    policy = policy or RETRY
    try:
        scheme, host, *_ = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise UserError(f"{url} could not be fetched: {error}") from error
    if why := _unreachable.get(host) or _unreachable.get(f"{scheme}://{host}"):
        raise UserError(f"{url} could not be fetched: {why}")
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(target):
        if target.is_file():  # another process was faster
            return
        failures, furthest = 0, _length(part)
        resumed, restarted = furthest > 0, False
        while True:
            try:
                _receive(url, part, size, policy)
                actual = md5_of(part)
                if actual == md5:
                    part.replace(target)
                    return
                part.unlink()
                if restarted or not resumed:
                    raise UserError(mismatch(url, md5, actual))
                failures, furthest, resumed, restarted = 0, 0, False, True  # once more, from the beginning
            except _TryAgain as problem:
                resumed = resumed or _length(part) > 0
                failures = 0 if _length(part) > furthest else failures + 1
                furthest = max(furthest, _length(part))
                if failures >= policy.tries:
                    kept = f". {furthest:,} bytes are kept: the same command continues from there" if furthest else ""
                    raise UserError(f"{url} could not be fetched: {problem}, {failures} times in a row{kept}") from None
                time.sleep(max(problem.wait, policy.pause * 2**failures * random.uniform(0.5, 1)))
            except UserError:
                if not _length(part):
                    part.unlink(missing_ok=True)
                raise


def _receive(url, part, size, policy):
    """One request, from where `part` ends to the end of the file. _TryAgain when it breaks off; UserError for good."""
    start = _length(part)
    headers = {"User-Agent": "dismax-sdde-reproduction", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    watchdog = Watchdog(policy.timeout)
    try:
        request = urllib.request.Request(url, headers=headers)
        with watchdog, open_url(request, policy.timeout, watchdog) as answer:
            if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink(missing_ok=True)
                raise _TryAgain("the server sent another part than was requested")
            start = start if answer.status == 206 else 0  # a server that ignores Range sends everything
            length = content_length(url, answer.headers)
            total = None if length is None else start + length
            _check_plausible(url, answer.headers, total, size, part, start)
            _copy(url, answer, part, start, total, size, policy, watchdog)
    except urllib.error.HTTPError as error:
        check_status(url, error, part, start)
    except urllib.error.URLError as error:  # before any answer
        if watchdog.fired:
            raise _TryAgain(f"no whole answer came within {policy.timeout:g} seconds") from error
        raise connection_error(url, error.reason) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise UserError(f"could not write {part}: {error.strerror}. Make room, or choose another --data-dir, and "
                            "run the same command again: it continues from there") from error
        if watchdog.fired or isinstance(error, TimeoutError):
            raise _TryAgain(f"almost nothing came for {policy.timeout:g} seconds") from error
        raise _TryAgain(f"the connection broke ({str(error) or type(error).__name__})") from error
    except ValueError as error:  # an address that is none, also of a redirect
        raise UserError(f"{url} could not be fetched: {error}") from error


def content_length(url, headers):
    """The bytes that an answer announces, or None. UserError when it announces nonsense."""
    length = headers.get("Content-Length")
    if length is None:
        return None
    if not re.fullmatch(r"[0-9]{1,30}", length.strip()):
        raise UserError(f"{url} answered with a Content-Length of {length.strip()[:40]!r}: it was not fetched. The "
                        "server is broken: use a mirror")
    return int(length)


def _copy(url, answer, part, start, total, size, policy, watchdog):
    most = 2 * size + (1 << 20) if size else UNKNOWN_SIZE
    name, received = part.name.removesuffix(".part"), start
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None, leave=False)
    with open(part, "r+b" if start else "wb") as file, bar:
        file.seek(start)
        window, in_window = time.monotonic(), 0
        watchdog.extend(2 * policy.timeout)
        while chunk := answer.read1(1 << 18):
            if received == 0 and chunk.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
                raise UserError(html_error(url))
            file.write(chunk)
            received += len(chunk)
            in_window += len(chunk)
            bar.update(len(chunk))
            if received > most:
                file.truncate(0)
                raise UserError(f"{url} sends more than {most:,} bytes, far more than the file has; stopped")
            if time.monotonic() - window > policy.timeout:
                if in_window < policy.slowest * policy.timeout:
                    raise _TryAgain(f"less than {policy.slowest:,} bytes a second came")
                window, in_window = time.monotonic(), 0
                watchdog.extend(2 * policy.timeout)
    if watchdog.fired:
        raise _TryAgain(f"almost nothing came for {policy.timeout:g} seconds")
    if total and received < total:
        raise _TryAgain(f"the connection was cut after {received:,} of {total:,} bytes")


def _check_plausible(url, headers, total, size, part, start):
    if headers.get_content_type() == "text/html" and not url.endswith((".html", ".htm")):
        raise UserError(html_error(url))
    if total is not None and total > (2 * size + (1 << 20) if size else UNKNOWN_SIZE):
        official = f"the official file has {size:,}" if size else "which is not plausible"
        raise UserError(f"{url} is {total:,} bytes long there, {official}: it was not fetched")
    free = shutil.disk_usage(part.parent).free
    if total and total - start > free:
        raise UserError(f"{url} needs {total - start:,} bytes, {part.parent} has {free:,} left. Make room or choose "
                        "another --data-dir")


def check_status(url, error, part, start):
    """An answer other than 200 and 206."""
    if error.code == 416 and start:  # what we have is as long as the file, or longer
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return
        part.unlink(missing_ok=True)
        raise _TryAgain("the file there is shorter than the part that was received before")
    if error.code in (408, 425, 429) or error.code >= 500:
        wait = error.headers.get("Retry-After", "")
        raise _TryAgain(f"{error.code} {error.reason}", min(int(wait), 60) if re.fullmatch(r"[0-9]{1,9}", wait) else 0)
    kind = Absent if error.code in (404, 410) else UserError
    raise kind(f"{url} could not be fetched: {error.code} {error.reason}")


def connection_error(url, reason):
    """The exception for a request without an answer: only a broken connection is worth another try."""
    if isinstance(reason, ConnectionResetError | BrokenPipeError | http.client.RemoteDisconnected):
        return _TryAgain(f"the connection broke ({reason})")
    if isinstance(reason, socket.gaierror | TimeoutError) or getattr(reason, "errno", None) in (
            errno.ENETUNREACH, errno.EHOSTUNREACH):
        scheme, host, *_ = urllib.parse.urlsplit(url)
        key = f"{scheme}://{host}" if isinstance(reason, TimeoutError) else host
        _unreachable[key] = f"{host} cannot be reached ({getattr(reason, 'strerror', None) or reason})"
        return UserError(f"{url} could not be fetched: {_unreachable[key]}")
    return UserError(f"{url} could not be fetched: {reason}")


def html_error(url):
    return (f"{url} answered with a web page instead of the file: the file has moved, needs a login or is over its "
            "quota. Nothing was kept")


def mismatch(where, expected, actual):
    return (f"{where} is incomplete or altered: its MD5 is {actual}, the official one is {expected}. "
            "Remove it and fetch it again; nothing was unpacked")


def md5_of(path):
    with open(path, "rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _length(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def file_lock(target):
    """A block that one process at a time is in, for one target; others wait."""
    lock = target.with_name(f".{target.name}.lock")
    while True:
        with open(lock, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise
                with locked(target.with_name(f".{target.name}.locked"), wait=True):  # a file that names its process
                    yield
                return
            if not _is_same_file(lock, file):
                continue  # the process before has removed the lock file: make another
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_same_file(path, file):
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
