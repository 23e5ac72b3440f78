"""data/<name>/manifest.json: what prepare.py wrote there, read back with care; and arrays in .npz files likewise.

  {"name": …, "splits": {split: record}, "dataset": {…} for sets of the user's own}
  record: images (how many), source, verified, sha256, files {file: {bytes, sha256, crc32 {array: CRC}}},
          folder {images, linked, sha256}, left_out [name]
"""
import json
import math
import zipfile

import numpy as np

from utils.io import UserError, system_error

FILE = "manifest.json"
BROKEN = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, NotImplementedError)


class Damaged(Exception):
    """A file that is not what it was written as; the message is what is wrong."""


def read_manifest(folder):
    """The content of a folder's manifest. FileNotFoundError when there is none, UserError when it is another file."""
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise system_error(error, path) or UserError(f"{path} is damaged ({error})") from error
    if problem := _problem(content):
        raise UserError(f"{path} is not a manifest of prepare.py ({problem})")
    return content


def _problem(content):
    """What is wrong with a manifest, or ""."""
    if not isinstance(content, dict) or not isinstance(content.get("splits"), dict):
        return "it has no splits"
    if not isinstance(content.get("dataset", {}), dict):
        return "its dataset is invalid"
    for split, record in content["splits"].items():
        if not isinstance(record, dict) or not isinstance(record.get("files", {}), dict):
            return f"the record of {split} is invalid"
        if not isinstance(record.get("images", 0), int) or not isinstance(record.get("left_out", []), list):
            return f"the record of {split} has no number of images"
        if not isinstance(record.get("folder", {}), dict):
            return f"the folder of {split} is invalid"
        for file, kept in record.get("files", {}).items():
            if "/" in file or not isinstance(kept, dict) or not isinstance(kept.get("bytes"), int):
                return f"the record of {file} is invalid"
    return ""


# ---- arrays ----

def array_headers(path):
    """{array: (shape, dtype, CRC-32)} of an .npz file, without reading the arrays.

    Damaged when it is no such file, or when a header says more than the file has. FileNotFoundError when it is missing.
    """
    headers = {}
    with _damage(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
                    np.lib.format.read_array_header_2_0)
                shape, _, dtype = read(member)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != info.file_size - member.tell():
                    raise Damaged(f"{info.filename} does not hold the array that its header says")
            headers[info.filename.removesuffix(".npy")] = shape, dtype, info.CRC
    return headers


def read_arrays(path, *keys):
    """Some arrays of an .npz file; errors as of array_headers. Their checksums are compared on the way."""
    array_headers(path)
    with _damage(path), np.load(path, allow_pickle=False) as content:
        return tuple(content[key] for key in keys)


class _damage:
    """A block that reads a file: its errors become Damaged, but for those of the system."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or isinstance(error, FileNotFoundError | Damaged):
            return
        if found := system_error(error, self.path):
            raise found from error
        if isinstance(error, MemoryError):
            raise UserError(f"there is no memory left to read {self.path}") from error
        if isinstance(error, BROKEN):
            raise Damaged(str(error) or type(error).__name__) from error
