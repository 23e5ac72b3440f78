"""Small claims about one request for a file: what is asked, kept, believed and tried again."""
import errno
import http.client
import socket
import urllib.error
import urllib.request
from contextlib import nullcontext
from hashlib import md5
from types import SimpleNamespace

import pytest
from claims_data import POLICY, URL, headers, slept  # noqa: F401

from data.sources import download
from data.sources.download import Absent, _TryAgain
from utils.io import UserError


class Answer:
    def __init__(self, status=200, chunks=(), **fields):
        self.status, self.chunks, self.headers = status, list(chunks), headers(
            Content_Type="application/octet-stream", **fields)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read1(self, most):
        assert most == 1 << 18
        chunk = self.chunks.pop(0) if self.chunks else b""
        return chunk() if callable(chunk) else chunk


def answering(monkeypatch, answer):
    """The next request gets this answer, or this error. Returns what was requested."""
    asked = []

    def opened(request, timeout, watchdog):
        asked.append((request, timeout, watchdog))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(download, "open_url", opened)
    return asked


def test_requests_and_their_answers(monkeypatch, tmp_path):
    part = tmp_path / "file.part"
    asked = answering(monkeypatch, Answer(chunks=[b"ab", b"c"], Content_Length="3"))
    download._receive(URL, part, 3, POLICY)
    assert part.read_bytes() == b"abc" and asked[0][1] == 10 and not asked[0][0].has_header("Range")
    assert asked[0][0].get_header("User-agent") == "dismax-sdde-reproduction"
    assert asked[0][0].get_header("Accept-encoding") == "identity" and asked[0][0].full_url == URL
    asked = answering(monkeypatch, Answer(206, [b"de"], Content_Length="2", Content_Range="bytes 3-4/5"))
    download._receive(URL, part, 5, POLICY)
    assert part.read_bytes() == b"abcde" and asked[0][0].get_header("Range") == "bytes=3-"
    answering(monkeypatch, Answer(200, [b"xyz"], Content_Length="3"))
    download._receive(URL, part, 5, POLICY)
    assert part.read_bytes() == b"xyz", "a server that ignores ranges sends everything"
    for shown in ({"Content_Range": "bytes 2-4/5"}, {}):
        part.write_bytes(b"abc")
        answering(monkeypatch, Answer(206, [b"de"], **shown))
        with pytest.raises(_TryAgain, match="the server sent another part than was requested"):
            download._receive(URL, part, 5, POLICY)
        assert not part.exists()


@pytest.mark.parametrize("error, kind, said", [
    (urllib.error.URLError(ConnectionResetError("reset")), _TryAgain, r"^the connection broke \(reset\)$"),
    (OSError(errno.ENOSPC, "no space"), UserError, "^could not write .*file.part: no space. Make room, or choose "
     "another --data-dir, and run the same command again"),
    (OSError(errno.EACCES, "denied"), UserError, "could not write"),
    (OSError(errno.EROFS, "denied"), UserError, "could not write"),
    (OSError(errno.EDQUOT, "quota"), UserError, "could not write"),
    (OSError(errno.EIO, "odd"), _TryAgain, r"^the connection broke \(.*odd\)$"),
    (TimeoutError("slow"), _TryAgain, "^almost nothing came for 10 seconds$"),
    (http.client.BadStatusLine("?"), _TryAgain, r"the connection broke"),
    (http.client.HTTPException(), _TryAgain, r"^the connection broke \(HTTPException\)$"),
    (ValueError("no address"), UserError, f"^{URL} could not be fetched: no address$"),
    (urllib.error.HTTPError(URL, 404, "Not Found", headers(), None), Absent, "fetched: 404 Not Found$")])
def test_errors_of_a_request_are_final_or_not(monkeypatch, tmp_path, error, kind, said):
    answering(monkeypatch, error)
    with pytest.raises(kind, match=said) as caught:
        download._receive(URL, tmp_path / "file.part", 0, POLICY)
    assert type(caught.value) is kind


@pytest.mark.parametrize("error, said", [
    (urllib.error.URLError(OSError("shut down")), "^no whole answer came within 10 seconds$"),
    (OSError("shut down"), "^almost nothing came for 10 seconds$")])
def test_what_the_watchdog_has_cut_off_is_tried_again(monkeypatch, tmp_path, error, said):
    def opened(request, timeout, watchdog):
        watchdog.fired = True
        raise error

    monkeypatch.setattr(download, "open_url", opened)
    with pytest.raises(_TryAgain, match=said):
        download._receive(URL, tmp_path / "file.part", 0, POLICY)


def test_a_part_that_is_not_there_is_no_reason_to_fail(monkeypatch, tmp_path):
    answering(monkeypatch, Answer(206, [b"de"], Content_Range="bytes 7-8/9"))
    with pytest.raises(_TryAgain, match="the server sent another part than was requested"):
        download._receive(URL, tmp_path / "none.part", 5, POLICY)
    with pytest.raises(_TryAgain, match="the file there is shorter"):
        status(416, 3, tmp_path / "none.part")


def copy(part, chunks, start=0, total=None, size=0, fired=False):
    extended = []
    watchdog = SimpleNamespace(fired=fired, extend=extended.append)
    download._copy(URL, Answer(chunks=chunks), part, start, total, size, POLICY, watchdog)
    return extended


def test_bytes_are_appended_counted_and_compared(tmp_path):
    part = tmp_path / "file.part"
    assert copy(part, [b"abc"], total=3) == [20] and part.read_bytes() == b"abc"
    copy(part, [b"de"], 3, 5)
    assert part.read_bytes() == b"abcde"
    copy(part, [b"<html"], 5)
    assert part.read_bytes() == b"abcde<html", "inside of a file it is no web page"
    for head in (b" \n<!DOCTYPE HTML>", b"<HTML>"):
        with pytest.raises(UserError, match="answered with a web page instead of the file"):
            copy(part, [head])
    with pytest.raises(_TryAgain, match="^the connection was cut after 4 of 5 bytes$"):
        copy(part, [b"abcd"], total=5)
    with pytest.raises(_TryAgain, match="almost nothing came for 10 seconds"):
        copy(part, [b"abc"], total=3, fired=True)
    most = 2 * 10 + (1 << 20)
    copy(part, [bytes(most)], size=10)
    with pytest.raises(UserError, match=f"{URL} sends more than 1,048,596 bytes, far more than the file has; stopped"):
        copy(part, [bytes(most), b"x"], size=10)
    assert part.read_bytes() == b""


@pytest.mark.parametrize("seconds, count, extended", [(10, 1, [20]), (10.5, 1000, [20, 20]), (10.5, 999, None)])
def test_less_than_the_slowest_rate_over_a_window_is_silence(tmp_path, monkeypatch, seconds, count, extended):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def later():
        clock[0] += seconds
        return bytes(count)

    chunks = [later, b"x"] if extended is not None else [later]
    with nullcontext() if extended else pytest.raises(_TryAgain, match="^less than 100 bytes a second came$"):
        assert copy(tmp_path / "file.part", chunks) == extended
    if extended == [20, 20]:  # the next window begins anew
        with pytest.raises(_TryAgain, match="less than 100"):
            copy(tmp_path / "file.part", [later, lambda: clock.__setitem__(0, clock[0] + 10.5) or bytes(999)])


def test_what_is_announced_must_be_plausible_and_have_room(tmp_path, monkeypatch):
    def check(total, size=0, start=0, url=URL, kind="application/zip"):
        download._check_plausible(url, headers(Content_Type=kind), total, size, tmp_path / "file.part", start)

    with pytest.raises(UserError, match="answered with a web page"):
        check(5, kind="text/html")
    check(5, url=f"{URL}.html", kind="text/html")
    check(None, 5)
    most = 2 * 100 + (1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1 << 40))
    check(most, 100)
    with pytest.raises(UserError, match="is 1,048,777 bytes long there, the official file has 100: it was not fetched"):
        check(most + 1, 100)
    check(20 << 30)
    with pytest.raises(UserError, match="bytes long there, which is not plausible: it was not fetched"):
        check((20 << 30) + 1)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    check(1000)
    check(1500, start=500)
    with pytest.raises(UserError, match=f"needs 1,001 bytes, {tmp_path} has 1,000 left. Make room or choose"):
        check(1501, start=500)


@pytest.mark.parametrize("length, number", [(None, None), ("12", 12), (" 12 ", 12), ("9" * 30, int("9" * 30))])
def test_lengths_that_are_numbers(length, number):
    assert download.content_length(URL, headers(**({"Content_Length": length} if length else {}))) == number
    for bad in ("-1", "1.5", "", "1" * 31, "x" * 50):
        with pytest.raises(UserError, match=f"answered with a Content-Length of '{bad[:40]}': it was not fetched"):
            download.content_length(URL, headers(Content_Length=bad))


def status(code, start=0, part=None, **fields):
    return download.check_status(URL, urllib.error.HTTPError(URL, code, "so", headers(**fields), None), part, start)


@pytest.mark.parametrize("code, kind", [
    (408, _TryAgain), (425, _TryAgain), (429, _TryAgain), (500, _TryAgain), (503, _TryAgain), (404, Absent), (
        410, Absent), (403, UserError), (499, UserError), (401, UserError), (416, UserError)])
def test_which_statuses_are_worth_another_try(code, kind):
    with pytest.raises(kind, match=f"{code} so$") as caught:
        status(code)
    assert type(caught.value) is kind
    if kind is _TryAgain:
        for asked, wait in (("7", 7), ("60", 60), ("61", 60), ("soon", 0), ("", 0)):
            with pytest.raises(_TryAgain) as caught:
                status(code, Retry_After=asked)
            assert caught.value.wait == wait


def test_a_part_that_is_as_long_as_the_file_is_whole(tmp_path):
    part = tmp_path / "file.part"
    part.write_bytes(b"abc")
    assert status(416, 3, part, Content_Range="bytes */3") is None and part.exists()
    with pytest.raises(_TryAgain, match="the file there is shorter than the part that was received before"):
        status(416, 3, part, Content_Range="bytes */2")
    assert not part.exists()


@pytest.mark.parametrize("reason, kind, key", [
    (ConnectionResetError("r"), _TryAgain, None), (BrokenPipeError("r"), _TryAgain, None),
    (http.client.RemoteDisconnected("r"), _TryAgain, None), (socket.gaierror(-2, "unknown"), UserError, "host.example"),
    (TimeoutError("slow"), UserError, "http://host.example"), (OSError(errno.ENETUNREACH, "no net"), UserError,
                                                               "host.example"),
    (OSError(errno.EHOSTUNREACH, "no way"), UserError, "host.example"), (ConnectionRefusedError(111, "no"), UserError,
                                                                         None), ("a text", UserError, None)])
def test_hosts_that_cannot_be_reached_are_remembered(reason, kind, key):
    error = download.connection_error(URL, reason)
    assert type(error) is kind and list(download._unreachable) == ([key] if key else [])
    if key:
        said = getattr(reason, "strerror", None) or str(reason)
        assert str(error) == f"{URL} could not be fetched: host.example cannot be reached ({said})"
    elif kind is UserError:
        assert str(error) == f"{URL} could not be fetched: {reason}"


def test_a_lock_file_that_another_process_has_removed_is_made_again(tmp_path, monkeypatch):
    locked = []

    def flock(file, how):
        locked.append(how)
        if len(locked) == 1:
            (tmp_path / ".file.lock").unlink()

    monkeypatch.setattr("fcntl.flock", flock)
    with download.file_lock(tmp_path / "file"):
        assert len(locked) == 2 and (tmp_path / ".file.lock").exists()
        (tmp_path / ".file.lock").unlink()  # by hand
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_flock_has_locks_of_another_kind(tmp_path, monkeypatch):
    with download.file_lock(tmp_path / "file"):
        assert [p.name for p in tmp_path.iterdir()] == [".file.lock"]
    assert not list(tmp_path.iterdir())
    for number in (errno.ENOSYS, errno.EIO):
        def flock(file, how, number=number):
            raise OSError(number, "no flock")

        monkeypatch.setattr("fcntl.flock", flock)
        if number == errno.ENOSYS:
            with download.file_lock(tmp_path / "file"):
                assert (tmp_path / ".file.locked").is_dir()
        else:
            with pytest.raises(OSError, match="no flock"), download.file_lock(tmp_path / "file"):
                pytest.fail("it is not locked")
    waited = []
    monkeypatch.setattr(download, "locked", lambda folder, **how: waited.append((folder.name, how)) or nullcontext())
    monkeypatch.setattr("fcntl.flock", lambda *_: exec("raise OSError(38, 'none')"))
    with download.file_lock(tmp_path / "file"):
        assert waited == [(".file.locked", {"wait": True})]
    (tmp_path / "a").write_bytes(b"")
    with open(tmp_path / "a") as file:
        assert download._is_same_file(tmp_path / "a", file) and not download._is_same_file(tmp_path / "b", file)
    (tmp_path / "a").write_bytes(bytes(range(256)) * 5_000)
    assert download.md5_of(tmp_path / "a") == md5(bytes(range(256)) * 5_000).hexdigest()
    assert download._length(tmp_path / "a") == 1_280_000 and download._length(tmp_path / "none") == 0
