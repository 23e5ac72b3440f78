"""Train one run: data × model × loss × seed.

  python train.py --dataset digits --model lenet --loss dismax --seed 1              a few seconds on a laptop
  python train.py --dataset cifar10 --model resnet34 --loss dismax_fpr --seed 1      the paper's recipe, for a GPU
  python train.py --dataset cifar10 --model resnet34 --loss dismax_fpr --epochs 1 --results-dir results/epochs1
                                                                                     half an hour on two CPU cores

Files go to results/<dataset>/<model>/<loss>/seed<k>/ (see runs.py). Stop it whenever you like, also with kill -9: the
same command goes on from there, and ends, on a CPU, with the same bits. A finished run is not done again.
"""
import argparse
import math
import signal
import sys
import time

import torch
from tqdm import tqdm

import devices
import models
import runs
from data.augment import epoch_seed
from data.catalog import CATALOG
from data.loaders import digest_of, open_set
from files import UserError
from losses import LOSSES
from recipes import RECIPES, flags

# what a run knows of the epoch it is in: the next step, images counted, sums of losses and hits, times, random state
NEW_EPOCH = {"step": 0, "counted": 0, "loss": 0.0, "hits": 0.0, "train_seconds": 0.0, "seconds": 0.0, "random": None}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, choices=list(RECIPES))
    parser.add_argument("--model", required=True, choices=list(models.MODELS))
    parser.add_argument("--loss", required=True, choices=list(LOSSES))
    parser.add_argument("--seed", type=int, default=1, help="1 by default; the paper's seeds are 1 to 5")
    parser.add_argument("--data-dir", default="data", help="where data/prepare.py put the sets")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps …; by default the accelerator if there is one")
    parser.add_argument("--fresh", action="store_true", help="start over: remove what is in the run's folder")
    recipe = parser.add_argument_group("recipe", "by default the published one of the data set; see recipes.py")
    for name, kind, explanation in flags():
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            recipe.add_argument(flag, action=argparse.BooleanOptionalAction, help=explanation)
        elif kind is tuple:
            recipe.add_argument(flag, type=int, nargs="*", help=explanation)
        else:
            recipe.add_argument(flag, type=kind, help=explanation)
    return parser.parse_args()


def main():
    args = arguments()
    published = RECIPES[args.dataset]
    recipe = published.changed(**{name: getattr(args, name) for name, _, _ in flags()})
    if recipe.epochs < 1 or recipe.batch_size < 1:
        raise UserError(f"epochs and batch size must be at least 1, got {recipe.epochs} and {recipe.batch_size}")
    data_set, needed = CATALOG[args.dataset], models.MODELS[args.model].image_size
    if needed not in (None, data_set.size):
        raise UserError(f"{args.model} takes images of {needed}×{needed} pixels, {args.dataset} has {data_set.size}×"
                        f"{data_set.size}: choose another --model")
    device = devices.choose(args.device)
    train_set = open_set(args.dataset, "train", args.data_dir, device)
    test_set = open_set(args.dataset, "test", args.data_dir, device)

    run = runs.folder(args.results_dir, args.dataset, args.model, args.loss, args.seed)
    with runs.locked(run):
        if args.fresh:
            runs.clear(run)
        config = runs.claim(run, {
            "run": {"dataset": args.dataset, "model": args.model, "loss": args.loss, "seed": args.seed},
            "recipe": recipe.as_dict(),
            "overrides": {name: {"published": theirs, "used": ours}
                          for name, (ours, theirs) in recipe.differences(published).items()},
            "data": {split: digest_of(args.dataset, split, args.data_dir) for split in ("train", "test")},
        })
        if runs.finished(run):
            (run / "checkpoint.pt").unlink(missing_ok=True)  # killed at the very last moment
            print(f"{run} is finished ({recipe.epochs} epochs). Nothing to do; --fresh would start over")
            return
        train(run, config, recipe, train_set, test_set, device)


def train(run, config, recipe, train_set, test_set, device):
    dataset, model_name, loss_name, seed = config["run"].values()
    first_part, second_part = LOSSES[loss_name]
    torch.manual_seed(epoch_seed(seed, 0))
    model = models.build(model_name, CATALOG[dataset].classes, first_part)
    model.to(device, memory_format=torch.channels_last)
    criterion = second_part(model.classifier, **({"alpha": recipe.alpha} if loss_name == "dismax_fpr" else {}))
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.momentum > 0)

    at = {"epoch": 1, **NEW_EPOCH, "log": [], "best": {"epoch": 0, "accuracy": -1.0}}
    if (run / "checkpoint.pt").exists():
        at = runs.load_state(run / "checkpoint.pt")
        model.load_state_dict(at.pop("model"))
        optimizer.load_state_dict(at.pop("optimizer"))
        print(f"{run}: going on from epoch {at['epoch']}" + (f", step {at['step']}" if at["step"] else ""))

    def checkpoint():
        runs.save_state(run / "checkpoint.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **at})

    session = {"from_epoch": at["epoch"], "device": devices.describe(device), **runs.environment()}
    config = {**config, "parameters": sum(p.numel() for p in model.parameters()),
              "sessions": config.get("sessions", []) + [session]}
    runs.write_json(run / "config.json", config)

    images = len(train_set)
    done = min((at["epoch"] - 1) * images + at["step"] * recipe.batch_size, recipe.epochs * images)
    bar = tqdm(total=recipe.epochs * images, initial=done, unit="img", unit_scale=True, disable=None,
               desc=f"{dataset} {model_name} {loss_name} seed {seed}")
    stop = StopSignals()
    while at["epoch"] <= recipe.epochs:
        epoch = at["epoch"]
        lr = recipe.lr_at(epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if at["step"] == 0:  # an epoch's chance is a function of (seed, epoch) alone
            torch.manual_seed(epoch_seed(seed, epoch))
        else:
            devices.restore_random_state(at["random"], device)

        model.train()
        started = time.perf_counter()
        batches = train_set.train_batches(recipe.batch_size, seed, epoch, recipe.padding, recipe.flip, at["step"])
        train_on(batches, model, criterion, optimizer, at, stop, bar)
        at["train_seconds"] += time.perf_counter() - started
        accuracy = test_accuracy(model, test_set, stop)
        at["seconds"] += time.perf_counter() - started

        if stop.signal:
            at["random"] = devices.random_state(device)
            checkpoint()
            bar.close()
            command = " ".join(word for word in sys.argv if word != "--fresh")
            print(f"\nStopped in epoch {epoch} of {recipe.epochs} after step {at['step']}; all of it is saved. "
                  f"Go on with\n  python {command}")
            sys.exit(128 + stop.signal)
        if not math.isfinite(at["loss"]):
            raise UserError(f"the training loss of {run} became {at['loss']} in epoch {epoch}. "
                            f"Try a lower --lr than {lr:g}, with --fresh")
        at["log"].append({
            "epoch": epoch,
            "lr": lr,
            "train_loss": at["loss"] / images,
            "train_acc": at["hits"] / at["counted"],
            "val_acc": accuracy,  # of the test split: the paper selected by it, the honest column never looks at it
            "distance_scale": abs(getattr(model.classifier, "distance_scale", torch.ones(1)).item()),
            "images_per_second": images / at["train_seconds"],
            "seconds": at["seconds"],
        })
        bar.set_postfix(epoch=epoch, loss=f"{at['loss'] / images:.3f}", test=f"{100 * accuracy:.2f} %")
        if accuracy > at["best"]["accuracy"]:
            at["best"] = {"epoch": epoch, "accuracy": accuracy}
            runs.save_state(run / "weights_best.pt", model.state_dict())
        runs.write_log(run, at["log"])
        at = {**at, "epoch": epoch + 1, **NEW_EPOCH}
        checkpoint()
    bar.close()

    seconds = sum(row["seconds"] for row in at["log"])
    best, last = at["best"], at["log"][-1]["val_acc"]
    runs.write_json(run / "config.json", {
        **config, "best_epoch": best["epoch"], "best_accuracy": best["accuracy"], "last_accuracy": last,
        "wall_clock_seconds": round(seconds, 1)})
    runs.save_state(run / "weights.pt", model.state_dict())  # after all else: it says that the run is finished
    (run / "checkpoint.pt").unlink()
    print(f"{run}: {recipe.epochs} epochs in {seconds:.0f} s, test accuracy {100 * last:.2f} % "
          f"(best {100 * best['accuracy']:.2f} % in epoch {best['epoch']})")


def train_on(batches, model, criterion, optimizer, at, stop, bar):
    """Step through an epoch, or what is left of it, up to a signal; counts up what `at` knows of the epoch."""
    sums = torch.zeros(2, device=next(model.parameters()).device)  # losses and hits: no step waits for a number
    for inputs, targets in batches:
        inputs, targets = criterion.preprocess(inputs.to(memory_format=torch.channels_last), targets)
        logits = model(inputs)
        loss = criterion(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            plain = criterion.unmixed(len(targets))  # a mixed image has no one class to be right about
            hits = (logits[:plain].argmax(1) == targets[:plain]).sum()
            sums += torch.stack([loss * len(targets), hits])
        at["step"] += 1
        at["counted"] += plain
        bar.update(len(targets))
        if stop.signal:
            break
    loss_sum, hits = sums.tolist()
    at["loss"] += loss_sum
    at["hits"] += hits


class StopSignals:
    """Ctrl-C and SIGTERM are noted, to be obeyed between two steps; a second one is obeyed at once."""

    def __init__(self):
        self.signal = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number, frame):
        if self.signal:
            sys.exit(128 + number)
        self.signal = number


@torch.inference_mode()
def test_accuracy(model, test_set, stop):
    """Share of correct test images; None, at once, after a signal."""
    model.eval()
    correct = 0
    for images, labels in test_set.eval_batches():
        if stop.signal:
            return None
        correct += (model(images).argmax(1) == labels).sum()
    return correct.item() / len(test_set)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"train.py: {error}")
