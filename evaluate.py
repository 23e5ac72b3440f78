"""Evaluate trained runs: run the network once over every test set, then compute every score and metric from its logits.

  python evaluate.py results/cifar10/resnet34/dismax_fpr/seed1
  python evaluate.py results/digits/lenet/*/seed*
  python evaluate.py --pretrained                    torchvision's ResNet18 as ImageNet's SoftMax row, without training
  torchrun --nproc_per_node=8 evaluate.py RUN        every set in eight parts

For each run, with the last epoch's weights and with the best (test) epoch's:
  logits/<set>.npz, logits_best/<set>.npz     logits (N, n, C) float32, labels (n) int64, −1 for outliers
  calibration.json                            temperatures of both protocols; thresholds of every score
  metrics.csv                                 benchmark, set, group, weights, score, metric, value (fractions)

Outlier sets that are not prepared are named and left out; when they are there later, the same command adds them
without running the network again on the others. Minutes on a CPU for 32×32 networks, seconds for LeNet or on a GPU.
"""
import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import devices
import parallel
import runs
from assemble import model_of
from data.catalog import OUTLIERS
from data.loaders import available, digest_of, open_set
from files import UserError, written_whole
from metrics import calibration
from metrics.detection import detection_metrics
from metrics.published import published_detection_metrics
from metrics.scores import SCORES
from pretrained import adopt
from step import as_ensemble

WEIGHTS = {"last": ("weights.pt", "logits"), "best": ("weights_best.pt", "logits_best")}  # name → file, folder
REJECTED = (0.1, 0.5, 1, 2, 5, 10, 20)  # per cent of in-distribution samples that a threshold turns away


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders that train.py has finished")
    parser.add_argument("--pretrained", nargs="?", const="", metavar="FILE", help="make a run of torchvision's "
                        "ResNet18 for ImageNet-1k and evaluate it; FILE: its weights, else they are downloaded")
    parser.add_argument("--results-dir", default="results", help="where --pretrained puts its run")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps …; by default the accelerator if there is one")
    parser.add_argument("--on-bad-image", choices=("stop", "skip"), default="stop", help="of a file that can't be read")
    parser.add_argument("--decode", choices=("cpu", "device"), default="cpu", help="device: JPEGs by nvJPEG on a GPU")
    parser.add_argument("--workers", type=int, help="reading processes; by default one a core, at most 16")
    args = parser.parse_args()
    if not args.runs and args.pretrained is None:
        parser.error("name a RUN, or use --pretrained")
    parallel.start()
    device = parallel.local_device(devices.choose(args.device))
    if args.pretrained is not None:
        with parallel.failing_together(UserError):
            args.runs.append(adopt(args.results_dir, args.pretrained, parallel.is_main()))
    reading = {"on_bad_image": args.on_bad_image, "decode": args.decode, "workers": args.workers}
    for run in args.runs:
        evaluate(run, args.data_dir, device, reading)


def evaluate(run, data_dir, device, reading):
    """Bring one run's metrics.csv up to date with the sets that are prepared."""
    if not runs.finished(run):
        raise UserError(f"{run} is not a finished run: it has no weights.pt. Train it first: python train.py --help")
    config = runs.read_config(run)
    dataset = config["run"]["dataset"]
    groups = {dataset: "id", **{name: group for group, names in OUTLIERS[dataset].items() for name in names}}
    names = [name for name in groups if name == dataset or available(name, "test", data_dir)]

    rows, temperatures = [], {}
    for weights in WEIGHTS:
        logits, labels, unreadable = logits_of(run, config, weights, names, data_dir, device, reading)
        if not parallel.is_main():
            continue
        rows += [(name, groups[name], weights, "", "unreadable_images", n) for name, n in unreadable.items() if n]
        z = logits[dataset].astype(np.float64)
        quality, temperatures[weights] = quality_metrics(z, labels[dataset])
        rows += [(dataset, "id", weights, "", metric, value) for metric, value in quality.items()]
        in_scores, published_in_scores = all_scores(z), all_scores(logits[dataset], published=True)
        temperatures[weights]["thresholds"] = {
            score: {f"{percent:g}": np.percentile(values, percent) for percent in REJECTED}
            for score, values in in_scores.items()}
        for name in names[1:]:
            out_scores, published_out_scores = all_scores(logits[name]), all_scores(logits[name], published=True)
            for score, values in in_scores.items():
                found = detection_metrics(values, out_scores[score])
                if score in published_in_scores:
                    found |= {f"{metric}_published": value for metric, value in published_detection_metrics(
                        published_in_scores[score], published_out_scores[score]).items()}
                rows += [(name, groups[name], weights, score, metric, value) for metric, value in found.items()]

    if not parallel.is_main():
        return
    runs.write_json(run / "calibration.json", temperatures)
    columns = ("set", "group", "weights", "score", "metric", "value")
    runs.write_table(run / "metrics.csv", [{"benchmark": "dismax", **dict(zip(columns, row))} for row in rows])
    absent = [name for name in groups if name not in names]
    left_out = f"; not prepared: {', '.join(absent)}" if absent else ""
    print(f"{run}: {len(rows)} metrics of {', '.join(names)}{left_out}")


def logits_of(run, config, weights, names, data_dir, device, reading):
    """From disk or from the network, by name: logits (n, C) float32 (the mean over the N members), labels (n), and how
    many images could not be read. On other processes than the first: nothing."""
    if weights == "best" and config["best_epoch"] == config["recipe"]["epochs"]:
        weights = "last"  # they are the same weights
    file, folder = WEIGHTS[weights]
    dataset = config["run"]["dataset"]
    model = None
    logits, labels, unreadable = {}, {}, {}
    for name in names:
        path, digest = run / folder / f"{name}.npz", digest_of(name, "test", data_dir)
        saved = read_logits(path, digest) if parallel.is_main() else None
        if parallel.from_main(saved is None):
            if model is None:
                model = model_of(config)
                model.load_state_dict(runs.load_state(run / file))
                model.to(device, memory_format=torch.channels_last).eval()
            statistics = config["recipe"]["mean"], config["recipe"]["std"]
            data = open_set(name, "test", data_dir, device, like=dataset, statistics=statistics, **reading)
            saved = forward(model, data, f"{weights} weights on {name}", is_id=name == dataset)
            if saved is None:
                continue
            if not np.isfinite(saved[0]).all():
                raise UserError(f"the network of {run} answers {name} with NaN or infinity: its training diverged. "
                                "Train it again with --fresh and a lower --lr")
            with written_whole(path) as out:
                np.savez(out, logits=saved[0], labels=saved[1], unreadable=saved[2], source=digest)
        if saved is not None:
            logits[name], labels[name], unreadable[name] = saved[0].mean(0), saved[1], int(saved[2])  # (n, C), (n)
    return logits, labels, unreadable


def read_logits(path, digest):
    """Saved (logits, labels, unreadable) if they were made from the very images that are there now, else None."""
    try:
        with np.load(path) as content:
            parts = content["logits"], content["labels"], content["unreadable"]
            return parts if content["source"] == digest else None
    except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # absent or damaged: make it again


@torch.inference_mode()
def forward(model, data, title, is_id):
    """(logits (N, n, C) float32, labels (n), unreadable images) on the first process, None on the others."""
    logits, labels = [], []
    hidden = None if parallel.is_main() else True
    with tqdm(total=len(data), unit="img", desc=title, disable=hidden, leave=False) as bar:
        for images, targets in data.eval_batches(shard=parallel.shard()):
            logits.append(as_ensemble(model(images)).float())  # (N, B, C)
            labels.append(targets)
            bar.update(len(targets) * parallel.shard()[1])
    parts = parallel.gathered((
        torch.cat(logits, 1).cpu().numpy(), torch.cat(labels).cpu().numpy(), len(getattr(data, "bad", ()))))
    if parts is None:
        return None
    logits, labels, unreadable = zip(*parts)
    labels = np.concatenate(labels)
    return np.concatenate(logits, 1), labels if is_id else np.full_like(labels, -1), sum(unreadable)


def all_scores(logits, published=False):
    """score → (n) float64. `published`: the paper's six, from a float32 softmax where they are probabilities."""
    z = torch.from_numpy(logits)
    if not published:
        return {name: score(z.double()).numpy() for name, score in SCORES.items()}
    scores = {name: score(z).numpy() for name, score in SCORES.items() if name not in ("energy", "max_logit")}
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
    try:
        main()
    except UserError as error:
        sys.exit(f"evaluate.py{parallel.who()}: {error}")
