"""A run and its folder: its address, settings and records. Only this module knows the layout of results/.

results/<dataset>/<model>/<method>/seed<k>/
  config.json       the resolved recipe, what differs from the published one, versions, device, times
  log.csv           one row per epoch
  weights.pt        last epoch: the run is finished when, and only when, this file and config.json are there
  weights_best.pt   the epoch with the best accuracy on the images that the paper selected by
  checkpoint.pt     everything to continue from, while the run is in progress
  logits/, logits_best/, scores/, calibration.json      evaluate.py's
  metrics.csv       evaluate.py's: a row per number, and a last row that says how many there are and their SHA-256
"""
import csv
import functools
import hashlib
import io
import json
import math
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

from utils.io import UserError, atomic_write, read_file, refuse_endless, system_error, write_text
from utils.recipe import Method, Recipe
from utils.run_record import check_record

IDENTITY_KEYS = ("run", "recipe", "data")  # the entries of config.json that make a run that run


@dataclass(frozen=True)
class Run:
    """Data set × network × method × seed, and how it is trained."""

    folder: Path
    dataset: str
    model: str  # the network's name
    name: str  # the method's name
    seed: int
    method: Method
    recipe: Recipe

    def __str__(self):
        return str(self.folder)

    @property
    def address(self):
        return {"dataset": self.dataset, "model": self.model, "method": self.name, "seed": self.seed}

    def record(self):
        """What config.json says of it."""
        return {"run": self.address, "method": self.method.choices(), "recipe": self.recipe.as_dict(),
                "selection_split": {"test": "test", "openood": "validation"}[self.recipe.select_on]}


def run_folder(results_dir, dataset, model, method, seed):
    return Path(results_dir) / dataset / model / method / f"seed{seed}"


def find_runs(results_dir, dataset="*", done="metrics.csv"):
    """All run folders below results_dir that hold the file `done`, in the order of their names."""
    return sorted(path.parent for path in Path(results_dir).glob(f"{dataset}/*/*/seed*/{done}"))


def closed_folders(results_dir, dataset="*"):
    """The folders of runs, and those above them, that this user cannot look into."""
    levels = [Path(results_dir).glob("/".join([dataset, *("*", "*", "seed*")[:depth]])) for depth in range(4)]
    folders = [path for paths in levels for path in paths if path.is_dir()]
    return sorted(path for path in folders if not os.access(path, os.R_OK | os.X_OK))


def is_finished(folder):
    return (folder / "weights.pt").is_file() and (folder / "config.json").is_file()


def load_run(folder):
    """(Run, config) of a folder. UserError when config.json is missing, damaged, or not one of ours."""
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json")
    except FileNotFoundError:
        raise UserError(f"{folder} is not a run: it has no config.json. Train it: python train.py --help") from None
    try:
        check_record(config)
        address, recipe = config["run"], config["recipe"]
        if set(recipe) != {field.name for field in fields(Recipe)}:
            raise ValueError("its recipe has other fields")
        recipe = Recipe(**{name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()})
        recipe.check()
        run = Run(folder, *map(address.get, ("dataset", "model", "method", "seed")), Method(**config["method"]), recipe)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{folder / 'config.json'} is not a run's record of this version ({error!r}). Put a good copy "
                        "there, or train the run again with --fresh") from error
    return run, config


def check_same_run(folder, config):
    """The config with the history of the run that the folder holds, if any.

    UserError when the folder holds a run with other settings; nothing is changed then.
    """
    try:
        before = read_json(folder / "config.json")
    except FileNotFoundError:
        return config
    if not all(isinstance(before.get(entry), dict) for entry in IDENTITY_KEYS) or not isinstance(
            before.get("sessions", []), list):
        raise UserError(f"{folder / 'config.json'} is not a run's record of this version. Its folder is untouched. Use "
                        "--fresh to replace it, or another --results-dir")
    different = differences(before, config)
    if different:
        raise UserError(f"{folder} holds a run with other settings:\n  " + "\n  ".join(different) +
                        "\nIts files are untouched. Use --fresh to replace it, or another --results-dir")
    return {**before, **config}


def differences(before, config):
    """Where the identities of two records differ, a line each."""
    return [f"{entry}.{key}: {before[entry].get(key)!r} there, {config[entry].get(key)!r} asked for"
            for entry in IDENTITY_KEYS for key in {**before[entry], **config[entry]}
            if before[entry].get(key) != config[entry].get(key)]


MADE_BY_EVALUATION = ("metrics.csv", "calibration.json", "logits", "logits_best", "features", "features_best",
                      "scores")


def clear(folder, names=None):
    """Remove what a run and its evaluation left, or of it some names. A link is removed, never what it leads to.

    weights.pt goes first and config.json last: what a kill leaves is a run that is not finished, never a mixture.
    UserError when something cannot be removed; nothing is removed then.
    """
    entries = [path for path in folder.iterdir() if names is None or path.name in names]
    entries.sort(key=lambda path: (path.name == "config.json", path.name != "weights.pt"))
    folders = [folder] if entries else []
    for path in entries:
        if path.is_dir() and not path.is_symlink():
            folders += [Path(inside) for inside, _, _ in os.walk(path)]
    for path in folders:
        if not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"{path} cannot be changed by this user: nothing was removed. Change its permissions, or "
                            "use another --results-dir")
    for path in entries:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise system_error(error, path, "remove") or UserError(f"could not remove {path}: {error}") from error


# ---- records ----

def read_json(path, remedy="Put a good copy there, or train the run again with --fresh"):
    """A dict. FileNotFoundError when there is no file, UserError when it is damaged or another kind; remedy ends it."""
    try:
        content = json.loads(read_file(path).decode())
    except (FileNotFoundError, UserError):
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise system_error(error, path) or UserError(
            f"{path} is damaged ({error}). {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it holds a {type(content).__name__}). {remedy}")
    return content


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_log(folder, rows):
    """rows: one dict per epoch, all with the same keys."""
    with atomic_write(folder / "log.csv", "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def file_digest(path):
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    refuse_endless(path)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def weights_digest(run, config, name):
    """The SHA-256 of a run's weights.pt or weights_best.pt.

    UserError when the file is missing, cannot be read, or is another than the training wrote, as config.json has it.
    """
    path = run / name
    try:
        digest = file_digest(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train the run again with --fresh") from None
    except OSError as error:
        raise system_error(error, path) or UserError(f"could not read {path}: {error}") from error
    recorded = config.get("sha256")
    if isinstance(recorded, dict) and recorded.get(name, digest) != digest:
        raise UserError(f"{path} is damaged or another run's: its SHA-256 is not the one in {run / 'config.json'}. Put "
                        "a good copy there, or train again with --fresh")
    return digest


# ---- metrics.csv ----

METRIC_COLUMNS = ("benchmark", "dataset", "ood_group", "checkpoint", "score", "metric", "value", "note")
CHECKPOINTS = ("last", "best")
# a metric's name begins with … : its values lie between … ; of every other metric they are finite
METRIC_LIMITS = {
    **dict.fromkeys(("accuracy", "ece", "auroc", "aupr", "fpr95", "tnr95", "dtacc"), (0, 1)), "brier": (0, 2),
    **dict.fromkeys(("nll", "images", "unreadable_images", "temperature"), (0, math.inf))}
ROUNDING = 1e-6  # an area under a curve of thousands of points may be 1 + 2e-16


def write_metrics(run, rows, weights=""):
    """Write metrics.csv. Its last row has the metric "rows", their number as its value, and their SHA-256 as its note.

    Args:
        rows: tuples in the order of METRIC_COLUMNS; the note may be left out.
        weights: the SHA-256 of the run's weights.pt, which goes into the last row's note, too.
    UserError when a value cannot be true.
    """
    rows = [(*row, "")[:len(METRIC_COLUMNS)] for row in rows]
    _refuse_impossible(rows, run / "metrics.csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([METRIC_COLUMNS, *rows])
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()
    writer.writerow(("", "", "", "", "", "rows", len(rows), f"sha256:{digest}" + f" weights:{weights}" * bool(weights)))
    with atomic_write(run / "metrics.csv") as file:
        file.write(text.getvalue().encode())


def read_metrics(run, config=None):
    """The rows of metrics.csv, tuples in the order of METRIC_COLUMNS; values are floats, the closing row is left out.

    Args:
        config: the run's, to compare the weights that both tell of.
    FileNotFoundError when there is none; UserError when it is not as `write_metrics` left it, or holds what cannot be.
    """
    path = run / "metrics.csv"
    content = read_file(path)
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
    note, _, weights = (closing or [""])[-1].partition(" weights:")
    expected = ["", "", "", "", "", "rows", str(len(rows)), f"sha256:{digest}"]
    if not content.endswith(b"\n") or [*closing[:-1], note] != expected:
        raise UserError(f"{path} is incomplete or was changed: its last line does not fit the {len(rows)} rows before "
                        f"it. {_EVALUATE} {run}")
    known = (config or {}).get("sha256", {}).get("weights.pt", weights)
    if weights and weights != known:
        raise UserError(f"{path} was made of other weights than config.json tells of: it is another run's. {_EVALUATE} "
                        f"{run}")
    try:
        rows = [(*row[:6], float(row[6]), row[7]) for row in rows]
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} has an invalid row ({error}). {_EVALUATE} {run}") from error
    _refuse_impossible(rows, path)
    return rows


_EVALUATE = "Evaluate the run again: python evaluate.py"


def _refuse_impossible(rows, path):
    """UserError when a row has an unknown checkpoint or a value that its metric cannot have, or stands there twice."""
    for row in rows:
        low, high = _limits(row[5])
        if not (math.isfinite(row[6]) and low - ROUNDING <= row[6] <= high + ROUNDING):
            raise UserError(f"{path}: {row[5]} of {row[1]} is {row[6]}, which is impossible. {_EVALUATE} {path.parent}")
        if row[3] not in CHECKPOINTS:
            raise UserError(f"{path}: unknown checkpoint {row[3]!r}. {_EVALUATE} {path.parent}")
    if len({row[:6] for row in rows}) < len(rows):
        raise UserError(f"{path} has a row twice. {_EVALUATE} {path.parent}")


@functools.lru_cache
def _limits(metric):
    return next((limits for name, limits in METRIC_LIMITS.items() if metric.startswith(name)), (-math.inf, math.inf))
