"""Running our scripts without waiting, each time, for PyTorch to be imported.

A server process imports what the scripts need, and nothing of ours; each script then runs in a fork of it, with its own
arguments, folder, environment and outputs. To the script it is a process like any other.
"""
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload([
    "torch", "torchvision", "torchvision.transforms.v2", "pandas", "scipy.io", "scipy.optimize", "sklearn.metrics",
    "sklearn.datasets", "matplotlib", "tabulate", "tqdm", "PIL.Image"])


def run(words, cwd, env=None, timeout=None, input=""):
    """The finished process of `python words…`, its outputs as text; with `-c` the second word is the code."""
    with tempfile.TemporaryDirectory() as folder:
        stdin, *outputs = [Path(folder) / name for name in ("in", "out", "err")]
        stdin.write_text(input)
        env = dict(env or {name: value for name, value in os.environ.items() if name != "COLUMNS"})  # pytest-xdist's
        process = server.Process(target=_inside, args=(words, str(cwd), env, outputs, stdin))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, process.exitcode, *(
            path.read_text(errors="backslashreplace") for path in outputs))


def start(words, cwd, env=None):
    """The started process of `python words…`, its outputs thrown away: for those who want to kill it."""
    process = server.Process(target=_inside, args=(words, str(cwd), dict(env or os.environ), [os.devnull] * 2))
    process.start()
    return process


def _inside(words, cwd, env, outputs, stdin=os.devnull):
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing has put another in its place
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if threads := env.get("OMP_NUM_THREADS"):  # too late for OpenMP to read it
        import torch

        torch.set_num_threads(int(threads))
    code = 1
    try:
        if words[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *words[2:]], ""
            exec(words[1], {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
