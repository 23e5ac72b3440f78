"""All evaluated runs of a results folder, and the runs that are left out of every table, with the reasons."""
import csv
import hashlib
import io
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from utils import run_dir
from utils.io import UserError, read_file, system_error
from utils.recipe import is_a
from utils.run_record import is_override

# what config.json of a finished run must hold: entry → the type of its value; those that may also be null
WANTED = {"run": dict, "method": dict, "recipe": dict, "overrides": dict, "sessions": list, "best_epoch": int,
          "parameters": int}
OWN_SCORE = "own score"  # of scores from files
HUGE = 2 ** 63  # JSON has larger numbers, and no table can show them
NULLABLE = ("best_accuracy", "last_accuracy", "train_seconds", "wall_clock_seconds")


class LeftOut(NamedTuple):
    """A run in no table. `id_dataset`, `model` and `method` as its folder says."""

    folder: Path
    id_dataset: str
    model: str
    method: str
    reason: str


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluated run. `changed` says in words what differs from the published recipe, "" where nothing does."""

    folder: Path
    id_dataset: str
    model: str
    method: str
    seed: int
    changed: str
    config: dict
    log: list  # a dict per epoch, of floats; empty for a network that was not trained here
    rows: list  # of metrics.csv, as run_dir.read_metrics gives them

    @cached_property
    def _cells(self):
        cells = defaultdict(dict)
        for benchmark, dataset, group, checkpoint, score, metric, value, note in self.rows:
            cells[benchmark, checkpoint, metric, score][group, dataset] = value, note
        return cells

    def cells(self, benchmark, checkpoint, metric, score=""):
        """(ood_group, dataset) → (value, note) of a metric, "id" being the group of the in-distribution images."""
        return self._cells.get((benchmark, checkpoint, metric, score), {})

    @property
    def from_files(self):
        """Whether it is no run of ours but scores that others computed, see score_files.py."""
        return self.config.get("score_files", False)

    @property
    def members(self):
        return self.config["method"]["members"]

    @property
    def epochs(self):
        return self.config["recipe"]["epochs"]

    @property
    def device(self):
        return str(self.config["sessions"][-1]["device"])


class Results(NamedTuple):
    runs: list  # of EvaluatedRun, in the order of their folders
    left_out: list  # of LeftOut


def read_runs(results_dir, dataset="*", needed=True):
    """Results of every evaluated run below a folder, or of those on one data set. UserError when there is none and one
    is needed."""
    results_dir = Path(results_dir)
    runs, left_out = [], []
    for folder in run_dir.closed_folders(results_dir, dataset):
        names = (*folder.relative_to(results_dir).parts, "", "")[:3]
        left_out.append(LeftOut(folder, *names, "it cannot be read by this user: change its permissions"))
    for folder in run_dir.find_runs(results_dir, dataset):
        try:
            runs.append(_read_run(folder))
        except (UserError, OSError) as error:
            left_out.append(_left_out(folder, _reason_of(error).replace(f"{folder}/", "")))
    refused = _copies(runs)
    left_out += [_left_out(folder, reason) for folder, reason in refused.items()]
    runs = [run for run in runs if run.folder not in refused]
    left_out += [_left_out(folder, f"it is not evaluated: python evaluate.py {folder}")
                 for folder in run_dir.find_runs(results_dir, dataset, "weights.pt")
                 if not (folder / "metrics.csv").exists()]
    if needed and not runs and not left_out:
        where = results_dir if dataset == "*" else results_dir / dataset
        raise UserError(f"no evaluated run below {where}. "
                        "`make demo` makes some in a few minutes, `make reproduce-cifar10` the paper's")
    return Results(runs, left_out)


def _reason_of(error):
    if isinstance(error, UserError):
        return str(error)
    return str(system_error(error, error.filename) or f"{error.filename}: {error.strerror}")


def _left_out(folder, reason):
    return LeftOut(folder, *folder.parts[-4:-1], reason)


def _address(run):
    return run.id_dataset, run.model, run.method, f"seed{run.seed}"


def _copies(runs):
    """folder → reason, of runs that two folders hold, of which nobody can say which is right, and of runs that lie in
    the folder of another. The same run: of one address, with one log, whose seconds are never the same twice, or with
    the same metrics, which have hundreds of digits."""
    by_address, by_log, by_metrics, refused = defaultdict(list), defaultdict(list), defaultdict(list), {}
    for run in runs:
        by_address[_address(run)].append(run)
        if run.log:
            by_log[tuple(tuple(row.values()) for row in run.log)].append(run)
        if run.rows:
            by_metrics[hash(tuple(run.rows))].append(run)
    for what, groups in (("the same seed", by_address), ("the same log.csv", by_log),
                         ("the same metrics.csv", by_metrics)):
        for copies in (copies for copies in groups.values() if len(copies) > 1):
            names = " and ".join("/".join(run.folder.parts[-4:]) for run in copies)
            for run in copies:
                refused.setdefault(run.folder, f"{what} is in {len(copies)} folders, {names}: a copy is no seed. "
                                               "Remove all but the original")
    for run in runs:
        if run.folder.parts[-4:] != _address(run):
            other = "/".join(_address(run))
            refused.setdefault(run.folder, f"its config.json is that of {other}: it was moved or copied")
    return refused


# ---- one run ----

def _read_run(folder):
    """The EvaluatedRun in a folder. UserError or OSError when files are damaged, foreign, incomplete or disagree."""
    config = _config(folder)
    run = config["run"]
    changed = ", ".join(f"{field} {change['used']} (published {change['published']})"
                        for field, change in config["overrides"].items())
    log = [] if config["train_seconds"] is None else _log(folder, config)
    rows = run_dir.read_metrics(folder, config)
    if others := {row[1] for row in rows if row[2] == "id"} - {run["dataset"]}:
        raise UserError(f"metrics.csv has in-distribution images of {', '.join(sorted(others))}: it is of another run")
    return EvaluatedRun(folder, run["dataset"], run["model"], run["method"], run["seed"], changed, config, log, rows)


def _config(folder):
    try:
        config = run_dir.read_json(folder / "config.json")
    except FileNotFoundError:
        raise UserError("it has no config.json") from None
    if not is_a(config.get("sha256", {}), dict):
        raise UserError("config.json is not that of a finished run: sha256 is of another type")
    if why := _foreign(config):
        raise UserError(f"config.json is not that of a finished run: {why}")
    return config


def _foreign(config):
    """Why this is not the config of a finished run, "" if it is."""
    if not isinstance(config, dict):
        return "it is no object"
    for entry, kind in WANTED.items():
        if not is_a(config.get(entry), kind):
            return f"{entry} is missing or of another type"
    for entry in NULLABLE:
        if entry not in config or not (
                config[entry] is None or is_a(config[entry], float) and abs(config[entry]) < HUGE):
            return f"{entry} is missing or no number"
    run, sessions = config["run"], config["sessions"]
    if not (all(is_a(run.get(name), str) for name in ("dataset", "model", "method")) and is_a(run.get("seed"), int)):
        return "run does not say dataset, model, method and seed"
    if not all(is_a(count, int) and 0 < count < HUGE for count in (
            config["recipe"].get("epochs"), config["method"].get("members"), config["parameters"])):
        return "the epochs of its recipe, the members of its method or its parameters are missing or not positive"
    if any(config[entry] is not None and config[entry] < 0 for entry in NULLABLE):
        return "a time or an accuracy is negative"
    if not (sessions and all(is_a(session, dict) and is_a(session.get("device"), str) for session in sessions)):
        return "its sessions do not say on which device"
    if not all(map(is_override, config["overrides"].values())):
        return "an override does not say what is published and what was used"
    return ""


def _log(folder, config):
    """log.csv as a dict of floats an epoch. UserError when it is cut, or tells of another run than config.json."""
    try:
        content = read_file(folder / "log.csv")
        if config.get("log_sha256") not in (None, hashlib.sha256(content).hexdigest()):
            raise UserError("log.csv is not the one that config.json tells of: it was changed, or is another run's")
        lines = list(csv.reader(io.StringIO(content.decode(), newline="")))
        rows = [dict(zip(lines[0], map(float, line), strict=True)) for line in lines[1:]]
    except FileNotFoundError:
        raise UserError("it has no log.csv") from None
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"log.csv is damaged ({error})") from error
    epochs, best = config["recipe"]["epochs"], config["best_epoch"]
    if len(rows) != epochs or any(row.get("epoch") != k for k, row in enumerate(rows, 1)):
        raise UserError(f"log.csv has {len(rows)} epochs, config.json {epochs}: it was not trained to its end")
    accuracies = [row.get("selection_acc", -1) for row in rows]
    if not all(0 <= accuracy <= 1 for accuracy in accuracies):
        raise UserError("log.csv has an accuracy that is missing or not between 0 and 1")
    if 1 <= best <= epochs and accuracies[best - 1] < max(accuracies):
        raise UserError(f"log.csv has a better accuracy than that of epoch {best}, the best one by config.json")
    told = [accuracies[epoch - 1] for epoch in (best, epochs)] if 1 <= best <= epochs else []
    if told != [config["best_accuracy"], config["last_accuracy"]]:
        raise UserError("log.csv and config.json disagree on the best or the last accuracy: they are of different runs")
    return rows
