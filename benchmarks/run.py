"""make bench: ours against the ordinary way, in the same run on the same machine.

  python benchmarks/run.py             a minute or two
  QUICK=1 make bench                   half of that

Prints a table of median rates and ratios, and writes it with machine and versions to benchmarks/results/. A ratio is
the median over rounds in which the ways take turns; its range says how noisy the machine was.
"""
import os
import re
import sys
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

import runs
from benchmarks import ensemble_step, head_loss, input_pipeline
from engine import devices
from files import write_text


def main():
    device, quick = devices.choose(os.environ.get("DEVICE")), bool(os.environ.get("QUICK"))
    results = [result for bench in (input_pipeline, head_loss, ensemble_step) for result in bench.run(device, quick)]
    machine = devices.describe(device)
    rows = [[r["what"], f"{r['rates']['ours']:,.0f} {r['unit']}", f"{r['rates'][r['against']]:,.0f} ({r['against']})",
             f"{r['ratio']:.1f}× ({r['ratio_min']:.1f}–{r['ratio_max']:.1f})", f"≥ {r['target']}×"] for r in results]
    headers = ["", "ours", "the ordinary way", "ratio: median (range)", "target"]
    print(f"{machine}\n\n{tabulate(rows, headers, disable_numparse=True)}")
    name = re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")
    path = Path(__file__).parent / "results" / f"{name}.json"
    environment = {key: value for key, value in runs.environment().items() if key != "uncommitted_changes"}
    runs.write_json(path, {"machine": machine, "quick": quick, **environment, "results": results})
    write_text(path.with_suffix(".md"), f"# {machine}, torch {environment['torch']}\n\n"
               + tabulate(rows, headers, tablefmt="github", disable_numparse=True) + "\n")
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main()
