"""A run's folder: its address, its config, its lock, its states and its log. Nobody else touches results/.

results/<dataset>/<model>/<method>/seed<k>/
  config.json       the resolved recipe, what differs from the published one, versions, device, seconds
  log.csv           one row an epoch
  weights.pt        last epoch: the run is finished when, and only when, this file is there
  weights_best.pt   the epoch with the best test accuracy, kept because the DisMax paper selected so
  checkpoint.pt     everything to go on from, while the run is under way
  logits/, logits_best/, calibration.json      evaluate.py's
  metrics.csv       evaluate.py's: one row a number, and a last row that says how many there are and their SHA-256
"""
import contextlib
import csv
import fcntl
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import shutil
import subprocess
from pathlib import Path

from utils.io import UserError, write_text, written_whole

IDENTITY = ("run", "recipe", "data")  # the entries of config.json that make a run that run


def folder(results_dir, dataset, model, method, seed):
    return Path(results_dir) / dataset / model / method / f"seed{seed}"


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


# ---- metrics.csv ----

METRIC_COLUMNS = ("benchmark", "dataset", "ood_group", "checkpoint", "score", "metric", "value", "note")
CHECKPOINTS = ("last", "best")
# a metric's name begins with … : its values lie between … ; of every other metric they are finite
LIMITS = {**dict.fromkeys(("accuracy", "ece", "auroc", "aupr", "fpr95", "tnr95", "dtacc"), (0, 1)), "brier": (0, 2),
          **dict.fromkeys(("nll", "images", "unreadable_images", "temperature"), (0, math.inf))}
ROUNDING = 1e-6  # an area under a curve of thousands of points may be 1 + 2e-16


def write_metrics(run, rows):
    """Write metrics.csv. Its last row has the metric "rows", their number as its value, and their SHA-256 as its note.

    Args:
        rows: tuples in the order of METRIC_COLUMNS; the note may be left out.
    UserError when a value cannot be true.
    """
    rows = [(*row, "")[:len(METRIC_COLUMNS)] for row in rows]
    _refuse_impossible(rows, run / "metrics.csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([METRIC_COLUMNS, *rows])
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()
    writer.writerow(("", "", "", "", "", "rows", len(rows), f"sha256:{digest}"))
    with written_whole(run / "metrics.csv") as file:
        file.write(text.getvalue().encode())


def read_metrics(run):
    """The rows of metrics.csv, tuples in the order of METRIC_COLUMNS; values are floats, the closing row is left out.

    FileNotFoundError when there is none; UserError when it is not as `write_metrics` left it, or holds what cannot be.
    """
    path = run / "metrics.csv"
    content = path.read_bytes()
    before, line_end, last = content.removesuffix(b"\n").rpartition(b"\n")
    before += line_end
    try:
        *rows, closing = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        header, *rows = rows
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged or empty ({error}). {_EVALUATE} {run}") from error
    if tuple(header) != METRIC_COLUMNS:
        raise UserError(f"{path} has the columns {','.join(header)[:100]}, expected {','.join(METRIC_COLUMNS)}: it is "
                        f"damaged or of an older version. {_EVALUATE} {run}")
    digest = hashlib.sha256(before).hexdigest()
    if not content.endswith(b"\n") or closing != ["", "", "", "", "", "rows", str(len(rows)), f"sha256:{digest}"]:
        raise UserError(f"{path} is incomplete or was changed: its last line does not fit the {len(rows)} rows before "
                        f"it. {_EVALUATE} {run}")
    try:
        rows = [(*row[:6], float(row[6]), row[7]) for row in rows]
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} has a row that is none ({error}). {_EVALUATE} {run}") from error
    _refuse_impossible(rows, path)
    return rows


_EVALUATE = "Evaluate the run again: python evaluate.py"


def _refuse_impossible(rows, path):
    """UserError when a row has an unknown checkpoint or a value that its metric cannot have, or stands there twice."""
    for row in rows:
        low, high = _limits(row[5])
        if not (math.isfinite(row[6]) and low - ROUNDING <= row[6] <= high + ROUNDING):
            raise UserError(f"{path}: {row[5]} of {row[1]} is {row[6]}, which cannot be. {_EVALUATE} {path.parent}")
        if row[3] not in CHECKPOINTS:
            raise UserError(f"{path}: unknown checkpoint {row[3]!r}. {_EVALUATE} {path.parent}")
    if len({row[:6] for row in rows}) < len(rows):
        raise UserError(f"{path} has a row twice. {_EVALUATE} {path.parent}")


@functools.lru_cache
def _limits(metric):
    return next((limits for name, limits in LIMITS.items() if metric.startswith(name)), (-math.inf, math.inf))


# ---- the environment ----

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
