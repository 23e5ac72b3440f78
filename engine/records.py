"""The folder of a training run, and the records of its sessions in config.json."""
from engine import devices, distributed
from engine.console import say
from utils import run_dir
from utils.environment import environment
from utils.io import UserError
from utils.lock import LockedError, locked

RUN_FILES = ("config.json", "log.csv", "checkpoint.pt", "weights.pt", "weights_best.pt")


def take_folder(run, config, fresh, if_locked, held):
    """Lock a run's folder for this process.

    Args:
        if_locked: when another process has it: "fail", "wait" until it ends, or "skip".
        held: an ExitStack, which releases the folder.

    Returns:
        the config with the history of the run; None when there is nothing to do: the run is finished, or skipped.
    """
    try:
        held.enter_context(locked(run.folder, wait=if_locked == "wait"))
    except LockedError as error:
        if if_locked != "skip":
            raise
        return say(f"{run} is skipped: {error}")
    if fresh:
        run_dir.clear(run.folder)
    config = run_dir.check_same_run(run.folder, config)
    if run_dir.is_finished(run.folder):
        run_dir.load_run(run.folder)
        for name in config.get("sha256", ["weights.pt"]):
            run_dir.weights_digest(run.folder, config, name)
        if (run.folder / "checkpoint.pt").exists():  # killed at the very last moment; the folder may be read-only
            (run.folder / "checkpoint.pt").unlink(missing_ok=True)
        return say(f"{run} is finished ({run.recipe.epochs} epochs). Nothing to do; --fresh would start over")
    for name in RUN_FILES:  # not after days of training
        if (run.folder / name).is_dir():
            raise UserError(f"{run.folder / name} is a folder, and this file of the run belongs there. Move it away")
    run_dir.clear(run.folder, run_dir.MADE_BY_EVALUATION)  # of weights that are no longer there
    return config


def record_session(run, config, state, device, options, model):
    session = {"from_epoch": state.epoch, "device": devices.describe(device),
               "ranks": distributed.rank_and_world_size()[1], **options.record(), **environment()}
    config = {**config, "parameters": sum(p.numel() for p in model.parameters()),
              "sessions": [*config.get("sessions", []), session]}
    if distributed.is_main():
        run_dir.write_json(run.folder / "config.json", config)
    return config


def record_steps(run, config, status):
    """Note once a session whether its steps are replayed as a CUDA graph, and say why not where they could be."""
    *earlier, session = config["sessions"]
    if session.get("steps") == status:
        return config
    if status != "graphed" and (session["graphs"] or "--graphs" in status):
        say(f"{run}: steps run without a CUDA graph, {status}")
    config = {**config, "sessions": [*earlier, {**session, "steps": status}]}
    run_dir.write_json(run.folder / "config.json", config)
    return config
