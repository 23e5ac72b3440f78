"""Small claims about downloads: patience, retries, what is kept, what is plausible; each without a server."""
import email.message
import errno
import http.client
import io
import socket
import time
import urllib.error
import urllib.request
from contextlib import nullcontext
from hashlib import md5
from types import SimpleNamespace

import pytest

from data.sources import connections, download
from data.sources.connections import Watchdog, open_url
from data.sources.download import Absent, RetryPolicy, _TryAgain, fetch
from utils.io import UserError

URL = "http://host.example/file"
POLICY = RetryPolicy(timeout=10, slowest=100, tries=3, pause=2)


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """The pauses, which are not made, and no chance in them."""
    pauses = []
    monkeypatch.setattr(download, "_unreachable", {})
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr("random.uniform", lambda low, high: low + high)
    return pauses


def headers(**values):
    message = email.message.Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


def receiving(monkeypatch, *steps):
    """Each request does the next step: bytes to append, then an error, if any. Returns what is asked for."""
    asked, steps = [], list(steps)

    def receive(url, part, size, policy):
        asked.append((url, size, policy, download._length(part)))
        content, error = steps.pop(0)
        with open(part, "ab") as file:
            file.write(content)
        if error:
            raise error

    monkeypatch.setattr(download, "_receive", receive)
    return asked


# ---- retries ----

def test_patience_is_as_it_was_chosen():
    assert RetryPolicy() == RetryPolicy(timeout=30, slowest=1000, tries=5, pause=2) == download.RETRY
    assert download.UNKNOWN_SIZE == 20 * 2**30


def test_pauses_double_until_something_new_comes(monkeypatch, tmp_path, slept):
    again = _TryAgain("cut")
    asked = receiving(monkeypatch, (b"", again), (b"", again), (b"ab", again), (b"", again), (b"", again), (b"c", None))
    fetch(URL, tmp_path / "deep/file", md5(b"abc").hexdigest(), 3, POLICY)
    assert [pause / (0.5 + 1) for pause in slept] == [2 * 2, 2 * 4, 2, 2 * 2, 2 * 4]
    assert asked == [(URL, 3, POLICY, length) for length in (0, 0, 0, 2, 2, 2)]
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "deep").iterdir()] == [("file", b"abc")]
    fetch(URL, tmp_path / "deep/file", "whatever is there is not asked for again")


def test_a_server_may_ask_for_a_longer_pause(monkeypatch, tmp_path, slept):
    receiving(monkeypatch, (b"", _TryAgain("busy", 60)), (b"", _TryAgain("busy", 1)), (b"x", None))
    fetch(URL, tmp_path / "file", md5(b"x").hexdigest(), policy=POLICY)
    assert slept == [60, 2 * 4 * 1.5]


@pytest.mark.parametrize("kept, said", [(b"", "silent, 3 times in a row$"), (
    b"x" * 1000, r"silent, 3 times in a row. 1,000 bytes are kept: the same command continues from there$")])
def test_after_the_last_try_it_is_said_what_is_kept(monkeypatch, tmp_path, slept, kept, said):
    receiving(monkeypatch, (kept, _TryAgain("silent")), *[(b"", _TryAgain("silent"))] * 3)
    with pytest.raises(UserError, match=f"^{URL} could not be fetched: {said}"):
        fetch(URL, tmp_path / "file", "", policy=POLICY)
    assert len(slept) == (3 if kept else 2) and (tmp_path / "file.part").read_bytes() == kept


def test_a_resumed_file_that_is_wrong_is_fetched_once_more(monkeypatch, tmp_path, slept):
    right = md5(b"right").hexdigest()
    (tmp_path / "file.part").write_bytes(b"o")
    asked = receiving(monkeypatch, (b"new", None), (b"right", None))
    fetch(URL, tmp_path / "file", right, policy=POLICY)
    assert [length for *_, length in asked] == [1, 0] and (tmp_path / "file").read_bytes() == b"right" and not slept
    for steps, tries in ((((b"wrong", None),), 1), (((b"wr", _TryAgain("cut")), (b"ong", None), (b"wrong", None)), 3)):
        asked = receiving(monkeypatch, *steps)
        with pytest.raises(UserError, match=f"{URL} is incomplete or altered: its MD5 is {md5(b'wrong').hexdigest()}, "
                                            f"the official one is {right}. Remove it and fetch it again"):
            fetch(URL, tmp_path / "other", right, policy=POLICY)
        assert len(asked) == tries and not (tmp_path / "other.part").exists()


def test_a_final_error_keeps_what_has_come_and_no_empty_file(monkeypatch, tmp_path):
    for content in (b"", b"part"):
        receiving(monkeypatch, (content, UserError("no room")))
        with pytest.raises(UserError, match="^no room$"):
            fetch(URL, tmp_path / "file", "")
        assert (tmp_path / "file.part").exists() == bool(content)


def test_addresses_that_are_none_and_hosts_that_are_not_there_are_not_asked(monkeypatch, tmp_path):
    asked = receiving(monkeypatch)
    with pytest.raises(UserError, match=r"^http://\[bad/file could not be fetched: "):
        fetch("http://[bad/file", tmp_path / "file", "")
    for key in ("host.example", "http://host.example"):
        monkeypatch.setattr(download, "_unreachable", {key: "gone fishing"})
        with pytest.raises(UserError, match=f"^{URL} could not be fetched: gone fishing$"):
            fetch(URL, tmp_path / "file", "")
    monkeypatch.setattr(download, "_unreachable", {"https://host.example": "no https"})
    receiving(monkeypatch, (b"x", None))
    fetch(URL, tmp_path / "file", md5(b"x").hexdigest())
    assert asked == []


# ---- one request ----

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
    (tmp_path / "a").write_bytes(b"")
    with open(tmp_path / "a") as file:
        assert download._is_same_file(tmp_path / "a", file) and not download._is_same_file(tmp_path / "b", file)
    (tmp_path / "a").write_bytes(bytes(range(256)) * 5_000)
    assert download.md5_of(tmp_path / "a") == md5(bytes(range(256)) * 5_000).hexdigest()
    assert download._length(tmp_path / "a") == 1_280_000 and download._length(tmp_path / "none") == 0


# ---- connections ----

def test_the_watchdog_shuts_down_what_is_too_late_and_nothing_else():
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with Watchdog(0.05) as watchdog:
        watchdog.watch(ours)
        assert theirs.recv(1) == b"" and watchdog.fired
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with Watchdog(0.05) as watchdog:
        watchdog.extend(60)
        watchdog.watch(ours)
        watchdog._stopped.wait(0.15)
        assert not watchdog.fired
        copy = watchdog._sockets[0]
    ours.send(b"x")
    assert theirs.recv(1) == b"x" and copy.fileno() == -1, "the connection is the caller's to close"


def test_the_watchdog_waits_for_its_deadline(monkeypatch):
    clock, waited = [50.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    watchdog = Watchdog(7)
    watchdog._stopped = SimpleNamespace(wait=lambda seconds: waited.append(seconds) or clock.__setitem__(
        0, clock[0] + seconds - (1 if len(waited) == 1 else 0)))
    watchdog._run()
    assert waited == [7, 1] and watchdog.fired
    watchdog = Watchdog(0)
    watchdog._stopped = SimpleNamespace(wait=lambda seconds: waited.append(seconds) or True)
    watchdog._run()
    assert waited[-1] == 0.01 and not watchdog.fired, "stopped before"


def test_only_http_is_opened_with_the_timeout(monkeypatch):
    with Watchdog(30) as watchdog:
        for url in ("file:///etc/passwd", "ftp://host.example/file", "data:,x"):
            with pytest.raises(urllib.error.URLError, match="unknown url type"):
                open_url(urllib.request.Request(url), 1, watchdog)
        monkeypatch.delenv("http_proxy", raising=False)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            start = time.monotonic()
            with pytest.raises(OSError, match="timed out"):
                open_url(urllib.request.Request(f"http://127.0.0.1:{silent.getsockname()[1]}/"), 0.1, watchdog)
            assert time.monotonic() - start < 5 and len(watchdog._sockets) == 1, "it was watched"


def test_both_kinds_of_connections_are_watched():
    for kind in (http.client.HTTPConnection, http.client.HTTPSConnection):
        connection = connections._watched(kind, SimpleNamespace())("host.example", timeout=3)
        assert isinstance(connection, kind) and connection.timeout == 3
    seen = []
    for handler, method, kind in ((connections._Plain, "http_open", http.client.HTTPConnection),
                                  (connections._Secure, "https_open", http.client.HTTPSConnection)):
        made = handler("the watchdog")
        made.do_open = lambda cls, request: seen.append((cls, request)) or io.BytesIO()
        assert getattr(made, method)("a request") is not None
        assert issubclass(seen[-1][0], kind) and seen[-1][1] == "a request" and made.watchdog == "the watchdog"
