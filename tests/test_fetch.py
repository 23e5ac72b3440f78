"""Downloads from a real server on loopback that cuts, stalls, forgets ranges and lies; and mirrors with an address."""
import contextlib
import http.server
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import md5

import numpy as np
import pytest
from conftest import ROOT, put
from test_prepare import cifar_batches

from data import prepare, splits
from data.sources import download
from data.sources.registry import SOURCES
from utils.io import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = md5(CONTENT).hexdigest()
RETRY = download.RetryPolicy(timeout=5, tries=3, pause=0.01)  # a busy machine is not a stalled server


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path → bytes), with Range. `faults`: path → what goes wrong in each request, in turn.

    cut: breaks off half-way; stall: falls silent half-way; trickle: a byte now and then; forget: ignores Range; wrong:
    other bytes; shifted: another part than was asked for; endless: more and more; a number: that status.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked, self.types = {}, {}, [], {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.stopped = threading.Event()

    def handle_error(self, *_):
        pass  # clients that have given up


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        faults = server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else ""
        content = server.files.get(self.path)
        if content is None or isinstance(fault, int):
            self.send_response(404 if content is None else fault)
            self.send_header("Retry-After", "0")
            return self.end_headers()
        start = int(wanted[6:-1]) if wanted and "forget" not in fault else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            shown = start + 7 if fault == "shifted" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        if fault != "endless":
            self.send_header("Content-Length", 10**15 if fault == "huge" else len(content) - start)
        self.send_header("Content-Type", server.types.get(self.path, "application/octet-stream"))
        self.end_headers()
        body = content[start:] if fault != "wrong" else bytes(len(content) - start)
        if "cut" in fault or fault == "stall":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                server.stopped.wait(20)
            return self.connection.close()
        if fault == "trickle":
            for byte in body[:200]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if server.stopped.wait(0.05):
                    return None
        while fault == "endless" and not server.stopped.is_set():
            self.wfile.write(bytes(1 << 20))
        return self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "RETRY", RETRY)
    server = Server()
    server.files["/file"] = CONTENT
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


def get(server, folder, path="/file"):
    download.fetch(server.url + path, folder / "file", MD5, len(CONTENT))
    return (folder / "file").read_bytes()


def left(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_a_cut_download_goes_on_where_it_was(server, tmp_path):
    server.faults["/file"] = ["cut", "cut"]
    assert get(server, tmp_path) == CONTENT and left(tmp_path) == ["file"]
    assert server.asked == [("/file", None), ("/file", "bytes=150000-"), ("/file", "bytes=225000-")]
    get(server, tmp_path)
    assert len(server.asked) == 3, "what is there is not asked for again"


def test_silence_and_trickles_are_cut_short(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRY", replace(RETRY, timeout=0.3))
    server.faults["/file"] = ["stall", "trickle"]
    start = time.monotonic()
    assert get(server, tmp_path) == CONTENT
    assert 0.6 < time.monotonic() - start < 20
    assert server.asked[1] == ("/file", "bytes=150000-") and int(server.asked[2][1][6:-1]) < 150_100


def test_a_server_that_ignores_ranges_starts_over(server, tmp_path):
    server.faults["/file"] = ["cut", "forget"]
    assert get(server, tmp_path) == CONTENT and len(server.asked) == 2


def test_a_server_that_sends_another_range_is_not_believed(server, tmp_path):
    server.faults["/file"] = ["cut", "shifted"]
    assert get(server, tmp_path) == CONTENT and server.asked[-1] == ("/file", None)


def test_a_part_of_an_earlier_process_is_used_or_replaced(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert get(server, tmp_path) == CONTENT and server.asked == [("/file", "bytes=1000-")]
    for stale in (b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)):  # of another version of the file
        (tmp_path / "file").unlink()
        (tmp_path / "file.part").write_bytes(stale)
        assert get(server, tmp_path) == CONTENT and left(tmp_path) == ["file"]
    (tmp_path / "file").unlink()
    (tmp_path / "file.part").write_bytes(CONTENT)  # killed between the last byte and the check
    assert get(server, tmp_path) == CONTENT


def test_wrong_bytes_are_named_with_both_checksums_and_not_kept(server, tmp_path):
    server.faults["/file"] = ["wrong", "wrong", "wrong"]
    with pytest.raises(UserError, match=f"MD5 is {md5(bytes(len(CONTENT))).hexdigest()}, the official one is {MD5}"):
        get(server, tmp_path)
    assert not left(tmp_path) and len(server.asked) == 1
    server.faults["/file"] = ["cut", "wrong", "cut", "wrong"]  # once more from the beginning, then no more
    server.asked.clear()
    with pytest.raises(UserError, match="is incomplete or altered"):
        get(server, tmp_path)
    assert not left(tmp_path) and [r for _, r in server.asked] == [None, "bytes=150000-", None, "bytes=150000-"]


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_instead_of_the_file_is_called_that(server, tmp_path, kind):
    server.files["/file"], server.types["/file"] = b"\n <!DOCTYPE html><html>Sign in</html>", kind
    with pytest.raises(UserError, match="web page instead of the file: the file has moved, needs a login"):
        get(server, tmp_path)
    assert len(server.asked) == 1 and not left(tmp_path)
    server.files["/file"], server.types = CONTENT, {}
    assert get(server, tmp_path) == CONTENT


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(server, tmp_path):
    server.faults["/file"] = [503, 429]
    assert get(server, tmp_path) == CONTENT and len(server.asked) == 3
    for path, kind in (("/absent", download.Absent), ("/forbidden", UserError)):
        server.files["/forbidden"], server.faults["/forbidden"], server.asked = b"", [403], []
        with pytest.raises(kind, match="could not be fetched: 40"):
            get(server, tmp_path / "other", path)
        assert len(server.asked) == 1
    server.faults["/file"] = [500] * 9
    server.asked.clear()
    with pytest.raises(UserError, match="500 Internal Server Error, 3 times in a row"):
        get(server, tmp_path / "third")
    assert len(server.asked) == 3


def test_giving_up_keeps_what_has_come(server, tmp_path):
    server.faults["/file"] = ["cut", "forget cut", "forget cut", "forget cut"]
    with pytest.raises(UserError, match="150,000 bytes are kept: the same command continues from there"):
        get(server, tmp_path)
    assert left(tmp_path) == ["file.part"]
    assert get(server, tmp_path) == CONTENT and server.asked[-1] == ("/file", "bytes=150000-")


def test_more_than_the_file_can_have_is_stopped(server, tmp_path):
    server.faults["/file"] = ["endless"]
    with pytest.raises(UserError, match="sends more than 1,648,576 bytes"):
        get(server, tmp_path)
    server.faults["/file"] = ["huge"]
    with pytest.raises(UserError, match="1,000,000,000,000,000 bytes long there, the official file has 300,000"):
        get(server, tmp_path)
    assert not left(tmp_path)


def test_nobody_there_is_found_out_at_once(tmp_path):
    start = time.monotonic()
    for url, reason in (("http://127.0.0.1:9/file", "refused"), ("http://no-host.invalid/file", "cannot be reached"),
                        ("http://no-host.invalid/other", "no-host.invalid cannot be reached")):
        with pytest.raises(UserError, match=reason):
            download.fetch(url, tmp_path / "file", MD5)
    assert time.monotonic() - start < 5 and not left(tmp_path)


def test_two_at_once_fetch_a_file_once(server, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for round in range(10):
            got = pool.map(lambda _, folder=tmp_path / str(round): get(server, folder), range(8))
            assert set(got) == {CONTENT} and len(server.asked) == round + 1
    assert left(tmp_path) == ["file"] * 10


# ---- with prepare ----

def test_prepare_downloads_verifies_and_keeps_the_archive(server, tmp_path, official, monkeypatch, capsys):
    images, _, files = cifar_batches()
    archive = official("cifar10", files)[SOURCES["cifar10"].archive.path]
    server.files["/good"], server.faults["/good"] = archive, ["cut"]
    monkeypatch.setitem(SOURCES, "cifar10", replace(
        SOURCES["cifar10"], archive=replace(SOURCES["cifar10"].archive, url=f"{server.url}/good")))
    assert prepare.prepare("cifar10", tmp_path, [])
    assert np.array_equal(splits.read_split("cifar10", "test", tmp_path)[0], images[50:])
    assert [p for p, _ in server.asked] == ["/good", "/good"], "one file for both splits"
    assert (tmp_path / "downloads/cifar-10-python.tar.gz").read_bytes() == archive
    server.files.clear()
    assert prepare.prepare("cifar10", tmp_path, [], fresh=True), "made again from what was downloaded"
    (tmp_path / "downloads/cifar-10-python.tar.gz").write_bytes(archive[:-1])
    server.files["/good"] = archive
    assert prepare.prepare("cifar10", tmp_path, [], fresh=True), "a damaged download is fetched again"
    assert "official files, MD5 verified" in capsys.readouterr().out


def test_mirrors_with_an_address_are_tried_in_order(server, tmp_path, official, capsys):
    _, _, files = cifar_batches()
    contents = official("cifar10", files)
    archive = SOURCES["cifar10"].archive
    server.files[f"/first/{archive.path}"] = b"something else"
    server.files[f"/third/cifar10/{archive.path}"] = contents[archive.path]
    mirrors = [f"{server.url}/{name}" for name in ("first", "second/", "third")]
    assert prepare.prepare("cifar10", tmp_path / "data", mirrors)
    assert [p.split("/")[1] for p, _ in server.asked] == ["first", "first", "second", "second", "third", "third"]
    server.files.clear()
    assert not prepare.prepare("cifar10", tmp_path / "other", mirrors)
    said = capsys.readouterr().out
    assert "http://127.0.0.1:9/nothing could not be fetched" in said and "404" not in said
    put(tmp_path / "folder", contents, archive.path)
    server.asked.clear()
    assert prepare.prepare("cifar10", tmp_path / "fourth", [*mirrors, tmp_path / "folder"])
    assert not server.asked, "folders come first"


def test_sets_side_by_side(server, tmp_path, official, monkeypatch, capsys):
    """--jobs: each set is whole, and one that fails does not hold up the others."""
    for name, label_key in (("cifar10", b"labels"), ("cifar100", b"fine_labels")):
        files = cifar_batches(label_key)[2]
        archive = official(name, {"train": files["train"][:len(SOURCES[name].parts["train"])], "test": files["test"]})
        server.files[f"/{SOURCES[name].archive.path}"] = archive[SOURCES[name].archive.path]
    words = ["prepare.py", "cifar10", "cifar100", "svhn", "digits", "--jobs", "4", "--mirror", server.url, "--data-dir",
             str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    with contextlib.suppress(SystemExit):
        prepare.main()
    said = capsys.readouterr().out
    assert "Not complete: svhn. Everything else works" in said and "246 MB, https://ufldl" in said
    assert all(splits.available(name, "test", tmp_path) for name in ("cifar10", "cifar100", "digits"))


def test_ctrl_c_stops_at_once_and_the_next_call_goes_on(server, tmp_path):
    """With the patience of real life, and a server that has fallen silent."""
    server.files["/train_32x32.mat"], server.faults["/train_32x32.mat"] = CONTENT, ["stall"]
    words = [sys.executable, ROOT / "data/prepare.py", "svhn", "--mirror", server.url, "--data-dir", tmp_path]
    running = subprocess.Popen(  # a job in the background, as these tests may be, ignores Ctrl-C
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    part = tmp_path / "downloads/train_32x32.mat.part"
    for _ in range(1200):
        if part.exists() and part.stat().st_size == 150_000:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20)  # less than the patience, much for a busy machine
    assert running.returncode == 130 and "Stopped. Downloads are kept" in said and "Traceback" not in said
    assert part.stat().st_size == 150_000
    download.fetch(f"{server.url}/train_32x32.mat", part.with_suffix(""), MD5)
    assert server.asked[-1] == ("/train_32x32.mat", "bytes=150000-")
