"""What a script asks of the machine before it starts."""
import contextlib
import ctypes
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_like

from data.datasets import CATALOG
from engine import devices, train_step
from engine.build import build_model, build_training_loss
from utils.io import UserError

MEASURED = """
import resource
import numpy as np
from engine import devices

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

by_default = faults(5)
assert devices.choose("cpu").type == "cpu"
faults(1)
print(by_default, faults(5))
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_kept_for_the_next_allocation():
    """Five times 64 MB, one after the other: by default the kernel clears every page each time; kept, once at most.
    `choose` keeps it on a CPU. In a process of its own, whose heap no other test has left anything in."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_default, kept = map(int, done.stdout.split())
    assert by_default >= 5 * 32, "64 MB are 32 huge pages, or 16,384 small ones"
    assert kept < by_default / 5


def test_gradients_are_compiled_or_refused_in_words(monkeypatch):
    """PyTorch 2.6 can compile a loss, but not one that differentiates inside."""
    monkeypatch.setattr(train_step, "can_compile_gradients", lambda: False)
    for method, refused in (("de-2-gradcam", True), ("de-2-ncl", False), ("dismax", False)):
        run = run_like(method)
        loss = build_training_loss(build_model(run, CATALOG["digits"].classes), run)
        if refused:
            with pytest.raises(UserError, match="--compile: PyTorch .* cannot compile .*Leave out --compile"):
                train_step.compile_loss(loss)
        else:
            train_step.compile_loss(loss)


class Cuda:
    """Stands in for torch.cuda, whose current device is 0: `calls` says which device each call was about."""

    def __init__(self, monkeypatch):
        self.calls, self.current = [], 0
        for name in ("synchronize", "get_rng_state", "get_device_name"):
            monkeypatch.setattr(torch.cuda, name, lambda device=None, name=name: self.note(name, device))
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device=None: self.note("set_rng_state", device))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: self.note("empty_cache"))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: self.note(
            "emulated" if including_emulation else "native"))
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: self.note("Stream", device))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def note(self, name, device=None):
        self.calls.append((name, self.current if device is None else device.index))
        return name

    @contextlib.contextmanager
    def device(self, device):
        before, self.current = self.current, device.index
        yield
        self.current = before


def test_every_call_is_about_the_chosen_gpu(monkeypatch):
    cuda, second = Cuda(monkeypatch), torch.device("cuda", 1)
    devices.synchronize(second)
    devices.release_memory(second)
    devices.multiplies_bfloat16(second)
    devices.describe(second)
    devices.restore_rng_state(devices.rng_state(second), second)
    assert cuda.calls == [(name, 1) for name in (
        "synchronize", "empty_cache", "native", "get_device_name", "get_rng_state", "set_rng_state")]
    with devices.side_stream(second):
        assert cuda.current == 1, "where a step asks for the current stream"
    assert cuda.calls[-2:] == [("synchronize", 1), ("Stream", 1)] and cuda.current == 0
