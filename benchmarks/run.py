"""make bench: ours against a baseline, in the same run on the same machine.

  python benchmarks/run.py                     half an hour on two CPU cores
  QUICK=1 make bench                           a look, in less than five minutes
  python benchmarks/run.py training scoring    some of the benches only
  DEVICE=cuda:1 make bench                     by default the accelerator if there is one

Prints a table of median rates and ratios after each bench, and puts its rows into a file of the machine, in place of
its earlier rows: into benchmarks/results/, or with QUICK into results/bench/, which git ignores. Each row says with
which commit, device and threads it was measured. A ratio is the median over rounds in which ours and the baseline are
timed alternately; its range, and the load of the machine in the file, say how noisy it was.
"""
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
    chosen = sys.argv[1:] or list(BENCHES)
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
