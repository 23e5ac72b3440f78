"""Evaluate trained runs: run the network once on every test set, then compute all scores and metrics from its logits.

  python evaluate.py results/cifar10/resnet34/dismax_fpr/seed1
  python evaluate.py results/digits/lenet/*/seed*
  python evaluate.py RUN --detectors mahalanobis knn vim react     post-hoc detectors of pytorch-ood
  python evaluate.py RUN --ood holiday=DIR                         a folder of images as another OOD set
  python evaluate.py --weights FILE --dataset cifar10 --model resnet34     weights that were trained elsewhere
  python evaluate.py --pretrained                    torchvision's ResNet18 as ImageNet's SoftMax row, without training
  torchrun --nproc_per_node=8 evaluate.py RUN        every set in eight parts

Each run is evaluated with the weights of its last epoch and of its best epoch (files ending in _best). It gets:
  logits/<set>.npz            logits (N, n, C) float32, labels (n) int64, −1 for OOD images; features/<set>.npz likewise
  scores/<score>/<set>.npz    pred, conf, label (n) each, OpenOOD's form; conf is larger for in-distribution images
  calibration.json            temperature and thresholds for detect.py, fitted on all in-distribution test images; also
                              the temperatures of both papers' protocols
  metrics.csv                 benchmark, dataset, ood_group, checkpoint, score, metric, value, note; values are
                              fractions; the last row holds the number of rows and their SHA-256

OOD sets that are not prepared are named and left out. Once they are prepared, the same command adds them, and the
network runs only on them. On a CPU, evaluating a network for 32×32 images takes minutes, and a LeNet seconds. If one of
several runs cannot be evaluated, it is named, the others are evaluated, and the exit status is 1.
"""
import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

import argparse
import contextlib
import sys
from itertools import zip_longest
from pathlib import Path

from data.datasets import CATALOG, OUTLIERS
from data.ood_folder import OODFolder
from data.openood import benchmark
from data.subsets import OpenSplits
from engine import detectors, devices, distributed
from engine.arguments import check_dataset
from engine.detection import calibrate
from engine.foreign_weights import adopt, read_weights
from engine.inference import LogitsCache
from engine.metric_rows import corrupted_rows, dismax_rows, openood_rows
from engine.pretrained import adopt_torchvision
from engine.score_files import write_score_files
from recipes import NETWORKS, method_of, recipe_of
from utils import run_dir
from utils.io import UserError
from utils.lock import locked
from utils.plugins import add_plugin_argument, load_plugins
from utils.script import count, named_folder, run_script, say

IN_BF16 = "the network ran in bfloat16"
OTHER_IMAGES = "prepared again since the training: images that were trained on may be among them"


def main():
    load_plugins()
    args = parse_arguments()
    distributed.start()
    device = distributed.local_device(devices.choose(args.device))
    devices.turn_off_tf32()
    runs = args.runs
    if args.pretrained is not None:
        with distributed.raise_on_all_ranks(UserError):
            runs.append(adopt_torchvision(args.results_dir, args.pretrained, distributed.is_main()))
    if args.weights is not None:
        with distributed.raise_on_all_ranks(UserError):
            runs.append(adopt_file(args))
    if args.if_changed and not (args.detectors or args.ood or args.bf16):
        runs = [run for run in runs if not up_to_date(run, args.data_dir)]
    failed = []
    for folder in runs:
        try:
            with contextlib.ExitStack() as held:
                with distributed.raise_on_all_ranks(UserError):
                    check_finished(folder)
                    if distributed.is_main():
                        held.enter_context(locked(folder, wait=args.if_locked == "wait"))
                with devices.explain_out_of_memory(device, devices.FEWER_PROCESSES):
                    evaluate(folder, args, device)
        except UserError as error:
            if len(runs) == 1 or distributed.is_distributed():
                raise
            print(f"evaluate.py: {error}", file=sys.stderr)
            failed.append(str(folder))
    if failed:
        raise UserError(f"not evaluated: {', '.join(failed)}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--if-changed", action="store_true", help="skip runs whose metrics.csv is newer than their "
                        "weights and all prepared sets")
    parser.add_argument("--detectors", nargs="+", action="extend", default=[], metavar="NAME",
                        help="post-hoc detectors, fitted on the features of training images: "
                        f"{', '.join(detectors.known_detectors())} (pip install "
                        "pytorch-ood). The tables have their rows until the run is evaluated without them")
    parser.add_argument("--ood", nargs="+", action="extend", default=[], type=named_folder, metavar="NAME=DIR",
                        help="folders of images in any layout, as more OOD sets. As with detectors, the "
                        "tables have their rows until the run is evaluated without them")
    parser.add_argument("--bf16", action="store_true", help="run the network in bfloat16, for large sets on devices "
                        "with matrix units for it; metrics.csv records it (default: float32, without TF32)")
    parser.add_argument("--pretrained", nargs="?", const="", metavar="FILE", help="make a run of torchvision's "
                        "ResNet18 for ImageNet-1k and evaluate it; without FILE its weights are downloaded")
    foreign = parser.add_argument_group("weights that were trained elsewhere", "they become a run in --results-dir")
    foreign.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint of the DisMax release, OpenOOD, "
                         "SDDE, torchvision or timm, or a state dict (.pt, .pth, .safetensors)")
    foreign.add_argument("--dataset", help="data set that the network was trained on")
    foreign.add_argument("--model", choices=list(NETWORKS), help="the network")
    foreign.add_argument("--method", "--loss", default="softmax", help="default: softmax; de for an ensemble of five")
    foreign.add_argument("--seed", type=int, default=0, help="seed in the name of the run's folder (default: 0)")
    foreign.add_argument("--mean", type=float, nargs=3, help="mean of each channel (default: the recipe's)")
    foreign.add_argument("--std", type=float, nargs=3, help="standard deviation of each channel")
    parser.add_argument("--results-dir", default="results", help="folder for the runs of --pretrained and --weights")
    parser.add_argument("--data-dir", default="data", help="folder of the prepared data sets (default: data)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the accelerator if there is one)")
    parser.add_argument("--on-bad-image", choices=("stop", "skip"), default="stop", help="what to do with an "
                        "unreadable image file (default: stop)")
    parser.add_argument("--workers", type=count, help="processes that read images (default: one per core, at most 16)")
    parser.add_argument("--if-locked", choices=("fail", "wait"), default="fail", help="what to do when another process "
                        "uses the run's folder (default: fail)")
    add_plugin_argument(parser)
    args = parser.parse_args()
    if not args.runs and args.pretrained is None and args.weights is None:
        parser.error("name a RUN, or use --pretrained or --weights")
    detectors.check_detectors(args.detectors)
    names = [name.lower() for name, _ in args.ood]  # some file systems have one case
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--ood has the name {twice[0]} twice: each folder needs a name of its own, and capitals do "
                        "not count")
    return args


def adopt_file(args):
    """The folder of the run that --weights becomes."""
    if not args.dataset or not args.model:
        raise UserError("--weights FILE needs --dataset and --model")
    if args.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {args.seed}")
    check_dataset(args.dataset, args.data_dir)
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


def check_finished(folder):
    if not run_dir.is_finished(folder):
        raise UserError(f"{folder} is not a finished run: it has no weights.pt or no config.json. Train it first: "
                        "python train.py --help")


def evaluate(folder, args, device):
    """Bring the files of one run up to date with the prepared sets."""
    check_finished(folder)  # again, now that nobody else can change it
    run, config = run_dir.load_run(folder)
    check_dataset(run.dataset, args.data_dir)
    splits = OpenSplits(args.data_dir, run.dataset)
    check_classes(folder, config, splits.get(run.dataset))
    own = [OODFolder(name, path, run.dataset) for name, path in args.ood]
    listed = benchmark(run.dataset, args.data_dir, splits, own)
    groups = {name: group for group, names in OUTLIERS.get(run.dataset, {}).items() for name in names}
    ood_splits = [(splits.get(name), group) for name, group in groups.items() if splits.available(name)]
    ood_splits += [(split, "ood") for split in own]
    loader_options = {"on_unreadable": args.on_bad_image, "workers": args.workers}

    rows, calibrations = [], {}
    for checkpoint in run_dir.CHECKPOINTS:
        cache = LogitsCache(run, config, checkpoint, device, bool(args.detectors), args.bf16, loader_options)
        detector_scores = args.detectors and detectors.FittedDetectors(
            args.detectors, cache, splits.get(run.dataset, "train"))
        found, calibrations[checkpoint] = checkpoint_rows(
            cache, splits.get(run.dataset), ood_splits, listed, detector_scores)
        rows += [(*row[:3], checkpoint, *row[3:]) for row in found + corrupted_rows(
            cache, listed, calibrations[checkpoint].get("temperature_openood_validation"), args.data_dir)]
        rows += [("", name, "", checkpoint, "", "unreadable_images", n) for name, n in cache.unreadable.items()]
        if checkpoint == "last":
            weights = cache.weights_digest
            write_score_files(cache, [splits.get(run.dataset), *(split for split, _ in ood_splits)], detector_scores)
    is_other = config.get("data", {}).get("test", splits.get(run.dataset).digest) != splits.get(run.dataset).digest
    rows = with_notes(rows, args.bf16, is_other)
    if distributed.is_main():
        run_dir.write_json(folder / "calibration.json", calibrations)
        run_dir.write_metrics(folder, rows, weights)
        absent = [name for name in groups if not splits.available(name)] + sum(listed.missing.values(), [])
        if is_other:
            say(f"{folder}: the test images of {run.dataset} were {OTHER_IMAGES}. Tables say so")
        left_out = f"; not prepared: {', '.join(dict.fromkeys(absent))}" if absent else ""
        say(f"{folder}: {len(rows)} metrics{left_out}")


def check_classes(folder, config, split):
    """UserError when the classes of the test images are not those, each with its number, that the network learned."""
    learned, here = (config.get("images") or {}).get("class_names"), split.class_names
    if learned and here and learned != here:
        k, was, now = next((k, was, now) for k, (was, now) in enumerate(zip_longest(learned, here)) if was != now)
        raise UserError(f"{folder} was trained on other classes than {split.name} has now: {len(learned)} then and "
                        f"{len(here)} now, and class {k} was {was or 'not there'} and is {now or 'not there'}. Prepare "
                        "the set again from the same images, or train again with --fresh")
    if "weights_from" in config and here and len(here) != config["num_classes"]:
        raise UserError(f"{folder} has weights for {config['num_classes']} classes, and the images of {split.name} "
                        f"have {len(here)}: which number each of them has is unknown. Put all classes into the "
                        "training folder")


def with_notes(rows, in_bf16, is_other):
    """The rows, those that count images with what else is to be said of them."""
    noted = []
    for row in rows:
        notes = [IN_BF16] * in_bf16 + [OTHER_IMAGES] * (is_other and row[2] == "id") if row[5] == "images" else []
        noted.append((*row[:7], "; ".join(filter(None, [*row[7:], *notes]))) if notes else row)
    return noted


def checkpoint_rows(cache, id_split, ood_splits, listed, detector_scores):
    """The rows of both benchmarks under one checkpoint, and its calibration."""
    rows, temperatures = dismax_rows(cache, id_split, ood_splits, detector_scores)
    more, temperature = openood_rows(cache, listed, detector_scores)
    outputs = cache.outputs(id_split)
    if not outputs:
        return [], {}
    made = calibrate(cache.num_classes, outputs.logits.mean(0), outputs.labels)
    return rows + more, {"weights": cache.weights_digest, **made, **temperatures,
                         "temperature_openood_validation": temperature}


if __name__ == "__main__":
    run_script("evaluate.py", main, distributed.rank_suffix)
