"""Which device a script runs on, and what it is called in the records."""
import platform

import torch

from files import UserError


def choose(name=None):
    """The device called `name` ("cpu", "cuda:1", "mps" …); by default the accelerator if there is one, else the CPU."""
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error


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
