"""What a script asks of the machine before it starts."""
import ctypes
import subprocess
import sys

import pytest
from conftest import ROOT, run_like

from data.datasets import CATALOG
from engine import train_step
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
