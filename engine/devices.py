"""Which device a script runs on, and what it is called in the records."""
import ctypes
import platform
import sys

import torch

from utils.io import UserError


def choose(name=None):
    """The device called `name` ("cpu", "cuda:1", "mps" …); by default the accelerator if there is one, else the CPU."""
    if name is None:
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    else:
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory(keep=True):
    """Have this process keep memory that it frees, for what it needs next (glibc only; elsewhere nothing happens).

    By default blocks of more than 32 MB go back to the kernel at once and what lies free at the heap's end soon, and
    the kernel clears every page again when it is next asked for: a sixth of a DenseNet's step. The most memory that a
    process ever has stays the same. `keep` False: the default again, but for a threshold that no longer moves.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # malloc.h
        libc.mallopt(mmap_threshold, 32 << 20)  # the highest that glibc goes by itself
        libc.mallopt(mmap_max, 0 if keep else 65536)
        libc.mallopt(trim_threshold, 2**31 - 1 if keep else 64 << 20)


def describe(device):
    """For instance "NVIDIA H200" or "cpu (AMD EPYC, 2 threads)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"cpu ({name}, {torch.get_num_threads()} threads)"


def random_state(device):
    """The states of the generators that a step may draw from, to be put back by `restore_random_state`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    elif device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def restore_random_state(state, device):
    torch.set_rng_state(state["cpu"])
    if "device" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    elif "device" in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])
