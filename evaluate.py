"""Evaluate trained runs: run the network once over every test set, then compute every score and metric from its logits.

  python evaluate.py results/cifar10/resnet34/dismax_fpr/seed1
  python evaluate.py results/digits/lenet/*/seed*
  python evaluate.py --pretrained                    torchvision's ResNet18 as ImageNet's SoftMax row, without training
  torchrun --nproc_per_node=8 evaluate.py RUN        every set in eight parts

For each run, with the last epoch's weights and with the best (test) epoch's:
  logits/<set>.npz, logits_best/<set>.npz     logits (N, n, C) float32, labels (n) int64, −1 for outliers
  calibration.json                            temperatures of both protocols; thresholds of every score
  metrics.csv                                 benchmark, set, group, weights, score, metric, value (fractions), note

Outlier sets that are not prepared are named and left out; when they are there later, the same command adds them
without running the network again on the others. Minutes on a CPU for 32×32 networks, seconds for LeNet or on a GPU.
"""
import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

import argparse
import contextlib
from pathlib import Path

import numpy as np
import torch

from data import corruptions
from data.datasets import CATALOG, CORRUPTED, OUTLIERS
from data.loaders import available
from data.openood import benchmark
from engine import devices, distributed
from engine.inference import CHECKPOINTS, LogitsCache
from engine.foreign_weights import adopt, read_weights
from engine.pretrained import adopt_torchvision
from metrics import calibration
from metrics.detection import detection_metrics
from metrics.ensemble import ensemble_scores
from metrics.published import (
    published_calibration_error,
    published_detection_metrics,
    published_negative_log_likelihood,
)
from metrics.scores import SCORES as DISMAX_SCORES
from recipes import DATASETS, NETWORKS, method_of, recipe_of
from utils import run_dir
from utils.io import UserError
from utils.lock import locked
from utils.plugins import add_plugin_argument, load_plugins
from utils.script import run_script

REJECTED = (0.1, 0.5, 1, 2, 5, 10, 20)  # per cent of in-distribution samples that a threshold turns away


def main():
    load_plugins()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders that train.py has finished")
    parser.add_argument("--if-changed", action="store_true", help="leave runs whose metrics.csv is newer than their "
                        "weights and than every prepared set")
    parser.add_argument("--pretrained", nargs="?", const="", metavar="FILE", help="make a run of torchvision's "
                        "ResNet18 for ImageNet-1k and evaluate it; FILE: its weights, else they are downloaded")
    foreign = parser.add_argument_group("weights that were trained elsewhere", "become a run in --results-dir")
    foreign.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint of the DisMax release, of OpenOOD, "
                         "SDDE, torchvision or timm, or a state dict (.pt, .pth, .safetensors)")
    foreign.add_argument("--dataset", choices=DATASETS, help="what the network was trained on")
    foreign.add_argument("--model", choices=list(NETWORKS))
    foreign.add_argument("--method", "--loss", default="softmax", help="softmax by default; de: five members …")
    foreign.add_argument("--seed", type=int, default=0, help="of the run's folder (default 0: not trained here)")
    foreign.add_argument("--mean", type=float, nargs=3, help="of each channel; by default the recipe's")
    foreign.add_argument("--std", type=float, nargs=3)
    parser.add_argument("--results-dir", default="results", help="where --pretrained and --weights put their run")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps …; by default the accelerator if there is one")
    parser.add_argument("--on-bad-image", choices=("stop", "skip"), default="stop", help="of a file that can't be read")
    parser.add_argument("--decode", choices=("cpu", "device"), default="cpu", help="device: JPEGs by nvJPEG on a GPU")
    parser.add_argument("--workers", type=int, help="reading processes; by default one a core, at most 16")
    add_plugin_argument(parser)
    args = parser.parse_args()
    if not args.runs and args.pretrained is None and args.weights is None:
        parser.error("name a RUN, or use --pretrained or --weights")
    distributed.start()
    device = distributed.local_device(devices.choose(args.device))
    if args.pretrained is not None:
        with distributed.raise_on_all_ranks(UserError):
            args.runs.append(adopt_torchvision(args.results_dir, args.pretrained, distributed.is_main()))
    if args.weights is not None:
        with distributed.raise_on_all_ranks(UserError):
            args.runs.append(adopt_file(args))
    reading = {"on_bad_image": args.on_bad_image, "decode": args.decode, "workers": args.workers}
    if args.if_changed:
        args.runs = [run for run in args.runs if not up_to_date(run, args.data_dir)]
    for folder in args.runs:
        with contextlib.ExitStack() as held:
            with distributed.raise_on_all_ranks(UserError):
                if distributed.is_main():
                    held.enter_context(locked(folder))
            evaluate(folder, args.data_dir, device, reading)


def adopt_file(args):
    """The folder of the run that --weights becomes."""
    if not args.dataset or not args.model:
        raise UserError("--weights FILE needs --dataset and --model")
    try:
        base, method = method_of(args.method)
        recipe = recipe_of(args.dataset, base, method, args.model).changed(mean=args.mean, std=args.std)
    except ValueError as error:
        raise UserError(str(error)) from None
    folder = run_dir.run_folder(args.results_dir, args.dataset, args.model, args.method, args.seed)
    run = run_dir.Run(folder, args.dataset, args.model, args.method, args.seed, method, recipe)
    if distributed.is_main():
        state = read_weights(args.weights)
        adopt(run, CATALOG[args.dataset].classes, state, args.weights.name, run_dir.file_digest(args.weights))
    return folder


def up_to_date(run, data_dir):
    sources = [run / "weights.pt", *Path(data_dir).glob("*/manifest.json")]
    made = run / "metrics.csv"
    return made.exists() and all(path.stat().st_mtime < made.stat().st_mtime for path in sources if path.exists())


def evaluate(folder, data_dir, device, reading):
    """Bring one run's metrics.csv up to date with the sets that are prepared."""
    if not run_dir.is_finished(folder):
        raise UserError(f"{folder} is not a finished run: it has no weights.pt or no config.json. Train it first: "
                        "python train.py --help")
    run, config = run_dir.load_run(folder)
    dataset = run.dataset
    groups = {name: group for group, names in OUTLIERS.get(dataset, {}).items() for name in names}
    outliers = {name: group for name, group in groups.items() if available(name, "test", data_dir, dataset)}
    splits = benchmark(dataset, data_dir)

    rows, fitted = [], {}
    for weights in CHECKPOINTS:
        dumps = LogitsCache(run, config, weights, data_dir, device, reading)
        found, fitted[weights] = dismax_rows(dumps, dataset, outliers)
        more, fitted[weights]["temperature_openood_validation"] = openood_rows(dumps, dataset, splits, data_dir)
        rows += [(*row[:3], weights, *row[3:]) for row in found + more]
        rows += [("", name, "", weights, "", "unreadable_images", n) for name, n in dumps.unreadable.items()]
    if distributed.is_main():
        run_dir.write_json(folder / "calibration.json", fitted)
        columns = ("benchmark", "set", "group", "weights", "score", "metric", "value", "note")
        run_dir.write_table(folder / "metrics.csv", [dict(zip(columns, (*row, ""))) for row in rows])
        absent = [name for name in groups if name not in outliers]
        absent += sum(splits.missing.values(), [])
        left_out = f"; not prepared: {', '.join(dict.fromkeys(absent))}" if absent else ""
        print(f"{folder}: {len(rows)} metrics{left_out}")


# Rows are (benchmark, set, group, score, metric, value) and sometimes a note. On other processes than the first, which
# only help to run the network, they are empty.

def dismax_rows(dumps, dataset, outliers):
    """The benchmark of the DisMax paper, by both protocols, for the mean of the members' logits; and what was fitted.

    Args:
        outliers: set → group.
    """
    saved, rows, fitted = dumps.logits(dataset), [], {}
    if saved:
        logits, labels = saved[0].mean(0), saved[1]  # (N, n, C) → (n, C)
        z = logits.astype(np.float64)
        quality, fitted = quality_metrics(z, labels)
        rows = [("dismax", dataset, "id", "", metric, value) for metric, value in quality.items()]
        in_scores, published_in_scores = all_scores(z), all_scores(logits, published=True)
        fitted["thresholds"] = {score: {f"{percent:g}": np.percentile(values, percent) for percent in REJECTED}
                                for score, values in in_scores.items()}
    for name, group in outliers.items():
        if saved := dumps.logits(name):
            logits = saved[0].mean(0)
            out_scores, published_out_scores = all_scores(logits.astype(np.float64)), all_scores(logits, published=True)
            for score, values in in_scores.items():
                found = detection_metrics(values, out_scores[score])
                if score in published_in_scores:
                    found |= {f"{metric}_published": value for metric, value in published_detection_metrics(
                        published_in_scores[score], published_out_scores[score]).items()}
                rows += [("dismax", name, group, score, metric, value) for metric, value in found.items()]
    return rows, fitted


def openood_rows(dumps, dataset, splits, data_dir):
    """The `openood` benchmark: temperature and selection on validation images, every score of members and of their mean
    logits; and the temperature."""
    saved, rows, temperature = dumps.logits(dataset), [], None
    if saved:
        logits, labels = saved
        validation, test = (within(part.index["test"], logits) for part in (splits.validation, splits.test))
        temperature = 1.0  # of a test set of a single image
        if len(validation):
            temperature = calibration.fit_temperature(logits.mean(0)[validation], labels[validation])
        quality = calibrated_metrics(logits.mean(0)[test], labels[test], temperature)
        rows = [("openood", dataset, "id", "", "images", len(test), splits.test.note)]
        rows += [("openood", dataset, "id", "", metric, value) for metric, value in quality.items()]
        in_scores = openood_scores(logits[:, test], temperature)
    chosen_by = {"validation": [splits.validation_outliers]} if splits.validation_outliers else {}
    for group, parts in {**splits.groups, **chosen_by}.items():
        for part in parts:
            pieces = [(dumps.logits(part.name, split), index) for split, index in part.index.items()]
            if temperature:
                out_scores = openood_scores(np.concatenate([z[:, within(index, z)] for (z, _), index in pieces], 1),
                                            temperature)
                rows.append(("openood", part.name, group, "", "images", len(part), part.note))
                rows += [("openood", part.name, group, score, metric, value) for score, values in in_scores.items()
                         for metric, value in detection_metrics(values, out_scores[score]).items()]
    for name in [CORRUPTED[dataset]] if dataset in CORRUPTED else []:
        for corruption, severity in corruptions.available(name, data_dir):
            if saved := dumps.corrupted_logits(name, corruption, severity):
                logits, labels = saved[0].mean(0), saved[1]
                own = calibration.fit_temperature(logits[validation], labels[validation])  # on corrupted images
                quality = calibrated_metrics(logits[test], labels[test], own)
                place = "openood", f"{name}_{corruption}", f"corrupted_{severity}", ""
                rows.append((*place, "images", len(test), corruptions.note(name, corruption, severity, data_dir)))
                rows += [(*place, metric, value) for metric, value in quality.items()]
    return rows, temperature


def within(index, logits):
    """Positions, but for those beyond the end of (N, n, L): without files that can't be read a set is shorter."""
    return index[index < logits.shape[1]]


def openood_scores(logits, temperature):
    """score → (n): SDDE's, of logits (N, n, L) over the temperature, and DisMax's, of the mean logits as they are."""
    mean = torch.from_numpy(logits).double().mean(0)
    own = {name: DISMAX_SCORES[name](mean) for name in ("ES", "MMLS", "MMLES", "MMLEPS")}
    return {name: values.numpy() for name, values in {**ensemble_scores(logits, temperature), **own}.items()}


def calibrated_metrics(logits, labels, temperature):
    """Accuracy, and calibration of (n, L) logits before and after they are divided by the temperature."""
    found = {"accuracy": calibration.accuracy(logits, labels)}
    for suffix, z in (("_uncalibrated", logits), ("", logits / temperature)):
        probabilities = calibration.probabilities_of(z)
        found |= {
            f"ece{suffix}": calibration.expected_calibration_error(probabilities, labels),
            f"ece_published{suffix}": published_calibration_error(probabilities.astype(np.float32), labels),
            f"nll{suffix}": calibration.negative_log_likelihood(z, labels),
            f"nll_published{suffix}": published_negative_log_likelihood(z, labels),
            f"brier{suffix}": calibration.brier_score(probabilities, labels),
        }
    return found


def all_scores(logits, published=False):
    """score → (n) of logits (n, C). `published`: DisMax's six, from a float32 softmax where they are probabilities."""
    z = torch.from_numpy(logits)
    if not published:
        return {name: score(z.double()).numpy() for name, score in DISMAX_SCORES.items()}
    scores = {name: score(z).numpy() for name, score in DISMAX_SCORES.items() if name not in ("energy", "max_logit")}
    return scores | {"MPS": z.softmax(1).amax(1).numpy()}


def quality_metrics(logits, labels):
    """Accuracy and calibration under both protocols, and the temperatures: as published, T and ECE on the same test
    images; honest, each half of the test images under the T of the other half."""
    test_t = calibration.fit_temperature(logits, labels, "ece")
    crossed, crossed_t = calibration.cross_fitted_logits(logits, labels, "nll")
    found = {"accuracy": calibration.accuracy(logits, labels)}
    for suffix, z in (("uncalibrated", logits), ("fitted_on_test", logits / test_t), ("cross_fitted", crossed)):
        probabilities = calibration.probabilities_of(z)
        found |= {
            f"ece_{suffix}": calibration.expected_calibration_error(probabilities, labels),
            f"nll_{suffix}": calibration.negative_log_likelihood(z, labels),
            f"brier_{suffix}": calibration.brier_score(probabilities, labels),
        }
    return found, {"temperature_fitted_on_test_ece": test_t, "temperatures_cross_fitted_nll": crossed_t,
                   "temperature_nll": calibration.fit_temperature(logits, labels, "nll")}


if __name__ == "__main__":
    run_script("evaluate.py", main, distributed.rank_suffix)
