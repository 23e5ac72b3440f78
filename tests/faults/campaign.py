"""Kill our scripts at random moments, many times: every file is whole or absent, what is finished has the same bits.

  make torture KILLS=600        or: python tests/faults/campaign.py --kills 600 --seed 1

A step of the campaign starts a script on a small run, waits a random time, and kills it with SIGKILL. Then every file
in the results folder must be readable. Now and then everything is let finish, and weights, log and metrics must be
those of a run that nobody disturbed.
"""
import argparse
import csv
import json
import random
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make tests/ and our packages importable
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import forked
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "digits/lenet/dismax_fpr/seed1"
TIMES = ("images_per_second", "seconds")  # columns of log.csv that differ from run to run


class Campaign:
    """Where the disturbed and the undisturbed run lie, and how they are compared.

    Args:
        folder: for everything that the campaign writes.
        data_dir: with the prepared digits.
    """

    def __init__(self, folder, data_dir, seed):
        self.folder, self.data_dir, self.random = Path(folder), data_dir, random.Random(seed)
        self.counts = {}
        self.expected = self.folder / "undisturbed"
        self.results = self.folder / "disturbed"
        started = time.monotonic()
        self.finish(self.expected)
        self.seconds = time.monotonic() - started

    def train(self, results, *more):
        return ["train.py", "--dataset", "digits", "--model", "lenet", "--method", "dismax_fpr", "--epochs", "4",
                "--checkpoint-seconds", "0", "--data-dir", str(self.data_dir), "--results-dir", str(results),
                "--device", "cpu", *more]

    def evaluate(self, results):
        return ["evaluate.py", str(results / ADDRESS), "--data-dir", str(self.data_dir), "--device", "cpu"]

    def finish(self, results):
        for words in (self.train(results), self.evaluate(results),
                      ["analyze.py", "--results-dir", str(results)]):
            done = forked.run(words, ROOT)
            assert done.returncode == 0 and "Traceback" not in done.stderr, f"{words}: {done.stderr}"

    def step(self):
        """One kill; returns what was killed."""
        scripts = {
            "train": self.train(self.results), "train --fresh": self.train(self.results, "--fresh"),
            "evaluate": self.evaluate(self.results), "analyze": ["analyze.py", "--results-dir", str(self.results)]}
        name = self.random.choices(list(scripts), [6, 2, 3, 1])[0]
        process = forked.start(scripts[name], ROOT)
        process.join(self.random.uniform(0, 0.4 * self.seconds))
        killed = process.exitcode is None
        process.kill()
        process.join()
        self.counts[name if killed else f"{name}, finished before"] = self.counts.get(
            name if killed else f"{name}, finished before", 0) + 1
        check_whole(self.results)
        if self.random.random() < 0.15:
            self.compare()
        return name

    def compare(self):
        self.finish(self.results)
        ours, theirs = self.results / ADDRESS, self.expected / ADDRESS
        for name in ("weights.pt", "weights_best.pt"):
            a, b = (torch.load(run / name, weights_only=True) for run in (ours, theirs))
            assert a.keys() == b.keys(), name
            assert all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a), f"other bits in {name}"
        assert log_of(ours) == log_of(theirs), "another log.csv"
        assert (ours / "metrics.csv").read_bytes() == (theirs / "metrics.csv").read_bytes(), "another metrics.csv"
        self.counts["compared"] = self.counts.get("compared", 0) + 1


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
        elif path.suffix == ".csv":
            with open(path) as file:
                header, *rows = csv.reader(file)
            assert rows and all(len(row) == len(header) for row in rows), path


def run(kills, seed, data_dir=None, show=True):
    """The campaign; returns its counts. AssertionError, naming the file, when a promise is broken."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        if data_dir is None:
            data_dir = folder / "data"
            forked.run(["data/prepare.py", "--for", "digits", "--data-dir", str(data_dir)], ROOT)
        campaign = Campaign(folder, data_dir, seed)
        for kill in range(kills):
            campaign.step()
            if show and sys.stderr.isatty():
                print(f"\r{kill + 1} of {kills} kills", end="", file=sys.stderr)
        campaign.compare()
        return campaign.counts
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for what, count in sorted(run(args.kills, args.seed).items()):
        print(f"{count:6} {what}")
    print("every file was whole or absent; everything that was let finish had the same bits")
