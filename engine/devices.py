"""The device of a script, its name in the records, and the message when its memory is too small."""
import contextlib
import ctypes
import platform
import sys

import torch

from utils.io import UserError, memory_error


def choose(name=None):
    """The device called `name` ("cpu", "cuda:1", "mps" …); by default the accelerator if there is one, else the CPU."""
    if name is None:
        device = default_device()
    else:
        try:
            device = torch.device(name)
            torch.ones(1, device=device).item()  # "meta" has no numbers
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def default_device():
    if torch.accelerator.is_available():  # PyTorch 2.6 has no current_accelerator(check_available=True)
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


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
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"cpu ({name}, {torch.get_num_threads()} threads)"


def multiplies_bfloat16(device):
    """Whether the device has matrix units for bfloat16, so that training in it pays: no emulation, no conversion."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # the question is about the current device
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
                return "amx_bf16" in file.read()
        except OSError:
            return False
    return False


def turn_off_tf32():
    """Have this process multiply float32 as float32 on GPUs. By default convolutions keep ten bits of it there."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@contextlib.contextmanager
def side_stream(device):
    """A block whose work on a GPU goes to a stream of its own, as CUDA graphs are not recorded on the default one."""
    if device.type != "cuda":
        yield
        return
    synchronize(device)  # what the default stream has been given is done
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        yield


def synchronize(device):
    """Wait until the device has done what it was given."""
    if device.type == "mps":
        torch.mps.synchronize()  # takes no device
    elif device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def release_memory(device):
    """Give memory that PyTorch keeps for later back to the GPU, whose other processes may need it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()


def rng_state(device):
    """The states of the generators that a step may draw from, to be put back by `restore_rng_state`."""
    state = {"type": device.type, "cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    elif device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def restores_rng_state(state, device):
    """Whether a state was taken on such a device. Generators of another kind have other states."""
    return state.get("type", "cuda" if "device" in state else "cpu") == device.type


def restore_rng_state(state, device):
    torch.set_rng_state(state["cpu"])
    if "device" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    elif "device" in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])


SMALLER_STEPS = ("Reduce the memory of a step: --micro-batch 16 accumulates gradients over parts of a batch (BN then "
                 "sees the parts), and --no-graphs needs less, too. Or run fewer at once (RUNS_PER_GPU), or use "
                 "several GPUs (torchrun). A smaller --batch-size changes the recipe")
FEWER_PROCESSES = "End other processes that use it, or choose another device with --device"
NO_ALGORITHM = "unable to find an engine"  # cuDNN has tried all of them; mostly there was no memory for any
NO_MEMORY = ("out of memory", "ALLOC_FAILED", NO_ALGORITHM)  # of CUDA, MPS, cuBLAS and cuDNN


@contextlib.contextmanager
def explain_out_of_memory(device, advice=SMALLER_STEPS):
    """A block in which running out of memory is a UserError that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error)
        if of_host := memory_error(error):
            raise UserError(f"{of_host}. {advice}") from error
        if not (isinstance(error, torch.OutOfMemoryError) or any(words in text for words in NO_MEMORY)):
            raise
        perhaps = "probably " if NO_ALGORITHM in text else ""
        raise UserError(f"{device} is {perhaps}out of memory ({text.splitlines()[0]}). {advice}") from error
