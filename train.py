"""Train one run: data set × network × method × seed.

  python train.py --dataset digits --model lenet --method dismax --seed 1              a few seconds on a laptop
  python train.py --dataset cifar10 --model resnet34 --method dismax_fpr --seed 1      the paper's recipe, for a GPU
  python train.py --dataset cifar10 --model resnet34 --method dismax_fpr --epochs 1 --results-dir results/epochs1
                                                                                       half an hour on two CPU cores
  torchrun --nproc_per_node=8 train.py --dataset imagenet1k --model resnet18 --method dismax

The files of the run go to results/<dataset>/<model>/<method>/seed<k>/ (see utils/run_dir.py). Training can be stopped
at any moment, even with kill -9. The same command continues; on a CPU the result is the same bit for bit. A finished
run is not repeated. With torchrun, the ranks share each batch and the statistics of batch normalization (BN): up to
rounding, the result does not depend on the number of ranks.
"""
import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

import contextlib
import dataclasses
import hashlib
import math
import statistics
import sys
import time
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from data.sampling import stream_seed
from engine import checkpoint, devices, distributed
from engine.arguments import open_training_sets, parse_arguments, resolve_run
from engine.batches import batches_of, train_loader
from engine.build import build_model, build_training_loss, members_of, shares_batch
from engine.console import StopSignals, is_watched, say
from engine.discriminator import discriminator_of
from engine.inference import accuracy_of
from engine.pretrained import initialise
from engine.records import record_session, record_steps, take_folder
from engine.tracking import open_tracker
from engine.train_step import TrainStep, execution_options
from utils import run_dir
from utils.io import UserError, write_bytes
from utils.script import run_script


def main():
    args = parse_arguments(__doc__)
    distributed.start()
    run, published = resolve_run(args)
    device = distributed.local_device(devices.choose(args.device))
    with devices.explain_out_of_memory(device):  # a GPU whose memory is full refuses even to be asked
        options = execution_options(device, run, args.bf16, args.graphs, args.compile)
        sets, facts = open_training_sets(args, run, device)
    overrides = {name: {"published": theirs, "used": ours}
                 for name, (ours, theirs) in run.recipe.differences(published).items()}
    config = {**run.record(), "overrides": overrides, **facts, "plugins": args.plugin}
    with contextlib.ExitStack() as held:
        with distributed.raise_on_all_ranks(UserError):
            if distributed.is_main():
                config = take_folder(run, config, args.fresh, args.if_locked, held)
        config = distributed.broadcast_from_main(config)
        if config:
            with devices.explain_out_of_memory(device), devices.side_stream(device):
                stopped_by = train(
                    run, config, sets, device, options, StopSignals(), args.checkpoint_seconds, args.track)
            if stopped_by:
                words = " ".join(word for word in sys.argv if word != "--fresh")
                say(f"Continue with\n  {distributed.launcher()} {words}")
                sys.exit(128 + stopped_by)


@dataclass
class TrainState:
    """The progress of a run: what checkpoint.pt holds besides the network and the optimizers."""

    epoch: int = 1
    step: int = 0  # optimizer steps done in this epoch
    images_seen: int = 0  # training images of this epoch so far, over all ranks
    metric_sums: list | None = None  # of this epoch so far, a tensor a rank
    rng: list | None = None  # random states where training stopped within an epoch, one a rank
    train_seconds: float = 0.0  # of this epoch so far
    seconds: float = 0.0  # the same with the selection accuracy
    train_seconds_before: float = 0.0  # of earlier epochs
    log: list = field(default_factory=list)  # a row per epoch
    best: dict = field(default_factory=lambda: {"epoch": 0, "accuracy": -1.0})
    best_weights: dict | None = None  # of the epoch in `best`; on disk only in checkpoints until the run is finished

    def next_epoch(self):
        return TrainState(self.epoch + 1, log=self.log, best=self.best, best_weights=self.best_weights,
                          train_seconds_before=self.train_seconds_before + self.train_seconds)


def train(run, config, sets, device, options, stop, checkpoint_seconds=60, tracker=None):
    """Train a run to its end. Returns 0, or the signal that stopped it; checkpoint.pt then has the full state."""
    train_set, selection_set, outlier_set = sets
    recipe = run.recipe
    torch.backends.cudnn.benchmark = True  # batches are all of one size: cuDNN may measure its algorithms once
    torch.manual_seed(stream_seed(run.seed, "init"))
    model = build_model(run, config["num_classes"])
    if recipe.initial != "random":
        initialise(model, run.model, recipe.initial, same_heads=not shares_batch(run.method))
    model = distributed.convert_sync_batchnorm(model, device).to(device, memory_format=torch.channels_last)
    training_loss = build_training_loss(model, run)
    discriminator = discriminator_of(training_loss.aux_losses.get("diversity"), recipe)
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0, fused=True)
    modules = {"model": model, "optimizer": optimizer, **({"discriminator": discriminator} if discriminator else {})}
    state = resume(run, config, modules)
    train_step = TrainStep(training_loss, optimizer, discriminator, recipe, options, device)
    config = record_session(run, config, state, device, options, model)
    tracker = open_tracker(tracker, run, config, state.epoch)

    last_saved, images = time.monotonic(), len(train_set)
    done = min((state.epoch - 1) * images + state.images_seen, recipe.epochs * images)
    with tqdm(total=recipe.epochs * images, initial=done, unit="img", unit_scale=True, disable=not is_watched(),
              desc=f"{run.dataset} {run.model} {run.name} {run.seed}") as progress:
        while state.epoch <= recipe.epochs:
            train_one_epoch(train_step, train_set, outlier_set, run, state, stop, progress)
            started = time.perf_counter()
            accuracy = accuracy_of(model, selection_set, stop, options.bf16)
            state.seconds += time.perf_counter() - started
            if signal := distributed.all_reduce_max(stop.signal):
                state.rng = distributed.all_gather_object(devices.rng_state(device))
                save_checkpoint(run, config, modules, state)
                say(f"\nStopped {run} in epoch {state.epoch} of {recipe.epochs} after step {state.step}. The state is "
                    "saved")
                return signal
            end_epoch(run, train_step, state, accuracy, model, train_set)
            progress.set_postfix_str(f"epoch {state.epoch}, {summary_of(state.log[-1])}")
            if distributed.is_main():
                run_dir.write_log(run.folder, state.log)
                config = record_steps(run, config, train_step.graph_status)
            tracker.log(state.log[-1])
            state = state.next_epoch()
            if time.monotonic() - last_saved >= checkpoint_seconds and state.epoch <= recipe.epochs:
                save_checkpoint(run, config, modules, state)
                last_saved = time.monotonic()
    tracker.finish(finish(run, config, model, state, train_set))
    return 0


def train_one_epoch(train_step, train_set, outlier_set, run, state, stop, progress):
    """Train from state.step to the end of the epoch, or to a signal. The metrics are summed on the device."""
    recipe, device = run.recipe, train_step.device
    steps = len(train_loader(train_set, run))
    train_step.training_loss.model.train()
    seed_epoch(run, state, device)
    restore_sums(train_step, state)
    if train_step.discriminator:  # DICE's weight grows from 0
        ramp = min((state.epoch - 1) / max(recipe.ramp_epochs, 1), 1)
        train_step.set_weight("diversity", recipe.diversity_weight * ramp)
    started = time.perf_counter()
    for batch in batches_of(train_set, outlier_set, run, state.epoch, state.step):
        batch_size = min(recipe.batch_size, len(train_set) - state.step * recipe.batch_size)  # over all ranks
        train_step(batch, recipe.lr_at(state.epoch, state.step, steps), batch_size)
        state.step += 1
        state.images_seen += batch_size
        progress.update(batch_size)
        if distributed.all_reduce_max(stop.signal):
            break
    state.metric_sums = distributed.all_gather_object(train_step.sums.cpu())  # the device is waited for here only
    elapsed = time.perf_counter() - started
    state.train_seconds += elapsed
    state.seconds += elapsed


def end_epoch(run, train_step, state, accuracy, model, train_set):
    """Append the epoch's row to state.log and keep the weights of the best epoch."""
    recipe, steps = run.recipe, len(train_loader(train_set, run))
    sums = torch.stack(state.metric_sums).double().sum(0)
    means = dict(zip(train_step.names, (sums / state.images_seen).tolist()))
    for name, value in means.items():
        if not math.isfinite(value):
            raise UserError(f"the training {name} of {run} became {value} in epoch {state.epoch}. "
                            f"Start over with --fresh and a lower --lr than {recipe.lr_at(state.epoch):g}")
    state.log.append({
        "epoch": state.epoch,
        "lr": recipe.lr_at(state.epoch, steps - 1, steps),
        "train_loss": means.pop("loss"),
        "train_acc": means.pop("accuracy"),
        "selection_acc": accuracy,
        **means,
        "distance_scale": statistics.mean(map(distance_scale, members_of(model))),
        "images_per_second": state.images_seen / state.train_seconds,
        "seconds": state.seconds,
    })
    best = state.best["accuracy"]
    if accuracy > best or (accuracy == best and recipe.select_on == "openood"):  # of equals SDDE takes the last epoch
        state.best = {"epoch": state.epoch, "accuracy": accuracy}
        state.best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if not is_watched():
        left = (recipe.epochs - state.epoch) * statistics.median(row["seconds"] for row in state.log[-5:])
        say(f"{run}: epoch {state.epoch} of {recipe.epochs}, {summary_of(state.log[-1])}, {left / 60:.0f} min left")


def summary_of(row):
    return (f"loss {row['train_loss']:.3f}, accuracy {100 * row['selection_acc']:.2f} %, "
            f"{row['images_per_second']:.0f} img/s")


def seed_epoch(run, state, device):
    """Set the random state of the epoch's start, a function of seed and epoch only, or the one of the checkpoint."""
    rank, world_size = distributed.rank_and_world_size()
    # rank 0's mixes images, on any number of ranks
    if state.step and (rank == 0 or len(state.rng) == world_size) and devices.restores_rng_state(
            state.rng[rank], device):
        devices.restore_rng_state(state.rng[rank], device)
    else:
        name = "resume" if state.step else "mix"
        torch.manual_seed(stream_seed(run.seed, name, epoch=state.epoch, rank=rank, step=state.step))


def restore_sums(train_step, state):
    train_step.sums.zero_()
    if state.metric_sums:
        rank, world_size = distributed.rank_and_world_size()
        if len(state.metric_sums) == world_size:
            train_step.sums.copy_(state.metric_sums[rank])
        elif rank == 0:
            train_step.sums.copy_(torch.stack(state.metric_sums).sum(0))


def distance_scale(member):
    return abs(member.classifier.distance_scale.item()) if hasattr(member.classifier, "distance_scale") else 1.0


# ---- what is on disk ----

def resume(run, config, modules):
    """The TrainState of checkpoint.pt, whose weights and optimizers go into `modules`; a new one without the file."""
    path = run.folder / "checkpoint.pt"
    if not path.exists():
        return TrainState()
    content = checkpoint.load_state(path)
    try:
        if content.pop("outline", None) not in (None, checkpoint.outline(content)):
            raise ValueError("it was changed after it was written")
        identity = content.pop("identity", {key: {} for key in run_dir.IDENTITY_KEYS})
        if different := run_dir.differences(identity, config):
            raise UserError(f"{path} has other settings than config.json:\n  " + "\n  ".join(different[:5]) +
                            "\nNothing was changed. Start over with --fresh")
        for name, module in modules.items():
            module.load_state_dict(content.pop(name))
        state = TrainState(**content)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} does not fit {run} ({error}). Start over with --fresh") from error
    say(f"{run}: continues from epoch {state.epoch}" + (f", step {state.step}" if state.step else ""))
    return state


def save_checkpoint(run, config, modules, state):
    if distributed.is_main():
        content = {**{name: module.state_dict() for name, module in modules.items()},
                   **{f.name: getattr(state, f.name) for f in dataclasses.fields(state)},
                   "identity": {key: config[key] for key in run_dir.IDENTITY_KEYS}}
        checkpoint.save_state(run.folder / "checkpoint.pt", {**content, "outline": checkpoint.outline(content)})


def finish(run, config, model, state, train_set):
    """Write the last files of a run; returns its results."""
    unreadable = distributed.all_gather_object(sorted(getattr(train_set, "unreadable", ())))
    log, last = state.log, state.log[-1]["selection_acc"]
    results = {"best_epoch": state.best["epoch"], "best_accuracy": state.best["accuracy"], "last_accuracy": last,
               "train_seconds": round(state.train_seconds_before, 1),
               "wall_clock_seconds": round(sum(row["seconds"] for row in log), 1)}
    if not distributed.is_main():
        return results
    contents = {"weights_best.pt": checkpoint.as_bytes(state.best_weights),
                "weights.pt": checkpoint.as_bytes(model.state_dict())}
    run_dir.write_json(run.folder / "config.json", {
        **config, "unreadable_files": sorted(set(sum(unreadable, []))), **results,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "log_sha256": run_dir.file_digest(run.folder / "log.csv")})
    for name, content in contents.items():  # weights.pt is the last file: the run is finished
        write_bytes(run.folder / name, content)
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)
    say(f"{run}: {len(log)} epochs in {sum(row['seconds'] for row in log):.0f} s, "
        f"{config['selection_split']} accuracy {100 * last:.2f} %")
    return results


if __name__ == "__main__":
    run_script("train.py", main, distributed.rank_suffix)
