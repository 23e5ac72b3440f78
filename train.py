"""Train one run: data × model × loss × seed.

  python train.py --dataset digits --model lenet --loss dismax --seed 1              a few seconds on a laptop
  python train.py --dataset cifar10 --model resnet34 --loss dismax_fpr --seed 1      the paper's recipe, for a GPU
  python train.py --dataset cifar10 --model resnet34 --loss dismax_fpr --epochs 1 --results-dir results/epochs1
                                                                                     half an hour on two CPU cores
  python train.py --dataset cifar10 --model resnet34 --loss dismax_fpr --seeds 1 2 3 4 5
                                                                                     side by side, which fills a GPU
  torchrun --nproc_per_node=8 train.py --dataset imagenet1k --model resnet18 --loss dismax

Files go to results/<dataset>/<model>/<loss>/seed<k>/ (see utils/run_dir.py). Stop it whenever you like, also with
kill -9: the same command goes on from there, and ends, on a CPU, with the same bits. A finished run is not done again.
With torchrun the processes share every batch, and BN its statistics: the run is the same run, up to rounding, on any
number of them.
"""
import argparse
import contextlib
import signal
import sys

import numpy as np
import torch

import models
from data.datasets import CATALOG, EXPOSURE
from data.loaders import digest_of, open_set
from data.openood import benchmark
from data.sampling import class_balanced
from engine import devices, distributed, memory
from engine.train_step import speed_of
from engine.training import take_turns, training
from recipes import DATASETS, DIVERSITIES, METHODS, flags, label_of, method_of, recipe_of
from utils import run_dir
from utils.io import UserError


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--model", required=True, choices=list(models.MODELS))
    parser.add_argument("--loss", required=True, metavar="METHOD", help=", ".join(METHODS) + "; or for instance "
                        "dismax-5-gradcam: five DisMax members kept apart by GradCAM")
    parser.add_argument("--members", type=int, help="networks of an ensemble; by default the method's, 1 or 5")
    parser.add_argument("--diversity", choices=DIVERSITIES, help="what keeps members apart; by default the method's")
    parser.add_argument("--outliers", metavar="SET", help="a data set shown as outliers; default: the method's")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="1 by default; the paper's seeds are 1 to 5")
    seeds.add_argument("--seeds", type=int, nargs="+", help="several runs at once, over one copy of the data, each as "
                       "its own command would make it")
    parser.add_argument("--data-dir", default="data", help="where data/prepare.py put the sets")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps …; by default the accelerator if there is one")
    parser.add_argument("--fresh", action="store_true", help="start over: remove what is in the run's folder")
    fast = parser.add_argument_group("speed", "by default what pays on the device; the recipe stays the same")
    fast.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="bfloat16 autocast; heads, losses and "
                      "BN statistics stay float32 (default: on GPUs that have it)")
    fast.add_argument("--graphs", action=argparse.BooleanOptionalAction, help="replay the step as a CUDA graph "
                      "(default: on GPUs, but for DICE, --micro-batch and several processes)")
    fast.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile the whole loss (default: "
                      "not; it costs a minute, and gave a ResNet34 5 %% on two CPU cores)")
    reading = parser.add_argument_group("reading image files (ImageNet)")
    reading.add_argument("--on-bad-image", choices=("stop", "skip"), default="stop", help="of one that can't be read")
    reading.add_argument("--decode", choices=("cpu", "device"), default="cpu", help="device: JPEGs by nvJPEG on a GPU")
    reading.add_argument("--workers", type=int, help="reading processes; by default one a core, at most 16")
    recipe = parser.add_argument_group("recipe", "by default the published one; see recipes.py")
    for name, kind, explanation in flags():
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            recipe.add_argument(flag, action=argparse.BooleanOptionalAction, help=explanation)
        elif kind is tuple:
            recipe.add_argument(flag, type=int if name == "milestones" else float, nargs="*", help=explanation)
        else:
            recipe.add_argument(flag, type=kind, help=explanation)
    return parser.parse_args()


def main():
    args = arguments()
    distributed.start()
    with refused(ValueError):
        name, method = method_of(args.loss)
    method = method.changed(args.members, args.diversity, args.outliers)
    if method.outliers == "default":
        if args.dataset not in EXPOSURE:
            raise UserError(f"{args.loss} shows outliers, and neither paper has any for {args.dataset}: --outliers SET")
        method = method.changed(outliers=EXPOSURE[args.dataset])
    to_show = ["none", *(name for name, known in CATALOG.items() if "train" in known.counts)]
    if method.outliers not in to_show:
        raise UserError(f"--outliers {method.outliers} has no training images: choose from {', '.join(to_show)}")
    if method.members < 1:
        raise UserError(f"--members must be at least 1, got {method.members}")
    with refused(ValueError):
        published = recipe_of(args.dataset, name, method, args.model)
    recipe = published.changed(**{name: getattr(args, name) for name, _, _ in flags()})
    if recipe.epochs < 1 or recipe.batch_size < 1:
        raise UserError(f"epochs and batch size must be at least 1, got {recipe.epochs} and {recipe.batch_size}")
    data_set, needed = CATALOG[args.dataset], models.MODELS[args.model].image_size
    if needed not in (None, data_set.size):
        raise UserError(f"{args.model} takes images of {needed}×{needed} pixels, {args.dataset} has {data_set.size}×"
                        f"{data_set.size}: choose another --model")
    seeds = list(dict.fromkeys(args.seeds or [1 if args.seed is None else args.seed]))
    if len(seeds) > 1 and distributed.several():
        raise UserError("several processes train one seed at a time: --seed, not --seeds")
    device = distributed.local_device(devices.choose(args.device))
    speed = speed_of(device, method, recipe, args.bf16, args.graphs, args.compile)
    reading = {"on_bad_image": args.on_bad_image, "decode": args.decode, "workers": args.workers}
    reading["statistics"] = recipe.mean, recipe.std
    train_set = open_set(args.dataset, "train", args.data_dir, device, **reading)
    judged_by = open_set(args.dataset, "test", args.data_dir, device, **reading)
    if recipe.select_on == "openood":
        judged_by = judged_by.subset(benchmark(args.dataset, args.data_dir).validation.index["test"])
    if recipe.per_class >= 2 and recipe.batch_size % recipe.per_class == 0:
        with refused(ValueError):  # whether there are classes enough
            class_balanced(train_set.labels.cpu(), recipe.batch_size, recipe.per_class, np.random.default_rng())
    digests = {split: digest_of(args.dataset, split, args.data_dir) for split in ("train", "test")}
    outliers = None
    if method.outliers != "none":
        digests["outliers"] = digest_of(method.outliers, "train", args.data_dir, args.dataset)
        outliers = open_set(method.outliers, "train", args.data_dir, device, like=args.dataset, **reading)

    label = label_of(name, method)
    overrides = {name: {"published": theirs, "used": ours}
                 for name, (ours, theirs) in recipe.differences(published).items()}
    with contextlib.ExitStack() as held:
        configs = {}
        with distributed.failing_together(UserError):
            for seed in seeds if distributed.is_main() else ():
                run = run_dir.folder(args.results_dir, args.dataset, args.model, label, seed)
                held.enter_context(run_dir.locked(run))
                if args.fresh:
                    run_dir.clear(run)
                configs[run] = run_dir.claim(run, {
                    "run": {"dataset": args.dataset, "model": args.model, "method": label, "seed": seed},
                    "method": vars(method),
                    "recipe": recipe.as_dict(),
                    "overrides": overrides,
                    "data": digests,
                })
                if run_dir.finished(run):
                    configs.pop(run)
                    (run / "checkpoint.pt").unlink(missing_ok=True)  # killed at the very last moment
                    print(f"{run} is finished ({recipe.epochs} epochs). Nothing to do; --fresh would start over")
        configs = distributed.from_main(configs)
        if configs:
            train(configs, recipe, (train_set, judged_by, outliers), device, speed)


def train(configs, recipe, sets, device, speed):
    """Train the runs of configs, run → config, side by side; ends the program if it is stopped or if one fails."""
    needed = memory.estimate(next(iter(configs.values())), recipe, speed.bf16)
    if distributed.is_main():
        each = f" for each of {len(configs)} seeds" if len(configs) > 1 else ""
        print(f"A step needs {memory.report(needed)}{each}")
    torch.backends.cudnn.benchmark = True  # batches are all of one size: cuDNN may measure its algorithms once
    stop, seeds = StopSignals(), [config["run"]["seed"] for config in configs.values()]
    results = take_turns([
        training(run, config, recipe, sets, device, speed, stop, together=seeds if len(seeds) > 1 else (), line=line)
        for line, (run, config) in enumerate(configs.items())], device)
    failed = [result for result in results if isinstance(result, UserError)]
    if stopped_by := max((result for result in results if result not in failed), default=0):
        command = " ".join(word for word in sys.argv if word != "--fresh")
        if distributed.is_main():
            print(f"Go on with\n  {distributed.command()} {command}")
        sys.exit(128 + stopped_by)
    if failed:
        raise UserError("\n".join(map(str, failed)))


@contextlib.contextmanager
def refused(error_type):
    """A block whose error is the person's at the terminal."""
    try:
        yield
    except error_type as error:
        raise UserError(str(error)) from None


class StopSignals:
    """Ctrl-C and SIGTERM are noted, to be obeyed between two steps; a second one is obeyed at once."""

    def __init__(self):
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number, frame):
        if self.signal:
            sys.exit(128 + number)
        self.signal = number


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"train.py{distributed.who()}: {error}")
