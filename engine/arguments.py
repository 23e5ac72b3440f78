"""The command line of train.py: from its arguments to a Run and its data sets. Invalid arguments end in a UserError."""
import argparse
import contextlib

import numpy as np

from data.datasets import CATALOG, EXPOSURE
from data.loaders import open_split
from data.openood import benchmark
from data.sampling import class_balanced
from data.subsets import OpenSplits
from data.user_sets import register
from engine.tracking import TRACKERS
from recipes import DIVERSITIES, METHODS, NETWORKS, RECIPES, add_dataset, method_of, name_of, recipe_of
from utils.io import UserError
from utils.plugins import add_plugin_argument, load_plugins
from utils.recipe import flag, flags
from utils.run_dir import Run, run_folder
from utils.script import count, not_negative


def parse_arguments(description):
    plugins = load_plugins()  # before the registry's names become choices
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help=f"{', '.join(known_datasets())}, or a set of your own made by "
                        "python data/prepare.py --folder NAME=DIR")
    parser.add_argument("--model", required=True, choices=list(NETWORKS), help="the network")
    parser.add_argument("--method", "--loss", required=True, metavar="METHOD", help=", ".join(METHODS) + " (gradcam is "
                        "SDDE, dismax_fpr DisMax†; docs/running.md has all), or a combination: dismax-5-gradcam is "
                        "five DisMax members with SDDE's diversity loss")
    parser.add_argument("--members", type=int, help="networks in the ensemble (default: the method's, 1 or 5)")
    parser.add_argument("--diversity", choices=["none", *DIVERSITIES], help="diversity loss (default: the method's)")
    parser.add_argument("--outliers", metavar="SET", help="data set for outlier exposure (default: the method's)")
    parser.add_argument("--seed", type=int, default=1, help="default: 1; the papers' seeds are 1 to 5")
    parser.add_argument("--data-dir", default="data", help="folder of the prepared data sets (default: data)")
    parser.add_argument("--results-dir", default="results", help="folder of all runs (default: results)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the accelerator if there is one)")
    parser.add_argument("--if-locked", choices=("fail", "wait", "skip"), default="fail", help="what to do when another "
                        "process uses the run's folder (default: fail)")
    parser.add_argument("--fresh", action="store_true", help="remove the files in the run's folder and start over")
    parser.add_argument("--checkpoint-seconds", type=not_negative, default=60, metavar="SECONDS", help="shortest time "
                        "between two checkpoints (default: 60); Ctrl-C and SIGTERM always save one")
    parser.add_argument("--track", choices=TRACKERS, help="report to an experiment tracker (pip install tensorboard, "
                        "or wandb)")
    add_plugin_argument(parser)
    speed = parser.add_argument_group("speed", "these options do not change the recipe; defaults depend on the device")
    speed.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="bfloat16 autocast; heads, losses and BN "
                       "statistics stay float32 (default: on if the device has matrix units for bfloat16)")
    speed.add_argument("--graphs", action=argparse.BooleanOptionalAction, help="replay the step as a CUDA graph "
                       "(default: on for GPUs, but off for --micro-batch, several ranks and PyTorch before 2.13)")
    speed.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile the whole loss "
                       "(default: off; compiling takes a minute and made a ResNet34 5 %% faster on two CPU cores)")
    images = parser.add_argument_group("image files (ImageNet)")
    images.add_argument("--on-bad-image", choices=("stop", "skip"), default="stop", help="what to do with an "
                        "unreadable image file (default: stop)")
    images.add_argument("--workers", type=count, help="processes that read images (default: one per core, at most 16)")
    recipe = parser.add_argument_group("recipe", "the default is the published recipe, see recipes.py")
    for name, kind, text, _ in flags():
        if kind is bool:
            recipe.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=text)
        elif kind is tuple:
            recipe.add_argument(flag(name), type=int if name == "milestones" else float, nargs="*", help=text)
        else:
            recipe.add_argument(flag(name), type=kind, help=text)
    args = parser.parse_args()
    args.plugin = plugins
    return args


def known_datasets(data_dir=None):
    """Names of the data sets that have a recipe; the user's own sets in `data_dir` get the default recipe."""
    for name, info in register(data_dir).items() if data_dir else ():
        if name not in RECIPES["dismax"]:
            add_dataset(name, info.size, info.mean, info.std)
    return list(dict.fromkeys([*RECIPES["dismax"], *RECIPES["sdde"]]))


def check_dataset(name, data_dir):
    """UserError when there is no recipe for a set of this name."""
    if name not in (known := known_datasets(data_dir)):
        raise UserError(f"unknown data set {name!r}: choose from {', '.join(known)}, or make one from a folder: python "
                        f"data/prepare.py --folder {name}=DIR --data-dir {data_dir}")


def resolve_run(args):
    """(Run, its published recipe)."""
    check_dataset(args.dataset, args.data_dir)
    with value_error_is_users():
        base, method = method_of(args.method)
    if args.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {args.seed}")
    method = method.changed(members=args.members, diversity=args.diversity, outliers=args.outliers)
    if method.members < 1:
        raise UserError(f"--members must be at least 1, got {method.members}")
    if method.outliers == "default":
        if args.dataset not in EXPOSURE:
            raise UserError(f"{args.method} trains with outliers, but neither paper has an outlier set for "
                            f"{args.dataset}: name one with --outliers SET")
        method = method.changed(outliers=EXPOSURE[args.dataset])
    trainable = ["none", *(name for name, known in CATALOG.items() if "train" in known.counts)]
    if method.outliers not in trainable:
        raise UserError(f"--outliers {method.outliers} has no training images: choose from {', '.join(trainable)}")
    size, needed = CATALOG[args.dataset].size, NETWORKS[args.model].image_size
    if needed not in (None, size):
        raise UserError(f"{args.model} takes images of {needed}×{needed} pixels, but those of {args.dataset} have "
                        f"{size}×{size}: choose another --model")
    with value_error_is_users():
        published = recipe_of(args.dataset, base, method, args.model)
        recipe = published.changed(**{name: getattr(args, name) for name, *_ in flags()})
    if method.outliers != "none" and recipe.outlier_batch < 1:
        raise UserError(f"--outlier-batch must be at least 1 with --outliers {method.outliers}, got "
                        f"{recipe.outlier_batch}")
    name = name_of(base, method)
    folder = run_folder(args.results_dir, args.dataset, args.model, name, args.seed)
    return Run(folder, args.dataset, args.model, name, args.seed, method, recipe), published


def open_training_sets(args, run, device):
    """(images to train on, images to select the best epoch on, outliers or None), and what config.json says of them."""
    recipe, splits = run.recipe, OpenSplits(args.data_dir, run.dataset)

    def opened(split):
        return open_split(split, device, (recipe.mean, recipe.std), on_unreadable=args.on_bad_image,
                          workers=args.workers)

    train_split, test_split = splits.get(run.dataset, "train"), splits.get(run.dataset)
    train_set, selection_set = opened(train_split), opened(test_split)
    if recipe.select_on == "openood":
        selection_set = selection_set.subset(benchmark(run.dataset, args.data_dir, splits).validation.index["test"])
        if not len(selection_set):
            raise UserError(f"{run.dataset} has {len(test_split)} test images, and none is left to select the epoch "
                            "on. Use --select-on test")
    if recipe.per_class > 1 and recipe.batch_size % recipe.per_class == 0:  # others are refused with the loss
        with value_error_is_users():  # whether there are classes enough
            class_balanced(train_set.labels.cpu(), recipe.batch_size, recipe.per_class, np.random.default_rng())
    digests, outlier_set = {"train": train_split.digest, "test": test_split.digest}, None
    if run.method.outliers != "none":
        outlier_split = splits.get(run.method.outliers, "train")
        digests["outliers"], outlier_set = outlier_split.digest, opened(outlier_split)
    info = CATALOG[run.dataset]
    images = {"size": info.size, "shorter_side": int(info.size / 0.875) if info.folders else info.size,
              "class_names": train_split.class_names}
    record = {"data": digests, "num_classes": info.classes, "images": images}
    return (train_set, selection_set, outlier_set), record


@contextlib.contextmanager
def value_error_is_users():
    """A block whose ValueError is about what the user typed."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from None
