"""A run's folder: its address, its config, its lock, its states and its log. Nobody else touches results/.

results/<dataset>/<model>/<loss>/seed<k>/
  config.json       the resolved recipe, what differs from the published one, versions, device, wall-clock
  log.csv           one row an epoch
  weights.pt        last epoch: the run is finished when, and only when, this file is there
  weights_best.pt   the epoch with the best test accuracy, kept because the DisMax paper selected so
  checkpoint.pt     everything to go on from, while the run is under way
  logits/, logits_best/, calibration.json, metrics.csv      evaluate.py's
"""
import contextlib
import csv
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

from utils.io import UserError, write_text, written_whole

IDENTITY = ("run", "recipe", "data")  # the entries of config.json that make a run that run


def folder(results_dir, dataset, model, loss, seed):
    return Path(results_dir) / dataset / model / loss / f"seed{seed}"


def find(results_dir, dataset="*", done="metrics.csv"):
    """All run folders below results_dir that hold the file `done`, in the order of their names."""
    return sorted(path.parent for path in Path(results_dir).glob(f"{dataset}/*/*/seed*/{done}"))


@contextlib.contextmanager
def locked(run):
    """Hold the folder for this process; the kernel lets go of it however the process ends."""
    run.mkdir(parents=True, exist_ok=True)
    handle = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"another process is training {run}: wait for it, or stop it and try again") from None
    finally:
        os.close(handle)


def claim(run, config):
    """Take the folder for this config, or take up the run that it holds. Returns the config with its history so far.

    UserError when the folder holds a run with other settings; nothing is changed then.
    """
    try:
        before = read_config(run)
    except FileNotFoundError:
        before = {}
    different = [
        f"{entry}.{key}: {before[entry].get(key)!r} there, {config[entry].get(key)!r} asked for"
        for entry in IDENTITY if before for key in {**before[entry], **config[entry]}
        if before[entry].get(key) != config[entry].get(key)
    ]
    if different:
        raise UserError(f"{run} holds a run with other settings:\n  " + "\n  ".join(different) +
                        "\nIts files are untouched. Use --fresh to replace it, or another --results-dir")
    return {**before, **config}


def clear(run):
    """Remove everything that a run or its evaluation left."""
    for path in run.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def finished(run):
    return (run / "weights.pt").exists()


def read_config(run):
    """FileNotFoundError when there is none, UserError when it is damaged."""
    return read_json(run / "config.json")


def read_json(path):
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): train again with --fresh") from error


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_log(run, rows):
    """rows: one dict an epoch, all with the same keys."""
    write_table(run / "log.csv", rows)


def write_table(path, rows):
    with written_whole(path, "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def environment():
    """What besides the recipe a number may depend on."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("torch", "torchvision", "numpy")},
    }


def _git(*words):
    try:
        here = Path(__file__).resolve().parents[1]
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
