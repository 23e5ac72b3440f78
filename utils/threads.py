"""How many threads a script uses. Import this before torch: OpenMP reads its settings when it is loaded.

Waiting OpenMP threads do not spin, unless the user asks for it (OMP_WAIT_POLICY): on a shared machine spinning makes a
step up to ten times slower. A job of `make -j N` uses its share of the cores, unless OMP_NUM_THREADS says otherwise.
"""
import os
import re

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
jobs = re.search(r"(?:^|\s)-j(\d+)", os.environ.get("MAKEFLAGS", ""))
if jobs and "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // int(jobs[1]))
                                        if hasattr(os, "sched_getaffinity") else 1)
