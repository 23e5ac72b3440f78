"""make gpu-check: is everything correct on this GPU, and how fast is it? Ten minutes; the result is one file.

  python benchmarks/gpu_check.py               on the accelerator that PyTorch finds
  DEVICE=cuda:1 python benchmarks/gpu_check.py
  python benchmarks/gpu_check.py step tests    only the parts whose names begin so

First the forms of the training step (eager, recorded, compiled) and of evaluation are compared with each other, and the
tests that need a GPU run, several parts at once where memory and cores allow it. Then quick benches run, one after the
other. Each part runs in its own process, so a crash does not stop the others. Parts that do not fit into ten minutes
are named; the same command, with the same commit and libraries, then runs only those. The file is complete after every
part.
"""
import argparse
import concurrent.futures
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

import torch

from benchmarks import forms, machine, processes, report, run
from engine import devices
from utils.environment import environment
from utils import run_dir
from utils.io import UserError
from utils.script import run_script

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # for everything
GRACE_SECONDS = 5
LARGEST_PART = 12e9  # bytes of the device's memory, rounded up: an eager step of WideResNet-28-10 in float32
# a part → the most seconds that it may take. Parts that are compared come first, the longest of them before all; alone
# each took 16 to 85 s, and several take turns on the card
PARTS = {
    "step with --compile: ResNet34": 200, "tests": 200, **{f"step: {title}": 180 for title in forms.CASES},
    "evaluation": 150, "bench: processes": 150, "bench: training": 120, "bench: options": 150, "bench: evaluation": 100,
    "bench: head": 60, "bench: input": 60,
}
TESTS = ["tests/test_cuda_graph.py", "tests/test_fast.py", "tests/test_losses.py", "tests/test_train.py",
         "-k", "on_a_gpu or the_tensors_device"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[""], help="how names of parts begin (default: all parts)")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for everything (default {SECONDS})")
    parser.add_argument("--part", choices=PARTS, metavar="PART",
                        help=f"run only this part and print its results as JSON lines: {'; '.join(PARTS)}")
    args = parser.parse_args()
    device = devices.choose(os.environ.get("DEVICE"))
    if args.part:
        for line in results_of(args.part, device):
            print(json.dumps(line), flush=True)
        return
    if device.type == "cpu":
        raise UserError(f"there is no GPU here that PyTorch {torch.__version__} can use, so nothing was checked")
    chosen = {name: limit for name, limit in PARTS.items() if name.startswith(tuple(args.parts))}
    if not chosen:
        raise UserError(f"no part begins with {' or '.join(args.parts)}: choose from {'; '.join(PARTS)}")
    sys.exit(run_parts(device, chosen, args.seconds))


def run_parts(device, parts, seconds):
    """Run the parts that an earlier check has not found to be right; returns the exit status, 1 when one failed."""
    path = ROOT / "results" / f"gpu-check-{report.slug(machine.short_name(device))}.json"
    content = {**environment(), **about(device), "parts": []}
    content["parts"] = earlier = [part for part in earlier_parts(path, content) if part["part"] not in parts or
                                  part["status"] == "ok"]
    print(f"{machine.short_name(device)}, PyTorch {torch.__version__}: about {seconds / 60:.0f} minutes at most" +
          (f"; {len(earlier)} parts are in {path.relative_to(ROOT)} already" if earlier else ""))
    ends, done = time.monotonic() + seconds, {part["part"] for part in earlier}
    missing = {name: limit for name, limit in parts.items() if name not in done}
    compared, timed = ([name for name in missing if is_bench(name) is bench] for bench in (False, True))
    for part in itertools.chain(
            results_in_order(compared, missing, ends, at_once(free_memory(device)), device),
            results_in_order(timed, missing, ends, 1, device)):
        content["parts"].append(part)
        print(f"{part['status']:<12} {part['part']}" + f": {part['reason']}" * bool(part["reason"]), flush=True)
        run_dir.write_json(path, content)
    rows = [line for part in content["parts"] if is_bench(part["part"]) for line in part.get("lines", [])]
    if rows:
        print(f"\n{report.table(rows, 'simple', report.TERMINAL_WIDTHS)}\n")
    failed, unchecked = ([part["part"] for part in content["parts"] if part["status"] == status]
                         for status in ("failed", "not checked"))
    print(f"{len(failed)} of {len(parts)} parts failed" + (f": {'; '.join(failed)}" if failed else "") +
          (f". Not checked for lack of time: {'; '.join(unchecked)}" if unchecked else "") +
          f".\nPlease send {path.relative_to(ROOT)} back, as a file of an issue of this repository")
    return int(bool(failed))


def is_bench(name):
    return name.startswith("bench")


def free_memory(device):
    """Bytes of the device's memory that nobody uses; 0 where it does not say."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def at_once(memory):
    """How many parts that are not timed may run at the same time."""
    return int(max(1, min(memory // LARGEST_PART, cores() // 2)))


def cores():
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def results_in_order(names, limits, ends, count, device):
    """Yields the result of each part, in order. `count` of them run at once, each for so many seconds at most."""
    def result(name):
        left = ends - time.monotonic()
        if left <= 5:
            return {"part": name, "status": "not checked", "reason": "the time was over"}
        return run_part(name, min(limits[name], left), device)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        try:
            yield from pool.map(result, names)
        except BaseException:  # Ctrl-C too: do not wait for the others
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(RUNNING):
                kill_all(process)
            raise


def earlier_parts(path, content):
    """The parts in the file of an earlier check of the same commit, libraries and card."""
    try:
        earlier = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    same = {**earlier, "parts": []} == json.loads(json.dumps(content))
    return earlier["parts"] if same else []


def about(device):
    """What the file says of the machine."""
    found = {"device": machine.short_name(device), "device_type": device.type, "cpu_threads": torch.get_num_threads(),
             "multiplies_bfloat16": devices.multiplies_bfloat16(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"capability": f"{properties.major}.{properties.minor}", "memory": properties.total_memory,
                  "multiprocessors": properties.multi_processor_count, "devices": torch.cuda.device_count(),
                  "cuda": torch.version.cuda, "hip": torch.version.hip, "cudnn": torch.backends.cudnn.version()}
    return found


# ---- a part, seen from outside ----

RUNNING = set()  # processes


def run_part(name, seconds, device):
    """{part, status, reason, seconds, lines} of a part in a process of its own. status: ok, failed or not checked."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *TESTS] if name == "tests" else [
        sys.executable, str(Path(__file__)), "--part", name]
    started, environ = time.monotonic(), dict(os.environ)
    if name == "tests" and device.type == "cuda":  # which use the first GPU that they see
        environ["CUDA_VISIBLE_DEVICES"] = processes.visible_name(device)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                                   start_new_session=True, env=environ)
        RUNNING.add(process)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            kill_all(process)
            RUNNING.discard(process)
        out.seek(0), errors.seek(0)
        printed, complaints = out.read().splitlines(), errors.read().splitlines()
    lines = [json.loads(line) for line in printed if line.startswith("{") and line.endswith("}")]
    wrong = [line["wrong"] for line in lines if line.get("wrong")]
    last = next((line for line in reversed(printed if name == "tests" else complaints) if line.strip()), "")
    verdict, reason = "ok", ""
    if wrong:
        verdict, reason = "failed", "; ".join(wrong)
    elif status is None:
        verdict, reason = "not checked", f"not done after {seconds:.0f} s"
    elif status:
        verdict, reason = "failed", last.strip() or f"exit status {status}"
    if name == "tests" and status is not None:
        lines = [{"pytest": line} for line in printed if line.startswith(("FAILED", "ERROR", "E  "))]
        lines, reason = [*lines, {"pytest": last}], last
    return {"part": name, "status": verdict, "reason": reason, "seconds": round(time.monotonic() - started, 1),
            "lines": lines, "errors": complaints[-20:] if status else []}


def kill_all(process):
    """End a process and everything that it started. They are asked first: on_free_gpu.sh then stops MPS."""
    with contextlib.suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGTERM)
        ends = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < ends:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# ---- a part, from inside ----

def results_of(part, device):
    """The results of a part, dicts; `wrong` says what is wrong, if anything."""
    kind, _, title = part.partition(": ")
    if kind == "evaluation":
        yield forms.check_evaluation(device)
    elif kind == "bench":
        measured, made_with = machine.measure(device), environment()
        for row in run.BENCHES[title].run(measured, device, quick=True):
            yield report.complete(row, title, measured, made_with)
    else:
        devices.turn_off_tf32()  # with it, two algorithms of cuDNN differ by more than a fault would
        yield from forms.check_step(forms.CASES[title], device, compiled="--compile" in kind)


if __name__ == "__main__":
    run_script("make gpu-check", main)
