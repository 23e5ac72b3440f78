"""All evaluated runs as two tables."""
import pandas as pd

from reporting.names import ALL
from utils import run_dir
from utils.io import UserError


def read_runs(results_dir, dataset="*"):
    """(a row a run, a row a metric of a run) of every evaluated run.

    `changed` says in words what differs from the published recipe, "" where nothing does; `folder` is the run's.
    UserError when there is no run.
    """
    rows, frames = [], []
    for run in run_dir.find_runs(results_dir, dataset):
        config = run_dir.read_json(run / "config.json")
        changed = ", ".join(f"{field} {c['used']} (published {c['published']})"
                            for field, c in config["overrides"].items())
        session = config["sessions"][-1]
        address = {**config["run"], "loss": config["run"]["method"]}
        rows.append({
            **address, "folder": run, "changed": changed, "epochs": config["recipe"]["epochs"],
            **{key: config[key] for key in (
                "parameters", "last_accuracy", "best_accuracy", "best_epoch", "wall_clock_seconds")},
            **{key: session[key] for key in ("device", "torch", "commit")},
        })
        frame = pd.read_csv(run / "metrics.csv", keep_default_na=False)
        frames.append(frame.assign(**address, changed=changed, note=frame.get("note", "")))
    if not rows:
        where = results_dir if dataset == "*" else results_dir / dataset
        raise UserError(f"no evaluated run below {where}. "
                        "`make demo` makes some in a minute, `make reproduce-cifar10` the paper's")
    metrics = pd.concat(frames, ignore_index=True)
    return pd.DataFrame(rows), metrics.assign(note=metrics.note.fillna(""))


def made_on(table):
    """Of some runs of `read_runs`, in words: how many, on what, and the median training time of each method."""
    text = f"{len(table)} run{'s' * (len(table) != 1)} on {', '.join(sorted(set(table.device)))}"
    seconds = table.wall_clock_seconds.astype(float).groupby(table.loss, sort=False).median().dropna()
    if len(seconds):
        each = ", ".join(f"{ALL.get(loss, loss)} {value:,.0f} s" for loss, value in seconds.items())
        text += f"; training took (median): {each}"
    return text + "."
