"""States of networks and trainings as files: whole or absent, and never code."""
import io
import zipfile

import torch

from utils.io import UserError, atomic_write


def save_state(path, state):
    """A dict of tensors and plain values, written whole."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_state(path):
    """What save_state wrote, on the CPU; never runs code from the file. UserError when it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch's own reader does not look at the check sums
            if archive.testzip():
                raise zipfile.BadZipFile
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds, from zip, pickle and its own reader
        raise UserError(f"{path} is damaged ({type(error).__name__}). The other files of the run are untouched: "
                        f"put a good copy there, or train again with --fresh") from error
