"""States of networks and trainings as files: whole or absent, and never code."""
import io
import zipfile

import torch
from safetensors.torch import load_file

from utils.io import UserError, memory_error, system_error, write_bytes


def save_state(path, state):
    """A dict of tensors and plain values, written whole."""
    write_bytes(path, as_bytes(state))


def as_bytes(state):
    """What save_state writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def load_state(path):
    """What save_state wrote, or the tensors of a .safetensors file, on the CPU; never runs code from the file.

    FileNotFoundError when it is missing, UserError when it is damaged or cannot be read.
    """
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        check_whole(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # torch raises many kinds, from zip, pickle and its own reader
        raise memory_error(error) or _damaged(path, type(error).__name__) from error
    if not isinstance(state, dict):
        raise _damaged(path, f"it holds a {type(state).__name__}")
    return state


def check_whole(path):
    """Compare the check sums of what save_state wrote: torch's own reader does not. Errors as load_state's."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                raise zipfile.BadZipFile("a checksum is wrong")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise system_error(error, path) or _damaged(path, error) from error


def _damaged(path, why):
    return UserError(f"{path} is damaged ({why}). The other files of the run are untouched: put a good copy there, or "
                     "train again with --fresh")
