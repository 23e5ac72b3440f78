"""Train one run, step by step: a generator, so that several runs can take turns on one device."""
import math
import statistics
import sys
import time

import torch
from tqdm import tqdm

from data.sampling import stream_seed
from engine import checkpoint, devices, distributed, memory
from engine.batches import batches_of
from engine.build import members_of, model_of, objective_of
from engine.discriminator import Adversary
from engine.inference import accuracy_of
from engine.pretrained import initialise
from engine.train_step import Stepper
from recipes import DICE, SHARED_BATCH
from utils import run_dir
from utils.io import UserError

# what a run knows of the epoch it is in: the next step, images counted, sums of the report, times, random states
NEW_EPOCH = {"step": 0, "counted": 0, "sums": 0.0, "train_seconds": 0.0, "seconds": 0.0, "random": None}


def training(run, config, recipe, sets, device, speed, stop, together=(), line=0):
    """Train to the end or to a signal. Yields after every step; its value is 0, or the signal that stopped it.

    Args:
        sets: images to train on, images to judge by, and outliers to show or None.
        speed: a stepper.Speed.
        stop: has `signal`, 0 until somebody wants all to stop; everything is saved then.
        together: the seeds of the runs that take turns with this one, for the record.
        line: of the progress bar.
    """
    train_set, judged_by, outliers = sets
    seed, main_process = config["run"]["seed"], distributed.is_main()
    torch.manual_seed(stream_seed(seed, "init"))
    model = model_of(config)
    if recipe.initial != "random":
        initialise(model, config["run"]["model"], recipe.initial, config["method"]["diversity"] not in SHARED_BATCH)
    model = distributed.synchronised(model, device)
    model.to(device, memory_format=torch.channels_last)
    objective = objective_of(model, config, recipe)
    adversary = Adversary(objective.terms["diversity"].discriminator, recipe.discriminator_lr, recipe.clip) if (
        config["method"]["diversity"] in DICE) else None
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.momentum > 0,
        fused=True)

    at = {"epoch": 1, **NEW_EPOCH, "log": [], "best": {"epoch": 0, "accuracy": -1.0}}
    if (run / "checkpoint.pt").exists():
        at = checkpoint.load_state(run / "checkpoint.pt")
        model.load_state_dict(at.pop("model"))
        optimizer.load_state_dict(at.pop("optimizer"))
        if adversary:
            adversary.load_state_dict(at.pop("adversary"))
        say(f"{run}: going on from epoch {at['epoch']}" + (f", step {at['step']}" if at["step"] else ""))
    stepper = Stepper(objective, optimizer, adversary, recipe, speed, device)

    def save():
        if main_process:
            checkpoint.save_state(run / "checkpoint.pt", {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                **({"adversary": adversary.state_dict()} if adversary else {}), **at})

    session = {"from_epoch": at["epoch"], "device": devices.describe(device), "processes": distributed.shard()[1],
               **vars(speed), **({"together_with_seeds": list(together)} if together else {}), **run_dir.environment()}
    config = {**config, "parameters": sum(p.numel() for p in model.parameters()),
              "sessions": config.get("sessions", []) + [session]}
    if main_process:
        run_dir.write_json(run / "config.json", config)

    images, steps = len(train_set), train_set.steps(recipe.batch_size, recipe.per_class)
    done = min((at["epoch"] - 1) * images + at["step"] * recipe.batch_size, recipe.epochs * images)
    bar = tqdm(total=recipe.epochs * images, initial=done, unit="img", unit_scale=True, position=line,
               disable=None if main_process else True, desc=" ".join(map(str, config["run"].values())))
    while at["epoch"] <= recipe.epochs:
        epoch = at["epoch"]
        restore_chance(at, seed, device)
        model.train()
        started = time.perf_counter()
        if adversary:
            objective.weights["diversity"] = recipe.diversity_weight * min((epoch - 1) / max(recipe.ramp_epochs, 1), 1)
        stepper.sums.zero_()
        for batch in batches_of(train_set, outliers, config["method"], recipe, seed, epoch, at["step"]):
            size = min(recipe.batch_size, images - at["step"] * recipe.batch_size)  # over all processes
            with memory.explained(device):
                stepper(batch, recipe.lr_at(epoch, at["step"], steps), size)
            at["step"] += 1
            at["counted"] += size
            bar.update(size)
            if distributed.any_of(stop.signal):
                break
            yield
        if stepper.unrecorded and epoch == 1:
            say(f"{run}: no CUDA graph of the step could be recorded, it goes on without ({stepper.unrecorded})")
        sums = distributed.summed(stepper.sums).tolist()  # here the device is waited for, once an epoch
        at["sums"] = [a + b for a, b in zip(at["sums"] or [0.0] * len(sums), sums)]
        at["train_seconds"] += time.perf_counter() - started
        accuracy = accuracy_of(model, judged_by, stop, speed.bf16)
        at["seconds"] += time.perf_counter() - started

        stopped_by = distributed.any_of(stop.signal)
        if stopped_by:
            at["random"] = distributed.everybodys(devices.random_state(device))
            save()
            bar.close()
            say(f"\nStopped {run} in epoch {epoch} of {recipe.epochs} after step {at['step']}; all of it is saved")
            return stopped_by
        means = dict(zip(stepper.names, (total / at["counted"] for total in at["sums"])))
        for name, value in means.items():
            if not math.isfinite(value):
                bar.close()
                raise UserError(f"the training {name} of {run} became {value} in epoch {epoch}. "
                                f"Try a lower --lr than {recipe.lr_at(epoch):g}, with --fresh")
        at["log"].append({
            "epoch": epoch,
            "lr": recipe.lr_at(epoch, steps - 1, steps),
            "train_loss": means.pop("loss"),
            "train_acc": means.pop("accuracy"),
            "selection_acc": accuracy,  # of the images that the best epoch is chosen by: config.json's selection_split
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
                checkpoint.save_state(run / "weights_best.pt", model.state_dict())
            run_dir.write_log(run, at["log"])
        at = {**at, "epoch": epoch + 1, **NEW_EPOCH}
        save()
    bar.close()
    unreadable = distributed.everybodys(sorted(getattr(train_set, "bad", ())))
    if main_process:
        train_seconds = sum(images / row["images_per_second"] for row in at["log"])
        finish(run, {**config, "unreadable_files": sorted(set(sum(unreadable, []))),
                     "train_seconds": round(train_seconds, 1)}, model, at)
    return 0


def finish(run, config, model, at):
    seconds, best, last = sum(row["seconds"] for row in at["log"]), at["best"], at["log"][-1]["selection_acc"]
    images = {"test": "test", "openood": "validation"}[config["recipe"]["select_on"]]
    run_dir.write_json(run / "config.json", {
        **config, "selection_split": images,
        "best_epoch": best["epoch"], "best_accuracy": best["accuracy"], "last_accuracy": last,
        "wall_clock_seconds": round(seconds, 1)})
    checkpoint.save_state(run / "weights.pt", model.state_dict())  # after all else: it says that the run is finished
    (run / "checkpoint.pt").unlink()
    say(f"{run}: {len(at['log'])} epochs in {seconds:.0f} s, {images} accuracy {100 * last:.2f} % "
        f"(best {100 * best['accuracy']:.2f} % in epoch {best['epoch']})")


def restore_chance(at, seed, device):
    """The random state of an epoch's begin, a function of (seed, epoch, process) alone, or of where it was left."""
    k, n = distributed.shard()
    if at["step"] and len(at["random"]) == n:
        devices.restore_random_state(at["random"][k], device)
    else:
        name = "resume" if at["step"] else "mix"
        torch.manual_seed(stream_seed(seed, name, epoch=at["epoch"], rank=k, step=at["step"]))


def distance_scale(member):
    return abs(member.classifier.distance_scale.item()) if hasattr(member.classifier, "distance_scale") else 1.0


def say(words):
    if distributed.is_main():
        tqdm.write(words, file=sys.stdout)


def take_turns(trainings, device):
    """Run generators to their ends, a step of each at a time; their values, or the UserErrors that they ended with.

    Each has a random state of its own, so that it draws what it would draw alone, and on a GPU a stream of its own, so
    that the device works on several steps at once.
    """
    alone, results = len(trainings) == 1, {}
    on_gpu = device.type == "cuda"
    streams = [torch.cuda.Stream(device) if on_gpu else None for _ in trainings]
    if on_gpu:
        torch.cuda.synchronize(device)  # the images are there
    chance = [devices.random_state(device)] * len(trainings)
    while len(results) < len(trainings):
        for k in (k for k in range(len(trainings)) if k not in results):
            if not alone:
                devices.restore_random_state(chance[k], device)
            try:
                with torch.cuda.stream(streams[k]):
                    next(trainings[k])
            except StopIteration as end:
                results[k] = end.value
            except UserError as error:
                results[k] = error
            if not alone:
                chance[k] = devices.random_state(device)
    return [results[k] for k in range(len(trainings))]
