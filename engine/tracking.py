"""Report a training to an experiment tracker: TensorBoard or Weights & Biases, which are optional extras.

A tracker is given every column of log.csv, the recipe and the final results. It never stops a training: when it fails,
that is said once, and the training continues without it.
"""
import hashlib
from pathlib import Path

from engine import distributed
from engine.console import say
from utils.io import UserError

TRACKERS = ("tensorboard", "wandb")
PROJECT = "dismax-sdde"


class Tracker:
    """Forwards to a tracker's functions until one fails.

    Args:
        log: called with (row of log.csv).
        finish: called with (dict of final results).
    """

    def __init__(self, name, log, finish):
        self.name, self._log, self._finish, self.works = name, log, finish, True

    def log(self, row):
        self._attempt(self._log, row)

    def finish(self, results):
        self._attempt(self._finish, results)

    def _attempt(self, function, content):
        if not self.works:
            return
        try:
            function(content)
        except Exception as error:  # whatever it is, it is not the training's
            self.works = False
            say(f"--track {self.name} failed and is off from here on: {type(error).__name__}: {error}")


def open_tracker(name, run, config, first_epoch=1):
    """The Tracker called `name` of a run; one that does nothing for None, and on ranks other than 0.

    UserError when the tracker's package is not installed. `first_epoch`: TensorBoard forgets later epochs of a training
    that is repeated from here.
    """
    if name is None or not distributed.is_main():
        return Tracker("", lambda row: None, lambda results: None)
    try:
        functions = {"tensorboard": _tensorboard, "wandb": _wandb}[name](run, config, first_epoch)
    except ImportError as error:
        raise UserError(f"--track {name}: the package is not installed ({error}). pip install {name}, or leave out "
                        "--track") from None
    except Exception as error:  # no network, no login, no disk: the training continues
        say(f"--track {name} cannot be started and is off: {type(error).__name__}: {error}")
        return Tracker(name, lambda row: None, lambda results: None)
    return Tracker(name, *functions)


def _tensorboard(run, config, first_epoch):
    from torch.utils.tensorboard import SummaryWriter  # here, because it is an optional extra

    writer = SummaryWriter(run.folder / "tensorboard", purge_step=first_epoch)
    writer.add_text("recipe", _as_markdown({**run.address, **config["recipe"]}))

    def log(row):
        for column, value in row.items():
            writer.add_scalar(column, value, row["epoch"])
        writer.flush()

    def finish(results):
        for column, value in _numbers(results).items():
            writer.add_scalar(f"final/{column}", value, config["recipe"]["epochs"])
        writer.close()

    return log, finish


def _wandb(run, config, first_epoch):
    import wandb  # here, because it is an optional extra

    address = "/".join(map(str, run.address.values()))
    identity = hashlib.sha256(f"{Path(run.folder).resolve()}".encode()).hexdigest()[:16]
    session = wandb.init(project=PROJECT, name=address, group="/".join(address.split("/")[:-1]), id=identity,
                         resume="allow", dir=str(run.folder), config={**run.address, **config["recipe"]})

    def log(row):
        session.log(dict(row), step=row["epoch"])

    def finish(results):
        session.summary.update(_numbers(results))
        session.finish()

    return log, finish


def _numbers(results):
    return {name: value for name, value in results.items() if isinstance(value, int | float)}


def _as_markdown(values):
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])
