"""Train the next missing runs of results/queue.txt, evaluate them, and copy their records to results/reference.

  make numbers                                        on every core of this machine, one run per core
  python run_scripts/run_queue.py --jobs 1 --commit   one run at a time; each is committed when it is finished
  python run_scripts/run_queue.py --state             print the queue's state, and write it into results/README.md

The script can be stopped at any moment; started again, it continues the stopped runs. Several can work at the same
time: a run that another process works on is skipped. config.json, log.csv and metrics.csv of each finished run go to
results/reference; weights and logits stay in results/. results/queue.log gets one line per epoch.
"""
import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

from utils.io import UserError, write_text
from utils.script import run_script

ROOT = Path(__file__).resolve().parents[1]
KEPT_FILES = ("config.json", "log.csv", "metrics.csv")
QUEUE, README, REFERENCE = ROOT / "results/queue.txt", ROOT / "results/README.md", ROOT / "results/reference"
QUEUE_LINE = re.compile(r"(?P<dataset>\S+)\s+(?P<model>\S+)\s+(?P<methods>\S.*?)\s+(?P<first>\d+)-(?P<last>\d+)\s+"
                        r"(?P<needs>cpu|gpu)(?:\s+(?P<folder>\w+):\s+(?P<options>.*\S))?\s*")


class Job(NamedTuple):
    dataset: str
    model: str
    method: str
    seed: int
    needs: str  # cpu, or gpu
    folder: str  # below results/ and results/reference/, for runs whose recipe is changed; "" for the others
    options: str  # of train.py

    @property
    def address(self):
        return Path(self.folder, self.dataset, self.model, self.method, f"seed{self.seed}")

    def is_done(self, reference):
        return all((reference / self.address / name).exists() for name in KEPT_FILES)


def read_queue(path=QUEUE):
    """[(line, its jobs, seed by seed)]. UserError when a line cannot be read."""
    entries = []
    for line in path.read_text("utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = QUEUE_LINE.fullmatch(line)
        if not match:
            raise UserError(f"{path}: this line cannot be read: {line!r}")
        seeds = range(int(match["first"]), int(match["last"]) + 1)
        entries.append((match, [
            Job(match["dataset"], match["model"], method, seed, match["needs"], match["folder"] or "",
                match["options"] or "")
            for seed, method in itertools.product(seeds, match["methods"].split())]))
    return entries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: one per core)")
    parser.add_argument("--data-dir", default=str(ROOT / "data"), help="folder of the prepared data sets")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda, which also trains the runs that need "
                        "a GPU")
    parser.add_argument("--commit", action="store_true", help="commit the records of each finished run")
    parser.add_argument("--state", action="store_true", help="only print the state of the queue")
    parser.add_argument("--only", metavar="TEXT", help="only runs whose address contains this text")
    parser.add_argument("--queue", type=Path, default=QUEUE, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=ROOT / "results", help=argparse.SUPPRESS)
    args = parser.parse_args()
    entries = read_queue(args.queue)
    if not args.state:
        jobs = iter([job for _, part in entries for job in part if args.only is None or args.only in str(job.address)])
        lock, failed = threading.Lock(), []
        workers = [threading.Thread(target=work_through, args=(jobs, lock, failed, args)) for _ in range(args.jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failed:
            raise UserError("these runs failed, results/queue.log has the reason:\n  " + "\n  ".join(failed))
    text = state_table(entries, args.results / "reference")
    print(text)
    if args.queue == QUEUE:
        write_state(text)


def work_through(jobs, lock, failed, args):
    """One worker: make one job after another until all are done."""
    for job in locked_iterator(jobs, lock):
        if job.is_done(args.results / "reference") or (job.needs == "gpu" and args.device == "cpu"):
            continue
        try:
            make_run(job, lock, args)
        except subprocess.CalledProcessError as error:
            failed.append(f"{job.address}: exit status {error.returncode}")
            if error.returncode >= 128 or error.returncode < 0:  # stopped by a signal: so are we
                return


def locked_iterator(items, lock):
    while True:
        with lock:
            item = next(items, None)
        if item is None:
            return
        yield item


def make_run(job, lock, args):
    """Train, evaluate and copy one run; do nothing if another process works on it."""
    results, run = args.results / job.folder, args.results / job.address
    common = ["--data-dir", args.data_dir, "--device", args.device]
    say_and_log(args, f"{job.address}: begins")
    call(args, "train.py", "--dataset", job.dataset, "--model", job.model, "--method", job.method, "--seed", job.seed,
         "--results-dir", results, "--if-locked", "skip", *common, *job.options.split())
    if not (run / "weights.pt").exists():
        return  # skipped
    call(args, "evaluate.py", run, "--if-changed", "--if-locked", "wait", *common)
    target = args.results / "reference" / job.address
    with lock:
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT_FILES:
            shutil.copyfile(run / name, target / f"{name}.part")
            (target / f"{name}.part").replace(target / name)
        if args.commit:
            subprocess.run(["git", "add", str(target)], cwd=ROOT, check=True)
            subprocess.run(["git", "commit", "-qm", f"Commit the run {job.address}", "--", str(target)], cwd=ROOT,
                           check=True)
    say_and_log(args, f"{job.address}: done")


def call(args, *words):
    """Run one of our scripts with one thread; its output goes to queue.log."""
    with open(args.results / "queue.log", "a", encoding="utf-8") as log:
        subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, stdout=log, stderr=log,
                       stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def say_and_log(args, text):
    print(text, flush=True)
    with open(args.results / "queue.log", "a", encoding="utf-8") as log:
        log.write(f"{text}\n")


def state_table(entries, reference):
    """The queue as a Markdown table, a row per line of the file."""
    rows = ["| data set | network | methods | seeds | needs | done |", "|---|---|---|---|---|---|"]
    for match, jobs in entries:
        done = sum(job.is_done(reference) for job in jobs)
        changed = f", {match['options']}" if match["options"] else ""
        state = "all" if done == len(jobs) else f"{done} of {len(jobs)}"
        rows.append(f"| {match['dataset']} | {match['model']} | {', '.join(match['methods'].split())}{changed} | "
                    f"{match['first']}–{match['last']} | {'a GPU' if match['needs'] == 'gpu' else 'a CPU'} | {state} |")
    return "\n".join(rows)


def write_state(text):
    marks = re.compile(r"(<!-- queue -->\n).*?(<!-- end -->)", re.S)
    readme = README.read_text("utf-8")
    if marks.search(readme):
        write_text(README, marks.sub(lambda m: f"{m[1]}{text}\n{m[2]}", readme))


if __name__ == "__main__":
    run_script("run_queue.py", main)
