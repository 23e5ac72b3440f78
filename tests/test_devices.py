"""What a script asks of the machine before it starts."""
import ctypes
import subprocess
import sys

import pytest
from conftest import ROOT

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
