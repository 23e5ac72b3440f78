"""Where a publisher's file comes from: a mirror, an archive, or its official address. Nothing unverified passes."""
import hashlib
import http.client
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from files import UserError, written_whole


def find_part(part, archive, mirrors, downloads):
    """The verified bytes of one part from the mirrors or from what was downloaded before, or None.

    UserError when a file is there but its checksum is not the published one.
    """
    for folder in [*mirrors, downloads]:
        for path in (folder / part.path, folder / Path(part.path).name):
            if path.is_file():
                return verified(path, part.md5)
        if archive and (folder / archive.path).is_file():
            return _members(folder / archive.path, archive.md5)[part.path]
    return None


def download(part, downloads):
    """Fetch one file from its official address into `downloads`, whole and verified. UserError when that fails."""
    target = downloads / part.path
    if target.is_file():
        return
    digest = hashlib.md5(usedforsecurity=False)
    try:
        request = urllib.request.Request(part.url, headers={"User-Agent": "dismax-sdde-reproduction"})
        with urllib.request.urlopen(request, timeout=30) as answer, written_whole(target) as file:
            total = int(answer.headers.get("Content-Length", 0)) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=target.name, disable=None) as bar:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
            if digest.hexdigest() != part.md5:  # inside the block: what was fetched is thrown away
                raise UserError(_mismatch(part.url, part.md5, digest.hexdigest()))
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise UserError(f"{part.url} could not be fetched: {getattr(error, 'reason', error)}") from error


def verified(path, md5):
    content = path.read_bytes()
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise UserError(_mismatch(path, md5, actual))
    return content


def _mismatch(where, expected, actual):
    return (f"{where} is cut or altered: its MD5 is {actual}, the publisher's is {expected}. "
            "Remove it and fetch it again; nothing was unpacked")


_archives = {}  # archives are read once: path → member name → bytes


def _members(path, md5):
    if path not in _archives:
        verified(path, md5)
        with tarfile.open(path) as archive:  # read into memory: nothing is ever written outside our own files
            _archives[path] = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    return _archives[path]
