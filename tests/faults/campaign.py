"""Kill our scripts at random moments, many times: every file is whole or absent, what is finished has the same bits.

  make torture KILLS=600        or: python tests/faults/campaign.py --kills 600 --seed 1

A step of the campaign starts a script on a small run, waits a random time, and ends it with SIGKILL, SIGTERM or SIGINT.
Then every file in the results folder must be readable. Now and then everything is let finish, and weights, log and
metrics must be those of a run that nobody disturbed. One folder is fought for by two learning rates, with --fresh: it
must belong to the one or the other, never to both.
"""
import argparse
import csv
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make tests/ and our packages importable
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import forked
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("images_per_second", "seconds")  # columns of log.csv that differ from run to run
RECIPES = {
    "dismax": ["--method", "dismax_fpr", "--epochs", "3"],
    "other lr": ["--method", "dismax_fpr", "--epochs", "3", "--lr", "0.05"],  # the same folder
    "ensemble": ["--method", "gradcam_oe", "--members", "2", "--outliers", "digits", "--epochs", "2", "--batch-size",
                 "128", "--outlier-batch", "64"],
}
FOLDERS = {"dismax": "dismax_fpr", "other lr": "dismax_fpr", "ensemble": "de-2-gradcam-digits"}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Campaign:
    """Where the disturbed and the undisturbed runs lie, and how they are compared.

    Args:
        folder: for everything that the campaign writes.
        data_dir: with the prepared digits.
        evaluates: whether evaluate.py and analyze.py are killed, too.
    """

    def __init__(self, folder, data_dir, seed, evaluates=True):
        self.folder, self.data_dir, self.random = Path(folder), data_dir, random.Random(seed)
        self.counts, self.evaluates = Counter(), evaluates
        self.disturbed, self.seconds = self.folder / "disturbed", {}
        for name in RECIPES:
            started = time.monotonic()
            self.must(self.train(name, self.undisturbed(name)))
            self.seconds["train"] = time.monotonic() - started
            if evaluates:
                started = time.monotonic()
                self.must(self.evaluate(self.run_of(name, self.undisturbed(name))))
                self.seconds["evaluate"] = self.seconds["analyze"] = time.monotonic() - started

    def undisturbed(self, name):
        return self.folder / "undisturbed" / name

    def run_of(self, name, results):
        return results / "digits/lenet" / FOLDERS[name] / "seed1"

    def train(self, name, results, *more):
        return ["train.py", "--dataset", "digits", "--model", "lenet", *RECIPES[name], "--checkpoint-seconds", "0",
                "--data-dir", str(self.data_dir), "--results-dir", str(results), "--device", "cpu", *more]

    def evaluate(self, run):
        return ["evaluate.py", str(run), "--data-dir", str(self.data_dir), "--device", "cpu"]

    def must(self, words):
        done = forked.run(words, ROOT, timeout=600)
        assert done.returncode == 0 and "Traceback" not in done.stderr, f"{words}: {done.stdout}{done.stderr}"

    def step(self):
        """Start a script, end it at a random moment, and look at every file."""
        recipe = self.random.choice(list(RECIPES))
        script = self.random.choices(["train", "fresh", "evaluate", "analyze"], [6, 3, 2 * self.evaluates,
                                                                              self.evaluates])[0]
        is_finished = (self.run_of(recipe, self.disturbed) / "weights.pt").exists()
        if script == "train" and is_finished:
            script = "fresh"
        elif script == "evaluate" and not is_finished:
            script = "train"
        kind, words = "train", self.train(recipe, self.disturbed, *["--fresh"] * (script == "fresh"))
        if script == "evaluate":
            kind, words = script, self.evaluate(self.run_of(recipe, self.disturbed))
        elif script == "analyze":
            kind, words = script, ["analyze.py", "--results-dir", str(self.disturbed)]
        number = self.random.choice(SIGNALS)
        ended = self.end(forked.start(words, ROOT), kind, number)
        self.counts[f"{script}, {number.name if ended else 'finished before'}"] += 1
        check_whole(self.disturbed)
        if self.random.random() < 0.15:
            self.compare(self.random.choice(list(RECIPES)))

    def end(self, process, kind, number):
        """Whether a process was still there to be sent a signal."""
        started = time.monotonic()
        seconds = self.random.uniform(0, 1.1 * self.seconds[kind])
        if process.poll(seconds) is not None:  # the machine has become faster than at the first run
            self.seconds[kind] = min(self.seconds[kind], time.monotonic() - started)
            return False
        process.send_signal(number)
        assert process.poll(120) is not None, f"{number.name} does not end it"
        return True

    def compare(self, name):
        """Let a run finish; it must be the undisturbed one, to the last bit."""
        done = forked.run(self.train(name, self.disturbed), ROOT, timeout=600)
        if done.returncode == 1 and "holds a run with other settings" in done.stderr and name != "ensemble":
            self.counts["refused: the folder is another recipe's"] += 1
            name = next(other for other in ("dismax", "other lr") if other != name)
            done = forked.run(self.train(name, self.disturbed), ROOT, timeout=600)
        assert done.returncode == 0 and "Traceback" not in done.stderr, f"{name}: {done.stdout}{done.stderr}"
        ours, theirs = (self.run_of(name, results) for results in (self.disturbed, self.undisturbed(name)))
        for file in ("weights.pt", "weights_best.pt"):
            a, b = (torch.load(run / file, weights_only=True) for run in (ours, theirs))
            assert a.keys() == b.keys(), file
            same = all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a)
            assert same, f"{name}: other bits in {file}"
        assert log_of(ours) == log_of(theirs), f"{name}: another log.csv"
        if self.evaluates:
            self.must(self.evaluate(ours))
            same = (ours / "metrics.csv").read_bytes() == (theirs / "metrics.csv").read_bytes()
            assert same, f"{name}: another metrics.csv"
        self.counts["let finish and compared, the same bits"] += 1


def log_of(run):
    with open(run / "log.csv") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def check_whole(folder):
    """Every file that is not a leftover .part can be read to its end."""
    for path in folder.rglob("*"):
        if path.suffix == ".pt":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None, path
        elif path.suffix == ".npz":
            with np.load(path) as content:
                assert all(content[key] is not None for key in content)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv" and (path.name != "runs.csv" or path.stat().st_size):  # of no runs it is empty
            with open(path) as file:
                header, *rows = csv.reader(file)
            assert rows and all(len(row) == len(header) for row in rows), path


def run(kills, seed, data_dir=None, evaluates=True):
    """The campaign; returns its counts. AssertionError, naming the file, when a promise is broken."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        if data_dir is None:
            data_dir = folder / "data"
            forked.run(["data/prepare.py", "--for", "digits", "--data-dir", str(data_dir)], ROOT)
        campaign = Campaign(folder, data_dir, seed, evaluates)
        for kill in range(kills):
            campaign.step()
            if sys.stderr.isatty():
                print(f"\r{kill + 1} of {kills} kills", end="", file=sys.stderr)
        for name in ("dismax", "ensemble"):
            campaign.compare(name)
        return campaign.counts
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only-training", action="store_true")
    args = parser.parse_args()
    for what, count in sorted(run(args.kills, args.seed, evaluates=not args.only_training).items()):
        print(f"{count:6} {what}")
    print("every file was whole or absent; everything that was let finish had the same bits")
