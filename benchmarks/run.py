"""make bench: ours against the ordinary way, in the same run on the same machine.

  python benchmarks/run.py                     a quarter of an hour on two CPU cores
  QUICK=1 make bench                           a look, in less than three minutes
  python benchmarks/run.py training scoring    some of the benches only; nothing is written then

Prints a table of median rates and ratios, and writes it with machine and versions to benchmarks/results/ (git-ignored
when QUICK). A ratio is the median over rounds in which the ways take turns; its range says how noisy the machine was.
"""
import os
import re
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

from benchmarks import evaluation, head_loss, input_pipeline, scoring, training
from benchmarks.machine import matrix_rate
from engine import devices
from utils import run_dir
from utils.io import write_text

BENCHES = {"input": input_pipeline, "head": head_loss, "training": training, "evaluation": evaluation,
           "scoring": scoring}
HEADERS = ["", "ours", "the ordinary way", "ratio: median (range)", "target", "of the matrix rate"]


def main():
    chosen = sys.argv[1:] or list(BENCHES)
    if unknown := [name for name in chosen if name not in BENCHES]:
        sys.exit(f"benchmarks/run.py: there is no bench {unknown[0]!r}: choose from {', '.join(BENCHES)}")
    device, quick = devices.choose(os.environ.get("DEVICE")), bool(os.environ.get("QUICK"))
    machine, started = devices.describe(device), time.perf_counter()
    peaks = {name: matrix_rate(device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    speeds = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in peaks.items())
    print(f"{machine}; large matrix products: {speeds}\n")
    results = []
    for name in chosen:
        for result in BENCHES[name].run(device, quick):
            if result.get("flops"):
                peak = peaks["bfloat16" if result["bf16"] or device.type == "cuda" else "float32"]
                result["share"] = result["rates"]["ours"] * result["flops"] / peak
            results.append(result)
            if sys.stderr.isatty():  # the table comes at the end
                print(f"{time.perf_counter() - started:5.0f} s  {'  '.join(row(result)[:4])}", file=sys.stderr)
    rows = [row(result) for result in results]
    print(tabulate(rows, HEADERS, disable_numparse=True))
    if len(chosen) < len(BENCHES):
        return
    name = "quick-" * quick + re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")
    path = Path(__file__).parent / "results" / f"{name}.json"
    environment = {key: value for key, value in run_dir.environment().items() if key != "uncommitted_changes"}
    run_dir.write_json(path, {"machine": machine, "quick": quick, **environment, "matrix_rates": peaks,
                           "seconds": round(time.perf_counter() - started), "results": results})
    write_text(path.with_suffix(".md"), f"# {machine}, torch {environment['torch']}; {speeds}\n\n"
               + tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True) + "\n")
    print(f"\nWritten to {path}")


def row(result):
    if "not_measured" in result:
        return [result["what"], f"not measured: {result['not_measured']}", "", "", "", ""]
    ours, theirs = (result["rates"][name] for name in ("ours", result["against"]))
    return [result["what"], f"{in_short(ours)} {result['unit']}", f"{in_short(theirs)} ({result['against']})",
            f"{result['ratio']:.1f}× ({result['ratio_min']:.1f}–{result['ratio_max']:.1f})",
            f"≥ {result['target']}×" if result["target"] else "", f"{result['share']:.0%}" if "share" in result else ""]


def in_short(rate):
    return f"{rate:,.0f}" if rate >= 20 else f"{rate:.3g}"


if __name__ == "__main__":
    main()
