"""The state of networks and trainings in files, written completely or not at all, and read without running code."""
import hashlib
import io
import zipfile

import torch
from safetensors.torch import load_file

from utils.io import UserError, memory_error, refuse_endless, system_error, write_bytes

FOLDER = 0x10  # in the attributes of a zip's member


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
    refuse_endless(path)
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
            if any(info.external_attr & FOLDER for info in archive.infolist()):  # torch would read it from nowhere
                raise zipfile.BadZipFile("an array is called a folder")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise system_error(error, path) or _damaged(path, error) from error


def check_finite(model, file):
    """UserError when a parameter or BN statistic of a model, whose weights came from a file, is NaN or infinite."""
    batch_norm = {name: buffer for name, buffer in model.named_buffers() if "running_" in name}
    for name, tensor in {**dict(model.named_parameters()), **batch_norm}.items():
        if not tensor.isfinite().all():
            raise UserError(f"{file} is of no use: {name} holds NaN or infinity. Train the run again with --fresh, or "
                            "put a good copy there")


def outline(state):
    """The SHA-256 of all that a state holds but for the numbers in its tensors, which the file's check sums cover."""
    def parts(value):
        if torch.is_tensor(value):
            yield f"{value.dtype} {value.layout} {tuple(value.shape)}"
        elif isinstance(value, dict | list | tuple):
            yield f"{type(value).__name__} {len(value)}"
            for inner in (*value, *value.values()) if isinstance(value, dict) else value:
                yield from parts(inner)
        else:
            yield f"{type(value).__name__} {value!r}"

    return hashlib.sha256("\0".join(parts(state)).encode()).hexdigest()


def _damaged(path, why):
    return UserError(f"{path} is damaged ({why}). The other files of the run are untouched: put a good copy there, or "
                     "train again with --fresh")
