"""Scores that were computed elsewhere, as a run in the tables: `analyze.py --scores NAME=DIR`.

DIR holds <set>.npz with pred, conf and label (n) each, of one in-distribution set and its OOD sets: the form of
OpenOOD's dumps and of evaluate.py's scores/<score>/. conf is larger for in-distribution images. Metrics are computed
here by the same functions as for our own runs.
"""
from pathlib import Path

import numpy as np

from data.datasets import CATALOG, OPENOOD, OUTLIERS
from data.image_files import is_hidden, printable_path
from metrics.detection import detection_metrics
from metrics.published import published_detection_metrics
from reporting.load import OWN_SCORE, EvaluatedRun
from utils.io import UserError
from utils.npz import Damaged, read_arrays

NAMES = {"tin": "tinyimagenet", "texture": "textures", "places": "places365", "imagenet": "imagenet1k",
         "openimageo": "openimage_o"}  # OpenOOD's → ours
MODEL = "scores from files"
NOTE = "which of its images were scored is not known"


def read_scores(name, folder, seed, dataset=None):
    """The EvaluatedRun of a folder of score files.

    Args:
        name: of the method, or network/method to stand beside the runs of that network.
        dataset: the in-distribution set; by default the one file whose labels are classes.
    UserError, naming the file, when one is no score file, or when scores, predictions and labels differ in length.
    """
    folder = Path(folder)
    option = f"--scores {name}={folder}"
    paths = sorted(path for path in folder.glob("*.npz") if not is_hidden(path.name))
    for text in (name, *(path.name for path in paths)):
        if printable_path(text) != text:  # no figure or table can show it
            raise UserError(f"--scores: the name {printable_path(text)} is not UTF-8. Choose another")
    if not paths:
        raise UserError(f"{option}: there are no .npz files. Each set needs one, with pred, conf "
                        "and label")
    content = {}
    for path in paths:
        one = NAMES.get(path.stem, path.stem)
        if one in content:
            raise UserError(f"{option}: {path.name} is a second file of {one}. Remove one of them")
        content[one] = _read(path)
    id_sets = [one for one, (_, _, label) in content.items() if (label >= 0).all() and (dataset in (None, one))]
    if len(id_sets) != 1 or len(content) < 2:
        raise UserError(f"{option}: cannot tell the in-distribution set and its OOD sets apart. One "
                        f"file must have classes as labels, and others −1; found {', '.join(content)}"
                        + (f". Say which one it is: --dataset {id_sets[0]}" if len(id_sets) > 1 else ""))
    dataset, = id_sets
    if dataset in CATALOG and content[dataset][2].max() >= CATALOG[dataset].classes:
        raise UserError(f"{option}: {dataset} has a label {content[dataset][2].max():g}, and there are "
                        f"{CATALOG[dataset].classes} classes, from 0")
    model, slash, method = name.rpartition("/")
    if not method or slash and not model:
        raise UserError(f"{option}: name a method, or network/method")
    return EvaluatedRun(folder, dataset, model or MODEL, method, seed, "", {
        "method": {"members": 1}, "recipe": {"epochs": 0}, "best_epoch": 0, "train_seconds": None, "score_files": True,
        "sessions": [{"device": f"{folder}"}]}, [], list(_rows(dataset, content)))


def add_scores(runs, run):
    """Append the EvaluatedRun of score files. UserError when only its name is new, or when it has the name of a run."""
    def method(run):
        return run.id_dataset, run.model, run.method

    for other in (other for other in runs if method(other) == method(run)):
        if other.seed == run.seed:
            raise UserError(f"--scores {run.folder}: {other.folder} is seed {run.seed} of {run.model}, {run.method} "
                            "already: choose another NAME")
        if run.rows == other.rows:
            raise UserError(f"--scores {run.folder}: it has the very numbers of {other.folder}: a copy is no seed")
    runs.append(run)


def _read(path):
    """(pred, conf, label), (n) each."""
    try:
        arrays = read_arrays(path, "pred", "conf", "label")
    except (FileNotFoundError, Damaged) as error:
        raise UserError(f"{path} is not a score file ({error}). It needs the arrays pred, conf and label") from error
    pred, conf, label = (np.atleast_1d(values.squeeze()) for values in arrays)
    if conf.dtype.kind not in "iuf":
        raise UserError(f"{path} is not a score file (conf has the type {conf.dtype}, which is no number)")
    if label.dtype.kind not in "iuf" or pred.dtype.kind not in "iuf":
        raise UserError(f"{path}: pred and label must be class numbers, not {pred.dtype} and {label.dtype}")
    conf = conf.astype(np.float64)
    if not pred.shape == conf.shape == label.shape or conf.ndim != 1:
        raise UserError(f"{path}: {conf.size:,} scores, {pred.size:,} predictions and {label.size:,} labels. Each "
                        "image needs one of each")
    if not conf.size or not np.isfinite(conf).all():
        raise UserError(f"{path} has {'no scores' if not conf.size else 'scores that are NaN or infinite'}")
    for values in (pred, label):
        if not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise UserError(f"{path}: pred and label must be class numbers, and some are no whole numbers")
    if (label < 0).any() and not (label == -1).all():
        raise UserError(f"{path}: its labels must be the classes of in-distribution images, from 0, or all be −1")
    return pred, conf, label


def _rows(dataset, content):
    """The rows of metrics.csv, in both benchmarks, as of both checkpoints: there is only one."""
    pred, id_scores, label = content[dataset]
    groups = {"dismax": OUTLIERS.get(dataset, {}), "openood": OPENOOD.get(dataset, OUTLIERS.get(dataset, {}))}
    found = {name: {**detection_metrics(id_scores, conf), **{
        f"{metric}_published": value for metric, value in published_detection_metrics(id_scores, conf).items()}}
        for name, (_, conf, _) in content.items() if name != dataset}
    for benchmark, of_benchmark in groups.items():
        group_of = {name: group for group, names in of_benchmark.items() for name in names}
        for checkpoint in ("last", "best"):
            yield benchmark, dataset, "id", checkpoint, "", "images", len(label), NOTE
            yield benchmark, dataset, "id", checkpoint, "", "accuracy", float(np.mean(pred == label)), ""
            for name, metrics in found.items():
                place = benchmark, name, group_of.get(name, "ood"), checkpoint
                if name in group_of or not of_benchmark or name not in CATALOG:
                    yield *place, "", "images", len(content[name][1]), NOTE
                    yield from ((*place, OWN_SCORE, metric, value, "") for metric, value in metrics.items())
