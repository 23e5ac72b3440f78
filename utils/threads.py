"""The number of threads of a script. Import this before torch: OpenMP reads its settings when it is loaded.

Waiting OpenMP threads do not spin, unless the user asks for it (OMP_WAIT_POLICY): on a shared machine spinning makes a
step up to ten times slower. A job of `make -j N` uses its share of the cores, unless OMP_NUM_THREADS says otherwise.
"""
import os
import re
import signal
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
SCRIPTS = ("train.py", "evaluate.py", "detect.py", "analyze.py", "export.py", "prepare.py", "openood.py",
           "corruptions.py")
jobs = re.search(r"(?:^|\s)-j([1-9]\d{0,8})", os.environ.get("MAKEFLAGS", ""))
if jobs and "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // int(jobs[1]))
                                        if hasattr(os, "sched_getaffinity") else 1)

# Until the script is under way Ctrl-C ends it at once, without a traceback from somewhere in an import.
_main = os.path.basename(getattr(sys.modules["__main__"], "__file__", None) or "")
if _main in SCRIPTS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
