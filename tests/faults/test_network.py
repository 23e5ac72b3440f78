"""Servers that lie in ways that no HTTP library makes easy: what they send is written byte by byte. No server holds a
download open, none makes it write elsewhere, and what is wrong is a sentence."""
import contextlib
import hashlib
import socket
import threading
import time

import pytest

from data.sources import download
from data.sources.download import RetryPolicy
from utils.io import UserError

CONTENT = bytes(range(256)) * 400
MD5 = hashlib.md5(CONTENT).hexdigest()
FAST = RetryPolicy(timeout=0.6, tries=2, pause=0.01)


def answer(*headers, status="200 OK", body=CONTENT):
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode("latin-1") + body


@pytest.fixture
def serve():
    """serve(bytes, or a function of the socket) → address of a server that answers so to everybody."""
    sockets, over = [], threading.Event()

    def begin(how):
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def talk():
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    with contextlib.suppress(OSError):
                        how(connection) if callable(how) else connection.sendall(how)

        threading.Thread(target=talk, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/file"

    begin.over = over
    yield begin
    over.set()
    for listening in sockets:
        listening.close()


@pytest.mark.parametrize("length", [
    "99999999999999999999", "-5", "ten", "1e3", "0x100", "", "9" * 5_000, "102400, 102400", "\u00b2"])
def test_absurd_lengths_are_refused(serve, tmp_path, length):
    with pytest.raises(UserError, match="(could not be|was not) fetched|plausible"):
        download.fetch(serve(answer(f"Content-Length: {length}")), tmp_path / "file", MD5, len(CONTENT), FAST)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("reply", [
    b"", b"\0" * 100, b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200",
    b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    answer("Transfer-Encoding: chunked", body=b"ZZZ\r\nabc"), answer("Content-Length: 10", body=b"short"),
    answer(status="302 Found", body=b""), answer("Location: file:///etc/passwd", status="302 Found", body=b""),
    answer("Location: ftp://127.0.0.1/file", status="301 Moved", body=b""),
    answer("Location: http://[::1", status="302 Found", body=b""),
    answer("Content-Range: bytes 0-1/2", status="206 Partial Content", body=b"ab"),
    answer("Retry-After: 99999999999999999999", status="503 Busy", body=b""),
    answer("Retry-After: -1", status="429 Too Many", body=b""), answer("Content-Encoding: gzip", body=b"\x1f\x8b\x08"),
])
def test_what_is_no_answer_is_a_sentence(serve, tmp_path, reply):
    started = time.monotonic()
    with pytest.raises(UserError):
        download.fetch(serve(reply), tmp_path / "file", MD5, len(CONTENT), FAST)
    assert time.monotonic() - started < 20 and not (tmp_path / "file").exists()


def drip(text):
    def how(connection):
        for byte in text:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
    return how


@pytest.mark.parametrize("how", [
    drip(b"HTTP/1.1 200 OK\r\n" + b"X-Wait: for me\r\n" * 1_000), drip(b"H" * 10_000), lambda connection: time.sleep(3),
    drip(answer("Content-Length: 102400"))])
def test_a_server_that_only_drips_is_cut_off(serve, tmp_path, how):
    started = time.monotonic()
    with pytest.raises(UserError, match="2 times in a row"):
        download.fetch(serve(how), tmp_path / "file", MD5, len(CONTENT), FAST)
    assert time.monotonic() - started < 15


def test_a_redirect_in_a_circle_ends(serve, tmp_path):
    with pytest.raises(UserError, match="redirect|could not be fetched"):
        download.fetch(serve(answer("Location: /file", status="302 Found", body=b"")), tmp_path / "file", MD5, 0, FAST)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/file", "file:///etc/passwd", "data:text/plain,hello", "/etc/passwd",
                                 "http://[::1/file", "http://a b/file", "http://127.0.0.1:port/file"])
def test_only_http_and_https_are_spoken(tmp_path, url):
    with pytest.raises(UserError, match="could not be fetched"):
        download.fetch(url, tmp_path / "file", MD5, 0, FAST)


def test_a_whole_answer_is_taken(serve, tmp_path):
    download.fetch(serve(answer(f"Content-Length: {len(CONTENT)}")), tmp_path / "file", MD5, len(CONTENT), FAST)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
