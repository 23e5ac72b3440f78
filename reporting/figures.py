"""The figures of the report: from the runs of one network to the data of reporting/plots.py.

Only files of the run folders are read: log.csv, scores/, logits/ and saliency.npz. A figure without its files is left
out.
"""
import math
from functools import partial
from typing import NamedTuple

import numpy as np

from metrics.calibration import cross_fitted_logits, probabilities_of
from metrics.detection import detection_metrics
from recipes import dismax_score
from reporting import dismax, openood, plots
from reporting.comparison import compare
from reporting.names import in_order, sdde_script_score, title_of
from utils.io import UserError
from utils.npz import Damaged, array_headers, read_arrays

SALIENCY = {"sets", "groups", "images", "maps", "predicted", "correlations", "mean_correlations"}  # engine/saliency.py


class Picture(NamedTuple):
    name: str  # of its file, without .png
    title: str
    caption: str  # after the title: sentences
    draw: object  # () → a matplotlib Figure


def summaries(dataset, runs):
    """A Picture for each benchmark and network: our numbers and the paper's, under the published protocol."""
    for benchmark, name in ((dismax.BENCHMARK, "DisMax's benchmark"), (openood.BENCHMARK, "openood benchmark")):
        lines = compare(benchmark, dataset, runs)
        if benchmark is openood.BENCHMARK and not any(run.members > 1 for line in lines for run in line.runs):
            continue
        for model in dict.fromkeys(line.model for line in lines):
            if columns := summary_columns([line for line in lines if line.model == model]):
                beside = any(math.isfinite(row[1]) for rows in columns.values() for row in rows)
                yield Picture(f"{dataset}_{model}_{benchmark.name}_summary",
                              f"{title_of(model)}, {name}{': ours and the paper' * beside}",
                              "Mean and standard deviation over n seeds, under the paper's protocol.",
                              partial(plots.ours_beside_paper, columns))


def summary_columns(lines):
    """{column: [(method, paper's mean, std, our mean, std)]} of detection columns that have numbers of ours.

    Each method and recipe once: by the published protocol, or by the first one that it has.
    """
    first = {}
    for line in lines:
        if line.runs or any(math.isfinite(cell.paper) for cell in line.cells):
            first.setdefault((line.title, line.changed), line)
    columns = {}
    for k, cell in enumerate(lines[0].cells):
        if "AUROC" in cell.column or "AUPR" in cell.column:
            rows = []
            for (title, changed), line in first.items():
                cell, n = line.cells[k], len(line.runs)
                title += f"{', changed recipe' * bool(changed)}{f', n = {n}' if n else ''}"
                rows.append((title, cell.paper, cell.paper_std, cell.ours, cell.ours_std))
            if any(math.isfinite(row[3]) for row in rows):
                columns[cell.column] = rows
    return columns


def pictures(dataset, model, runs):
    """The Pictures of one network's runs, all by one recipe."""
    name, network = f"{dataset}_{model}" + "_changed" * bool(runs[0].changed), title_of(model)
    first = {}  # method → the first seed's run
    for method in in_order({run.method for run in runs}):
        first[method] = min((run for run in runs if run.method == method), key=lambda run: run.seed)
    scored = {title_of(method): found for method, run in first.items() if (found := dumped_scores(dataset, run))}
    which = "First seed, last epoch, whole test sets"
    if scored:
        yield Picture(f"{name}_scores", f"{network}: scores of test images", f"{which}, temperature 1.",
                      partial(plots.score_histograms, scored))
        yield Picture(f"{name}_roc", f"{network}: receiver operating characteristic", f"{which}, temperature 1.",
                      partial(plots.roc_curves, scored))
    if calibrated := {title_of(method): found for method, run in first.items() if (found := calibration_of(run))}:
        yield Picture(f"{name}_reliability", f"{network}: reliability", f"{which}. Accuracy and number of samples in "
                      "each bin of confidence. A hollow point has fewer than ten samples. T cross-fitted: T is fitted "
                      "by NLL on the other half of the test images.", partial(plots.reliability_diagrams, calibrated))
    if curves := curves_of(runs):
        yield Picture(f"{name}_training", f"{network}: training", "Error on the images that select the best epoch, one "
                      "line per seed.", partial(plots.training_curves, curves))
    yield from saliency(name, network, first)


# ---- data of the figures ----

def arrays_if_there(path):
    """The arrays of an .npz file; {} when it is missing or damaged."""
    try:
        keys = list(array_headers(path))
        return dict(zip(keys, read_arrays(path, *keys)))
    except (FileNotFoundError, UserError, Damaged):
        return {}


def are_numbers(values, dimensions):
    """Whether they are an array of finite numbers, and there are any."""
    return (values is not None and values.ndim == dimensions and values.dtype.kind in "fi" and values.size > 0
            and bool(np.isfinite(values).all()))


def dumped_scores(dataset, run):
    """(score's name, in-distribution scores, {set: (group, scores, AUROC)}) of a run's dumps, or None."""
    score = dismax_score(dataset, run.method, "far") if run.members == 1 else sdde_script_score(
        dataset, run.method) or openood.COMMON_SCORE
    paths = sorted((run.folder / "scores" / score).glob("*.npz"))
    dumps = {path.stem: arrays_if_there(path).get("conf") for path in paths}
    dumps = {name: conf for name, conf in dumps.items() if are_numbers(conf, 1)}
    if dataset not in dumps or len(dumps) < 2:
        return None
    groups = {row[1]: row[2] for row in run.rows if row[2] in dismax.GROUPS}
    id_scores = dumps.pop(dataset)
    ordered = sorted(dumps, key=lambda name: (*dismax.GROUPS, "").index(groups.get(name, "")))
    return score, id_scores, {title_of(name): (
        groups.get(name, ""), dumps[name], detection_metrics(id_scores, dumps[name])["auroc"]) for name in ordered}


def calibration_of(run):
    """{label: (probabilities, labels)} before and after calibration, from a run's logits; {} without them."""
    content = arrays_if_there(run.folder / "logits" / f"{run.id_dataset}.npz")
    logits, labels = content.get("logits"), content.get("labels")
    if not are_numbers(logits, 3) or not are_numbers(labels, 1) or not 2 <= len(labels) == logits.shape[1]:
        return {}
    logits = logits.mean(0).astype(np.float64)  # (N, n, C) → (n, C)
    return {"T = 1": (probabilities_of(logits), labels),
            "T cross-fitted": (probabilities_of(cross_fitted_logits(logits, labels)[0]), labels)}


def curves_of(runs):
    """{images: {method: [(epochs, accuracies)]}}"""
    curves = {}
    for method in in_order({run.method for run in runs}):
        for run in runs:
            if run.method == method and run.log:
                where = f"{run.config.get('selection_split') or 'test'} images"
                curves.setdefault(where, {}).setdefault(title_of(method), []).append(
                    ([row["epoch"] for row in run.log], [row["selection_acc"] for row in run.log]))
    return curves


# ---- saliency ----

def are_maps(content):
    """Whether the arrays have the types and shapes that engine/saliency.py writes."""
    if not content.keys() >= SALIENCY or content["maps"].ndim != 5:
        return False
    sets, count, members = content["maps"].shape[:3]  # (S, n, N, h, w)
    shapes = {"maps": content["maps"].shape, "predicted": (sets, count),
              "correlations": (sets, count, members, members)}
    images, means = content["images"], content["mean_correlations"]
    return (all(are_numbers(content[key], len(shape)) and content[key].shape == shape for key, shape in shapes.items())
            and images.dtype == np.uint8 and images.ndim == 5 and images.shape[:2] == (sets, count)
            and images.shape[4] in (1, 3) and means.dtype.kind == "f" and means.ndim == 2 and len(means) == sets
            and all(content[key].dtype.kind == "U" and content[key].shape == (sets,) for key in ("sets", "groups")))


def saliency(name, network, first):
    """Pictures of saliency maps on the same images, of DE and SDDE or of the first two ensembles with maps; and the
    correlations of all ensembles.

    Args:
        first: method → the run to show.
    """
    found = {method: content for method, run in first.items()
             if run.members > 1 and are_maps(content := arrays_if_there(run.folder / "saliency.npz"))}
    found = {method: content for method, content in found.items()
             if np.array_equal(content["images"], next(iter(found.values()))["images"])}
    if not found:
        return
    reference = next(iter(found.values()))
    sets = [f"{'in-distribution' if group == 'id' else group.replace('_', ' ')}: {title_of(str(one))}"
            for group, one in zip(reference["groups"], reference["sets"])]
    shown = [(k, j) for k in range(len(sets)) for j in range(2 if len(sets) < 5 else 1)]
    pair = [method for method in ("de", "gradcam") if method in found]
    pair = pair if len(pair) == 2 else list(found)[:2]
    maps = {title_of(method): [tuple(found[method][key][k, j] for key in ("maps", "correlations", "predicted"))
                               for k, j in shown] for method in pair}
    rows = [(sets[k].replace(": ", ":\n"), reference["images"][k, j]) for k, j in shown]
    yield Picture(f"{name}_saliency", f"{network}: saliency maps", "First seed, best epoch. GradCAM maps of members "
                  "for the class that the ensemble predicts, and the correlations of these maps (red +1, white 0, blue "
                  "−1; a map that is 0 everywhere has correlation 0).", partial(plots.saliency_maps, rows, maps))
    correlations = {title_of(method): content["mean_correlations"] for method, content in found.items()}
    count = reference["mean_correlations"].shape[1]
    yield Picture(f"{name}_saliency_correlation", f"{network}: correlation of members' saliency maps",
                  f"Mean over pairs of members; one point per image, at most {count} images per set. The bar is one "
                  "standard deviation over images.", partial(plots.saliency_correlations, sets, correlations))
