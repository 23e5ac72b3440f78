"""A run and its folder: its address, its settings, its records. Nobody else touches results/.

results/<dataset>/<model>/<method>/seed<k>/
  config.json       the resolved recipe, what differs from the published one, versions, device, times
  log.csv           one row an epoch
  weights.pt        last epoch: the run is finished when, and only when, this file and config.json are there
  weights_best.pt   the epoch with the best accuracy on the images that the paper selected by
  checkpoint.pt     everything to continue from, while the run is in progress
  logits/, logits_best/, scores/, calibration.json, metrics.csv      evaluate.py's
"""
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

from utils.io import UserError, write_text, written_whole
from utils.recipe import Method, Recipe

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


def is_finished(folder):
    return (folder / "weights.pt").exists() and (folder / "config.json").exists()


def load_run(folder):
    """(Run, config) of a folder. UserError when config.json is missing, damaged, or not one of ours."""
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json")
    except FileNotFoundError:
        raise UserError(f"{folder} is not a run: it has no config.json. Train it: python train.py --help") from None
    try:
        address, recipe = config["run"], config["recipe"]
        if set(recipe) != {field.name for field in fields(Recipe)}:
            raise ValueError("its recipe has other fields")
        recipe = Recipe(**{name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()})
        recipe.check()
        names = [address[key] for key in ("dataset", "model", "method")]
        if not all(isinstance(name, str) for name in names) or not isinstance(address["seed"], int):
            raise ValueError("its address is none")
        run = Run(folder, *names, address["seed"], Method(**config["method"]), recipe)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
    if not all(isinstance(before.get(entry), dict) for entry in IDENTITY_KEYS):
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


def clear(folder):
    """Remove what a run or its evaluation left, config.json last. A link is removed, never what it leads to.

    UserError when something cannot be removed; nothing is removed then.
    """
    entries = sorted(folder.iterdir(), key=lambda path: (path.name == "config.json", path.name != "weights.pt"))
    for path in (folder, *(path for path in entries if path.is_dir() and not path.is_symlink())):
        if not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"{path} cannot be changed by this user: nothing was removed. Change its permissions, or "
                            "use another --results-dir")
    for path in entries:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


# ---- records ----

def read_json(path):
    """A dict. FileNotFoundError when there is no file, UserError when it is damaged or of another kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}). Put a good copy there, or train the run again with --fresh"
                        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it holds a {type(content).__name__}). Put a good copy there, or train the "
                        "run again with --fresh")
    return content


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_log(folder, rows):
    """rows: one dict an epoch, all with the same keys."""
    write_table(folder / "log.csv", rows)


def write_table(path, rows):
    with written_whole(path, "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def file_digest(path):
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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
