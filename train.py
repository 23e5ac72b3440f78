"""Train one run: data × model × loss × seed.

  python train.py --dataset digits --model lenet --loss dismax --seed 1              a few seconds on a laptop
  python train.py --dataset cifar10 --model resnet34 --loss dismax_fpr --seed 1      the paper's recipe, for a GPU
  python train.py --dataset cifar10 --model resnet34 --loss dismax_fpr --epochs 1 --results-dir results/epochs1
                                                                                     half an hour on two CPU cores
  torchrun --nproc_per_node=8 train.py --dataset imagenet1k --model resnet18 --loss dismax

Files go to results/<dataset>/<model>/<loss>/seed<k>/ (see runs.py). Stop it whenever you like, also with kill -9: the
same command goes on from there, and ends, on a CPU, with the same bits. A finished run is not done again.
With torchrun the processes share every batch, and BN its statistics: the run is the same run, up to rounding, on any
number of them.
"""
import argparse
import contextlib
import math
import signal
import statistics
import sys
import time

import torch
from tqdm import tqdm

import models
import runs
from data.catalog import CATALOG, EXPOSURE
from data.loaders import digest_of, open_set
from data.openood import benchmark
from data.order import class_balanced, epoch_seed
from engine import devices, parallel
from engine.assemble import members_of, model_of, objective_of
from engine.epoch import Adversary, accuracy_of, batches_of, train_on
from engine.pretrained import initialise
from files import UserError
from recipes import DATASETS, DIVERSITIES, METHODS, SHARED_BATCH, flags, label_of, method_of, recipe_of

# what a run knows of the epoch it is in: the next step, images counted, sums of the report, times, random states
NEW_EPOCH = {"step": 0, "counted": 0, "sums": 0.0, "train_seconds": 0.0, "seconds": 0.0, "random": None}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--model", required=True, choices=list(models.MODELS))
    parser.add_argument("--loss", required=True, metavar="METHOD", help=", ".join(METHODS) + "; or for instance "
                        "dismax-5-gradcam: five DisMax members kept apart by GradCAM")
    parser.add_argument("--members", type=int, help="networks of an ensemble; by default the method's, 1 or 5")
    parser.add_argument("--diversity", choices=DIVERSITIES, help="what keeps members apart; by default the method's")
    parser.add_argument("--outliers", metavar="SET", help="a data set shown as outliers; default: the method's")
    parser.add_argument("--seed", type=int, default=1, help="1 by default; the paper's seeds are 1 to 5")
    parser.add_argument("--data-dir", default="data", help="where data/prepare.py put the sets")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps …; by default the accelerator if there is one")
    parser.add_argument("--fresh", action="store_true", help="start over: remove what is in the run's folder")
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
    parallel.start()
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
        published = recipe_of(args.dataset, name, method)
    recipe = published.changed(**{name: getattr(args, name) for name, _, _ in flags()})
    if recipe.epochs < 1 or recipe.batch_size < 1:
        raise UserError(f"epochs and batch size must be at least 1, got {recipe.epochs} and {recipe.batch_size}")
    data_set, needed = CATALOG[args.dataset], models.MODELS[args.model].image_size
    if needed not in (None, data_set.size):
        raise UserError(f"{args.model} takes images of {needed}×{needed} pixels, {args.dataset} has {data_set.size}×"
                        f"{data_set.size}: choose another --model")
    device = parallel.local_device(devices.choose(args.device))
    reading = {"on_bad_image": args.on_bad_image, "decode": args.decode, "workers": args.workers}
    reading["statistics"] = recipe.mean, recipe.std
    train_set = open_set(args.dataset, "train", args.data_dir, device, **reading)
    judged_by = open_set(args.dataset, "test", args.data_dir, device, **reading)
    if recipe.select_on == "openood":
        judged_by = judged_by.subset(benchmark(args.dataset, args.data_dir).validation.index["test"])
    if recipe.per_class >= 2 and recipe.batch_size % recipe.per_class == 0:
        with refused(ValueError):  # whether there are classes enough
            class_balanced(train_set.labels.cpu(), recipe.batch_size, recipe.per_class, torch.Generator())
    digests = {split: digest_of(args.dataset, split, args.data_dir) for split in ("train", "test")}
    outliers = None
    if method.outliers != "none":
        digests["outliers"] = digest_of(method.outliers, "train", args.data_dir, args.dataset)
        outliers = open_set(method.outliers, "train", args.data_dir, device, like=args.dataset, **reading)

    label = label_of(name, method)
    run = runs.folder(args.results_dir, args.dataset, args.model, label, args.seed)
    with contextlib.ExitStack() as held:
        config = None
        with parallel.failing_together(UserError):
            if parallel.is_main():
                held.enter_context(runs.locked(run))
                if args.fresh:
                    runs.clear(run)
                config = runs.claim(run, {
                    "run": {"dataset": args.dataset, "model": args.model, "loss": label, "seed": args.seed},
                    "method": vars(method),
                    "recipe": recipe.as_dict(),
                    "overrides": {name: {"published": theirs, "used": ours}
                                  for name, (ours, theirs) in recipe.differences(published).items()},
                    "data": digests,
                })
        config = parallel.from_main(config)
        if not parallel.from_main(runs.finished(run)):
            train(run, config, recipe, train_set, judged_by, outliers, device)
        elif parallel.is_main():
            (run / "checkpoint.pt").unlink(missing_ok=True)  # killed at the very last moment
            print(f"{run} is finished ({recipe.epochs} epochs). Nothing to do; --fresh would start over")


@contextlib.contextmanager
def refused(error_type):
    """A block whose error is the person's at the terminal."""
    try:
        yield
    except error_type as error:
        raise UserError(str(error)) from None


def train(run, config, recipe, train_set, judged_by, outliers, device):
    seed, main_process = config["run"]["seed"], parallel.is_main()
    torch.manual_seed(epoch_seed(seed, 0))
    model = model_of(config)
    if recipe.initial != "random":
        initialise(model, config["run"]["model"], recipe.initial, config["method"]["diversity"] not in SHARED_BATCH)
    model = parallel.synchronised(model, device)
    model.to(device, memory_format=torch.channels_last)
    objective = objective_of(model, config, recipe)
    adversary = Adversary(objective.terms["diversity"].discriminator, recipe.discriminator_lr) if (
        config["method"]["diversity"] == "dice") else None
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.momentum > 0,
        fused=True)  # one kernel for all parameters; several times faster than a loop over them, on a CPU too

    at = {"epoch": 1, **NEW_EPOCH, "log": [], "best": {"epoch": 0, "accuracy": -1.0}}
    if (run / "checkpoint.pt").exists():
        at = runs.load_state(run / "checkpoint.pt")
        model.load_state_dict(at.pop("model"))
        optimizer.load_state_dict(at.pop("optimizer"))
        if adversary:
            adversary.load_state_dict(at.pop("adversary"))
        say(f"{run}: going on from epoch {at['epoch']}" + (f", step {at['step']}" if at["step"] else ""))

    def checkpoint():
        if main_process:
            runs.save_state(run / "checkpoint.pt", {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                **({"adversary": adversary.state_dict()} if adversary else {}), **at})

    session = {"from_epoch": at["epoch"], "device": devices.describe(device), "processes": parallel.shard()[1],
               **runs.environment()}
    config = {**config, "parameters": sum(p.numel() for p in model.parameters()),
              "sessions": config.get("sessions", []) + [session]}
    if main_process:
        runs.write_json(run / "config.json", config)

    images, steps = len(train_set), train_set.steps(recipe.batch_size, recipe.per_class)
    done = min((at["epoch"] - 1) * images + at["step"] * recipe.batch_size, recipe.epochs * images)
    bar = tqdm(total=recipe.epochs * images, initial=done, unit="img", unit_scale=True,
               disable=None if main_process else True, desc=" ".join(map(str, config["run"].values())))
    step_of = parallel.averaging(objective, device)
    names = [*objective.names, *(adversary.names if adversary else ())]
    stop = StopSignals()
    while at["epoch"] <= recipe.epochs:
        epoch = at["epoch"]
        restore_chance(at, seed, device)
        model.train()
        started = time.perf_counter()
        if adversary:
            objective.weights["diversity"] = recipe.diversity_weight * min((epoch - 1) / max(recipe.ramp_epochs, 1), 1)
        batches = batches_of(train_set, outliers, config["method"], recipe, seed, epoch, at["step"])
        train_on(batches, step_of, objective, optimizer, adversary, recipe, steps, images, at, stop, bar)
        at["train_seconds"] += time.perf_counter() - started
        accuracy = accuracy_of(model, judged_by, stop)
        at["seconds"] += time.perf_counter() - started

        stopped_by = parallel.any_of(stop.signal)
        if stopped_by:
            at["random"] = parallel.everybodys(devices.random_state(device))
            checkpoint()
            bar.close()
            command = " ".join(word for word in sys.argv if word != "--fresh")
            say(f"\nStopped in epoch {epoch} of {recipe.epochs} after step {at['step']}; all of it is saved. "
                f"Go on with\n  {parallel.command()} {command}")
            sys.exit(128 + stopped_by)
        means = dict(zip(names, (total / at["counted"] for total in at["sums"])))
        for name, value in means.items():
            if not math.isfinite(value):
                raise UserError(f"the training {name} of {run} became {value} in epoch {epoch}. "
                                f"Try a lower --lr than {recipe.lr_at(epoch):g}, with --fresh")
        at["log"].append({
            "epoch": epoch,
            "lr": optimizer.param_groups[0]["lr"],
            "train_loss": means.pop("loss"),
            "train_acc": means.pop("accuracy"),
            "val_acc": accuracy,  # DisMax: of the test split, by which the paper selected; the honest column does not
            **means,
            "distance_scale": statistics.mean(map(distance_scale, members_of(model))),
            "images_per_second": images / at["train_seconds"],
            "seconds": at["seconds"],
        })
        bar.set_postfix(epoch=epoch, loss=f"{at['log'][-1]['train_loss']:.3f}", test=f"{100 * accuracy:.2f} %")
        later_of_equals = recipe.select_on == "openood"  # SDDE; DisMax takes the first
        is_best = (accuracy, later_of_equals) > (at["best"]["accuracy"], False)
        if is_best:
            at["best"] = {"epoch": epoch, "accuracy": accuracy}
        if main_process:
            if is_best:
                runs.save_state(run / "weights_best.pt", model.state_dict())
            runs.write_log(run, at["log"])
        at = {**at, "epoch": epoch + 1, **NEW_EPOCH}
        checkpoint()
    bar.close()
    unreadable = parallel.everybodys(sorted(getattr(train_set, "bad", ())))
    if main_process:
        finish(run, {**config, "unreadable_files": sorted(set(sum(unreadable, [])))}, model, at)


def finish(run, config, model, at):
    seconds, best, last = sum(row["seconds"] for row in at["log"]), at["best"], at["log"][-1]["val_acc"]
    runs.write_json(run / "config.json", {
        **config, "best_epoch": best["epoch"], "best_accuracy": best["accuracy"], "last_accuracy": last,
        "wall_clock_seconds": round(seconds, 1)})
    runs.save_state(run / "weights.pt", model.state_dict())  # after all else: it says that the run is finished
    (run / "checkpoint.pt").unlink()
    images = {"test": "test", "openood": "validation"}[config["recipe"]["select_on"]]
    print(f"{run}: {len(at['log'])} epochs in {seconds:.0f} s, {images} accuracy {100 * last:.2f} % "
          f"(best {100 * best['accuracy']:.2f} % in epoch {best['epoch']})")


def restore_chance(at, seed, device):
    """The random state of an epoch's begin, a function of (seed, epoch, process) alone, or of where it was left."""
    k, n = parallel.shard()
    if at["step"] and len(at["random"]) == n:
        devices.restore_random_state(at["random"][k], device)
    else:
        torch.manual_seed(epoch_seed(seed, at["epoch"], *([k] if k else []), *([at["step"]] if at["step"] else [])))


def distance_scale(member):
    return abs(member.classifier.distance_scale.item()) if hasattr(member.classifier, "distance_scale") else 1.0


def say(words):
    if parallel.is_main():
        print(words)


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
        sys.exit(f"train.py{parallel.who()}: {error}")
