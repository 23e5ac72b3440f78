"""Arrays in .npz files, read with care: what an archive announces is compared with what it holds before it is read."""
import contextlib
import math
import zipfile

import numpy as np

from utils.io import UserError, refuse_endless, system_error


class Damaged(Exception):
    """A file that is not what it was written as; the message is what is wrong."""


def array_headers(path, keys=None):
    """{array: (shape, dtype, CRC-32)} of an .npz file, without reading the arrays; of all arrays, or only of some.

    Damaged when it is no such file, or when a header says more than the file has. FileNotFoundError when it is missing.
    """
    refuse_endless(path)
    headers = {}
    with _damage(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if keys is not None and name not in keys:
                continue
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
                    np.lib.format.read_array_header_2_0)
                shape, _, dtype = read(member)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != info.file_size - member.tell():
                    raise Damaged(f"{info.filename} does not hold the array that its header says")
            headers[name] = shape, dtype, info.CRC
    return headers


def read_arrays(path, *keys):
    """Some arrays of an .npz file; errors as of array_headers. Their checksums are compared on the way."""
    array_headers(path, keys)
    with _damage(path), np.load(path, allow_pickle=False) as content:
        return tuple(content[key] for key in keys)


@contextlib.contextmanager
def _damage(path):
    """A block that reads a file: its errors become Damaged, but for those of the system."""
    try:
        yield
    except (FileNotFoundError, UserError, Damaged):
        raise
    except MemoryError as error:
        raise UserError(f"there is no memory left to read {path}") from error
    except Exception as error:  # zipfile, NumPy and their decompressors raise many kinds
        raise system_error(error, path) or Damaged(str(error) or type(error).__name__) from error
