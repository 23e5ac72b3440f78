"""What a script asks of the machine before it starts."""
import ctypes
import resource
import sys

import numpy as np
import pytest

from engine import devices


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_kept_for_the_next_allocation():
    """Five times 64 MB, one after the other: by default the kernel clears every page each time; kept, once at most.
    `choose` keeps it on a CPU."""
    def faults(times):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            np.ones(8 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    devices.keep_freed_memory(False)
    by_default = faults(5)
    assert devices.choose("cpu").type == "cpu"
    faults(1)
    assert faults(5) < by_default / 5
