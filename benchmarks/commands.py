"""The time of whole commands: the first call, and a call when nothing is left to do."""
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recipes import METHODS
from utils import run_dir

ROOT = Path(__file__).resolve().parents[1]
FIRST = "the first time"
# whether a run is an ensemble → the run whose metrics made-up ones have
TEMPLATES = {members > 1: ROOT / f"results/reference/digits/lenet/{method}/seed1"
             for method, members in (("softmax", 1), ("de", 5))}


def run(machine, device, quick):
    if not shutil.which("make"):
        yield {"what": "make demo", "not_measured": "needs make"}
        return
    rounds = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        data, results = Path(folder, "data"), Path(folder, "results")
        narrowed = ["METHODS=dismax_fpr de", "SEEDS=1"] if quick else []
        demo = ["make", "demo", f"PY={sys.executable}", f"DATA={data}", f"RESULTS={results}", "EPOCHS=1", *narrowed]
        first = seconds_of(demo)
        runs = run_dir.find_runs(results)
        yield row(f"make demo again, {len(runs)} finished runs", [seconds_of(demo) for _ in range(rounds)], first)

        evaluated = runs[-1]
        for name in ("logits", "logits_best"):
            shutil.rmtree(evaluated / name, ignore_errors=True)
        evaluate = [sys.executable, "evaluate.py", str(evaluated), "--data-dir", str(data), "--device", "cpu"]
        first = seconds_of(evaluate)
        yield row("evaluate.py again, a run on digits", [seconds_of(evaluate) for _ in range(rounds)], first)

        count = 35 if quick else 350
        made_up = Path(folder, "made_up")
        copy_runs(TEMPLATES, made_up, count)
        analyze = [sys.executable, "analyze.py", "--results-dir", str(made_up)]
        yield row(f"analyze.py, {count} runs", [seconds_of(analyze) for _ in range(rounds)])
        listed = len((made_up / "tables/runs.csv").read_text().splitlines()) - 1
        assert listed == count, f"analyze.py has listed {listed} runs of {count}"


def row(what, seconds, first=None):
    found = {"what": what, "unit": "s", "values": {"ours": statistics.median(seconds)}, "rounds": len(seconds)}
    if first is None:
        return found
    return {**found, "baseline": FIRST, "values": {**found["values"], FIRST: first},
            "ratio": first / found["values"]["ours"], "ratio_min": first / max(seconds),
            "ratio_max": first / min(seconds)}


def seconds_of(words):
    """How long a command takes. RuntimeError with its last line when it fails."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    started = time.perf_counter()
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:3])} …: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return time.perf_counter() - started


def copy_runs(templates, results_dir, count):
    """Runs of every method on digits, seed after seed, with the metrics of two real ones and times of their own."""
    methods = [name for name, method in METHODS.items() if method.outliers == "none"]
    for number in range(count):
        name, seed = methods[number % len(methods)], number // len(methods) + 1
        template = templates[METHODS[name].members > 1]
        config = run_dir.read_json(template / "config.json")
        address = {**config["run"], "method": name, "seed": seed}
        folder = run_dir.run_folder(results_dir, *address.values())
        with open(template / "log.csv", newline="") as file:
            log = list(csv.DictReader(file))
        run_dir.write_log(folder, [{**epoch, "seconds": float(epoch["seconds"]) + number} for epoch in log])
        run_dir.write_json(folder / "config.json", {
            **config, "run": address, "method": METHODS[name].choices(), "overrides": {},
            "wall_clock_seconds": config["wall_clock_seconds"] + number,
            "log_sha256": run_dir.file_digest(folder / "log.csv")})
        own = ("", "", "", "last", "", "number_of_the_copy", number)  # equal metrics would be left out as a copy's
        run_dir.write_metrics(folder, [*run_dir.read_metrics(template), own])
