"""make bench: time this repository and a baseline alternately on this machine.

  python benchmarks/run.py                     all benches, half an hour on two CPU cores
  QUICK=1 make bench                           a short form, in less than five minutes
  python benchmarks/run.py training scoring    only these benches
  DEVICE=cuda:1 make bench                     on this device (default: the accelerator if there is one)

Each bench prints a table of median rates and ratios. Its rows replace the earlier ones in the file of this machine, in
benchmarks/results/, or with QUICK in results/bench/, which git ignores. Each row records commit, device and threads. A
ratio is the median over rounds; in each round, both are timed one after the other. The range of the ratios and the load
of the machine show how noisy a measurement was.
"""
import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

from benchmarks import (
    commands,
    evaluation,
    head_loss,
    input_pipeline,
    processes,
    report,
    scoring,
    step_options,
    training,
)
from benchmarks.machine import measure
from engine import devices
from utils.environment import environment
from utils.io import UserError
from utils.script import run_script

BENCHES = {"input": input_pipeline, "head": head_loss, "training": training, "options": step_options,
           "processes": processes, "evaluation": evaluation, "scoring": scoring, "commands": commands}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"{', '.join(BENCHES)} (default: all)")
    chosen = parser.parse_args().benches or list(BENCHES)
    if unknown := [name for name in chosen if name not in BENCHES]:
        raise UserError(f"there is no bench {unknown[0]!r}: choose from {', '.join(BENCHES)}")
    device, quick = devices.choose(os.environ.get("DEVICE")), bool(os.environ.get("QUICK"))
    machine, made_with = measure(device), environment()
    print(f"{machine}\n")
    path = report.path_of(machine, quick)
    for name in chosen:
        started, rows = time.perf_counter(), []
        for row in BENCHES[name].run(machine, device, quick):
            rows.append(report.complete(row, name, machine, made_with))
            if sys.stderr.isatty():  # the table comes at the end
                print(f"{time.perf_counter() - started:5.0f} s  {'  '.join(report.cells(rows[-1])[:4])}",
                      file=sys.stderr)
        print(report.table(rows, "simple", report.TERMINAL_WIDTHS) + "\n")
        report.merge(path, rows, list(BENCHES), machine, made_with)
    print(f"Written to {path} and {path.with_suffix('.json').name}")


if __name__ == "__main__":
    run_script("benchmarks/run.py", main)
