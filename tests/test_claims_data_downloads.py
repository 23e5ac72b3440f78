"""Small claims about downloads: patience, retries, what is kept, what is plausible; each without a server."""
import http.client
import io
import socket
import threading
import time
import urllib.error
import urllib.request
from hashlib import md5
from types import SimpleNamespace

import pytest
from claims_data import POLICY, URL, headers, slept  # noqa: F401

from data.sources import connections, download
from data.sources.connections import Watchdog, open_url
from data.sources.download import RetryPolicy, _TryAgain, fetch
from utils.io import UserError


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


def test_pauses_double_until_something_new_comes(monkeypatch, tmp_path, slept):  # noqa: F811
    again = _TryAgain("cut")
    asked = receiving(monkeypatch, (b"", again), (b"", again), (b"ab", again), (b"", again), (b"", again), (b"c", None))
    fetch(URL, tmp_path / "very/deep/file", md5(b"abc").hexdigest(), 3, POLICY)
    assert [pause / (0.5 + 1) for pause in slept] == [2 * 2, 2 * 4, 2, 2 * 2, 2 * 4]
    assert asked == [(URL, 3, POLICY, length) for length in (0, 0, 0, 2, 2, 2)]
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "very/deep").iterdir()] == [("file", b"abc")]
    fetch(URL, tmp_path / "very/deep/file", "whatever is there is not asked for again")


def test_a_server_may_ask_for_a_longer_pause(monkeypatch, tmp_path, slept):  # noqa: F811
    receiving(monkeypatch, (b"", _TryAgain("busy", 60)), (b"", _TryAgain("busy", 1)), (b"x", None))
    fetch(URL, tmp_path / "file", md5(b"x").hexdigest(), policy=POLICY)
    assert slept == [60, 2 * 4 * 1.5]


@pytest.mark.parametrize("kept, said", [(b"", "silent, 3 times in a row$"), (
    b"x" * 1000, r"silent, 3 times in a row. 1,000 bytes are kept: the same command continues from there$")])
def test_after_the_last_try_it_is_said_what_is_kept(monkeypatch, tmp_path, slept, kept, said):  # noqa: F811
    receiving(monkeypatch, (kept, _TryAgain("silent")), *[(b"", _TryAgain("silent"))] * 3)
    with pytest.raises(UserError, match=f"^{URL} could not be fetched: {said}"):
        fetch(URL, tmp_path / "file", "", policy=POLICY)
    assert len(slept) == (3 if kept else 2) and (tmp_path / "file.part").read_bytes() == kept


def test_a_resumed_file_that_is_wrong_is_fetched_once_more(monkeypatch, tmp_path, slept):  # noqa: F811
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


def test_an_error_before_the_first_byte_is_the_one_that_is_told(monkeypatch, tmp_path):
    def fail(*_):
        raise UserError("no such place")

    monkeypatch.setattr(download, "_receive", fail)
    with pytest.raises(UserError, match="^no such place$"):
        fetch(URL, tmp_path / "file", "")
    assert not list(tmp_path.iterdir())


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


# ---- connections ----

def test_the_watchdog_shuts_down_what_is_too_late_and_nothing_else():
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with Watchdog(0.05) as watchdog:
        watchdog.watch(ours)
        assert theirs.recv(1) == b"" and watchdog.fired
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    threads = set(threading.enumerate())
    with Watchdog(0.05) as watchdog:
        assert all(thread.daemon for thread in set(threading.enumerate()) - threads), "a script need not wait for it"
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
            assert time.monotonic() - start < 20 and len(watchdog._sockets) == 1, "it was watched"


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
