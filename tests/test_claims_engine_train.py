"""Claims about the parts of train.py, one by one."""
import dataclasses
import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import run_like
from torch import nn
from train_all_methods import images, settings

import train
from data.sampling import stream_seed
from engine import checkpoint, devices, distributed
from engine.console import StopSignals
from engine.train_step import ExecutionOptions
from losses import DisMaxLossFirstPart
from train import TrainState
from utils import run_dir
from utils.io import UserError

CPU = torch.device("cpu")


def digits_run(tmp_path, name="softmax", **recipe):
    return dataclasses.replace(run_like(name, **recipe), folder=tmp_path)


def step_of(run, names=("loss", "accuracy"), sums=(0.0, 0.0), discriminator=None):
    model = nn.Module()
    model.classifier = nn.Linear(1, 1)
    weights = {}
    return SimpleNamespace(training_loss=SimpleNamespace(model=model), names=list(names), sums=torch.tensor(sums),
                           device=CPU, discriminator=discriminator, set_weight=weights.__setitem__, weights=weights)


# ---- an epoch ----

def test_the_next_epoch_starts_with_what_is_kept():
    state = TrainState(3, 7, 400, [1], [2], 5.0, 6.0, 10.0, [{"epoch": 1}], {"epoch": 2, "accuracy": 0.5}, {"w": 1})
    assert dataclasses.asdict(state.next_epoch()) == {
        "epoch": 4, "step": 0, "images_seen": 0, "metric_sums": None, "rng": None, "train_seconds": 0.0, "seconds": 0.0,
        "train_seconds_before": 15.0, "log": [{"epoch": 1}], "best": {"epoch": 2, "accuracy": 0.5},
        "best_weights": {"w": 1}}
    assert dataclasses.asdict(TrainState()) == {
        "epoch": 1, "log": [], "best": {"epoch": 0, "accuracy": -1.0},
        **dict.fromkeys(("step", "images_seen", "train_seconds", "seconds", "train_seconds_before"), 0),
        **dict.fromkeys(("metric_sums", "rng", "best_weights"))}


@pytest.mark.parametrize(("epoch", "ramp", "weight"), [
    (1, 4, 0), (2, 4, 0.25), (4, 4, 0.75), (5, 4, 1), (6, 4, 1), (1, 0, 0), (2, 0, 1), (2, 1, 1), (3, 0, 1)])
def test_dices_weight_grows_from_nothing(monkeypatch, tmp_path, epoch, ramp, weight):
    run, state = digits_run(tmp_path, ramp_epochs=ramp, diversity_weight=8.0), TrainState(epoch)
    for name, found in (("train_loader", []), ("batches_of", [])):
        monkeypatch.setattr(train, name, lambda *_, found=found: found)
    step = step_of(run, discriminator=True)
    train.train_one_epoch(step, range(10), None, run, state, SimpleNamespace(signal=0), None)
    assert step.weights == {"diversity": 8 * weight}
    plain = step_of(run)
    train.train_one_epoch(plain, range(10), None, run, TrainState(), SimpleNamespace(signal=0), None)
    assert not plain.weights


def test_an_epoch_is_steps_until_a_signal(monkeypatch, tmp_path):
    """Ten images in batches of four, from step one on: batches of 4 and 2."""
    run, given, told = digits_run(tmp_path, batch_size=4, lr=0.5, milestones=()), [], []
    asked = []
    monkeypatch.setattr(train, "train_loader", lambda train_set, its: range(3 if its is run else 9))
    monkeypatch.setattr(train, "batches_of", lambda *words: asked.append(words) or iter(["b1", "b2"]))

    class Step(SimpleNamespace):
        def __call__(self, batch, lr, size):
            assert self.training_loss.model.training
            given.append((batch, lr, size))
            self.sums += size
    for signal, steps in ((0, 2), (15, 1)):
        step = Step(**vars(step_of(run)))
        step.training_loss.model.eval()
        state, rng = TrainState(2, 1, 4, [torch.tensor([8.0, 4.0])], [devices.rng_state(CPU)]), torch.get_rng_state()
        given.clear(), told.clear(), torch.rand(3)
        train.train_one_epoch(step, range(10), "outliers", run, state, SimpleNamespace(signal=signal),
                              SimpleNamespace(update=told.append))
        expected = [("b1", run.recipe.lr_at(2, 1, 3), 4), ("b2", run.recipe.lr_at(2, 2, 3), 2)][:steps]
        assert given == expected and told == [4, 2][:steps] and state.step == 1 + steps
        assert state.images_seen == 4 + sum(told) and state.metric_sums[0].tolist() == [8 + sum(told), 4 + sum(told)]
        assert 0 < state.train_seconds == state.seconds < 5 and torch.equal(torch.get_rng_state(), rng)
    assert asked[0] == (range(10), "outliers", run, 2, 1)


def ended(run, state, accuracy, names=("loss", "accuracy", "diversity"), model=None, count=5):
    model = model or nn.Module()
    if not hasattr(model, "classifier"):
        model.classifier = DisMaxLossFirstPart(2, 2)
        model.classifier.distance_scale.data.fill_(-3.0)
    train.end_epoch(run, step_of(run, names), state, accuracy, model, range(64 * count))
    return model


def test_an_epochs_row_is_of_means_over_its_images(tmp_path, capsys):
    run = digits_run(tmp_path, epochs=10, lr=0.4, milestones=())
    state = TrainState(2, images_seen=8, train_seconds=4.0, seconds=6.0, log=[{"seconds": 600.0}],
                       metric_sums=[torch.tensor([4.0, 6.0, 1.0]), torch.tensor([8.0, 2.0, 1.0])])
    ended(run, state, 0.75)
    row = state.log[-1]
    assert list(row) == ["epoch", "lr", "train_loss", "train_acc", "selection_acc", "diversity", "distance_scale",
                         "images_per_second", "seconds"]
    assert row == {"epoch": 2, "lr": run.recipe.lr_at(2, 4, 5), "train_loss": 1.5, "train_acc": 1.0,
                   "selection_acc": 0.75, "diversity": 0.25, "distance_scale": 3.0, "images_per_second": 2.0,
                   "seconds": 6.0}
    said = capsys.readouterr().out  # eight epochs of the median of 600 and 6 s are 40 minutes
    assert f"{run}: epoch 2 of 10, loss 1.500, accuracy 75.00 %, 2 img/s, 40 min left" in said
    assert train.summary_of(row) == "loss 1.500, accuracy 75.00 %, 2 img/s"
    assert train.distance_scale(SimpleNamespace(classifier=nn.Linear(1, 1))) == 1.0


def test_the_time_left_is_by_the_last_five_epochs(tmp_path, capsys, monkeypatch):
    run = digits_run(tmp_path, epochs=9)
    rows = [{"seconds": s} for s in (6000.0, 6000.0, 60.0, 120.0, 180.0, 240.0)]
    state = TrainState(7, images_seen=1, train_seconds=1.0, seconds=300.0, log=rows, metric_sums=[torch.ones(3)])
    ended(run, state, 0.5)
    assert "epoch 7 of 9" in (said := capsys.readouterr().out) and "6 min left" in said
    monkeypatch.setattr(train, "is_watched", lambda: True)
    ended(run, dataclasses.replace(state, log=rows), 0.5)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("select_on", "accuracy", "kept"), [
    ("test", 0.5, False), ("test", 0.51, True), ("test", 0.49, False), ("openood", 0.5, True),
    ("openood", 0.49, False)])
def test_of_equal_epochs_only_sdde_takes_the_later(tmp_path, select_on, accuracy, kept):
    run = digits_run(tmp_path, select_on=select_on)
    state = TrainState(4, images_seen=1, train_seconds=1.0, metric_sums=[torch.ones(3)], best_weights={"old": 1},
                       best={"epoch": 3, "accuracy": 0.5})
    model = ended(run, state, accuracy)
    assert state.best == ({"epoch": 4, "accuracy": accuracy} if kept else {"epoch": 3, "accuracy": 0.5})
    assert (state.best_weights == {"old": 1}) != kept
    if kept:
        assert all(torch.equal(value, model.state_dict()[name].nan_to_num(value.flatten()[0].item()))
                   or value.isnan().any() for name, value in state.best_weights.items())
        model.classifier.distance_scale.data.fill_(9)
        assert state.best_weights["classifier.distance_scale"].item() == -3, "a copy"


def test_a_training_that_diverges_ends_in_words(tmp_path):
    run = digits_run(tmp_path, lr=0.25)
    state = TrainState(3, images_seen=2, train_seconds=1.0, metric_sums=[torch.tensor([1.0, 1.0, torch.nan])])
    with pytest.raises(UserError, match=r"the training diversity of .* became nan in epoch 3\. Start over with --fresh "
                                        r"and a lower --lr than 0\.25"):
        ended(run, state, 0.5)
    assert not state.log


# ---- random states and sums of a checkpoint ----

def seeded(run, state):
    torch.manual_seed(99)
    train.seed_epoch(run, state, CPU)
    return torch.rand(1).item()


def drawn(seed):
    torch.manual_seed(seed)
    return torch.rand(1).item()


def test_an_epoch_starts_with_random_numbers_of_its_own_or_the_checkpoints(monkeypatch, tmp_path):
    run = digits_run(tmp_path)
    mix = lambda **place: drawn(stream_seed(1, "mix", **place))
    resumed = lambda **place: drawn(stream_seed(1, "resume", **place))
    assert seeded(run, TrainState(3)) == mix(epoch=3) and seeded(run, TrainState(4)) == mix(epoch=4)
    torch.manual_seed(5)
    own, other = devices.rng_state(CPU), {**devices.rng_state(CPU), "type": "cuda"}
    torch.manual_seed(6)
    second = devices.rng_state(CPU)
    assert seeded(run, TrainState(3, 2, rng=[own])) == drawn(5)
    assert seeded(run, TrainState(3, 0, rng=[own])) == mix(epoch=3)
    assert seeded(run, TrainState(3, 2, rng=[own, second])) == drawn(5), "rank 0's, of any number of ranks"
    assert seeded(run, TrainState(3, 2, rng=[other])) == resumed(epoch=3, step=2)
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (1, 2))
    assert seeded(run, TrainState(3, 2, rng=[own, second])) == drawn(6)
    assert seeded(run, TrainState(3, 2, rng=[own])) == resumed(epoch=3, step=2, rank=1)
    assert seeded(run, TrainState(3)) == mix(epoch=3, rank=1)


@pytest.mark.parametrize(("rank", "world", "sums"), [
    (0, 1, [4, 6]), (0, 2, [1, 2]), (1, 2, [3, 4]), (0, 3, [4, 6]), (1, 3, [0, 0])])
def test_sums_of_other_ranks_go_to_the_first(monkeypatch, rank, world, sums):
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (rank, world))
    step = SimpleNamespace(sums=torch.tensor([9.0, 9]))
    train.restore_sums(step, SimpleNamespace(metric_sums=[torch.tensor([1.0, 2]), torch.tensor([3.0, 4])]))
    assert step.sums.tolist() == sums
    train.restore_sums(step, TrainState())
    assert step.sums.tolist() == [0, 0]


# ---- what is on disk ----

IDENTITY = {key: {} for key in run_dir.IDENTITY_KEYS}


def saved(tmp_path, state=None, config=IDENTITY, modules=None):
    run = digits_run(tmp_path)
    modules = modules or {"model": nn.Linear(2, 2)}
    train.save_checkpoint(run, config, modules, state or TrainState(3, 5, 7))
    return run, modules


def test_a_checkpoint_is_read_as_it_was_written(tmp_path, capsys, monkeypatch):
    assert train.resume(digits_run(tmp_path), IDENTITY, {}) == TrainState() and not capsys.readouterr().out
    run, modules = saved(tmp_path)
    weights = modules["model"].weight.detach().clone()
    nn.init.zeros_(modules["model"].weight)
    assert train.resume(run, IDENTITY, modules) == TrainState(3, 5, 7) and torch.equal(modules["model"].weight, weights)
    assert f"{run}: continues from epoch 3, step 5\n" in capsys.readouterr().out
    saved(tmp_path, TrainState(4))
    assert train.resume(run, IDENTITY, modules).epoch == 4
    assert f"{run}: continues from epoch 4\n" in capsys.readouterr().out
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    saved(tmp_path, TrainState(9))
    assert checkpoint.load_state(tmp_path / "checkpoint.pt")["epoch"] == 4, "the first rank writes"


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    entry = run_dir.IDENTITY_KEYS[0]
    run, modules = saved(tmp_path, config={**IDENTITY, entry: {"a": 1}})
    with pytest.raises(UserError, match=rf"other settings than config\.json:\n  {entry}\.a: 1 there, 2 asked for\n"
                                        "Nothing was changed"):
        train.resume(run, {**IDENTITY, entry: {"a": 2}}, modules)
    many = {**IDENTITY, entry: {str(k): k for k in range(7)}}
    saved(tmp_path, config=many)
    with pytest.raises(UserError) as refused:
        train.resume(run, IDENTITY, modules)
    assert str(refused.value).count(" there, ") == 5
    saved(tmp_path)
    with pytest.raises(UserError, match=r"(?s)checkpoint\.pt does not fit .*--fresh"):
        train.resume(run, IDENTITY, {"model": nn.Linear(3, 2)})
    content = checkpoint.load_state(tmp_path / "checkpoint.pt")
    checkpoint.save_state(tmp_path / "checkpoint.pt", {**content, "epoch": 4})
    with pytest.raises(UserError, match="it was changed after it was written"):
        train.resume(run, IDENTITY, modules)
    checkpoint.save_state(tmp_path / "checkpoint.pt", {k: v for k, v in content.items() if k != "outline"})
    assert train.resume(run, IDENTITY, modules).epoch == 3


def test_the_last_files_of_a_run(tmp_path, capsys, monkeypatch):
    run, model = digits_run(tmp_path), nn.Linear(2, 2)
    best = {name: value + 1 for name, value in model.state_dict().items()}
    log = [{"epoch": k, "selection_acc": a, "seconds": s} for k, a, s in ((1, 0.5, 1.26), (2, 0.1, 1), (3, 0.25, 1))]
    run_dir.write_log(tmp_path, log)
    (tmp_path / "checkpoint.pt").touch()
    state = TrainState(3, log=log, best={"epoch": 1, "accuracy": 0.5}, best_weights=best, train_seconds_before=3.14159)
    images = SimpleNamespace(unreadable={"b.png": 1, "a.png": 2})
    config = {"selection_split": "test", "before": 1}
    monkeypatch.setattr(distributed, "all_gather_object", lambda value: [value, ["a.png", "c.png"]])
    results = {"best_epoch": 1, "best_accuracy": 0.5, "last_accuracy": 0.25, "train_seconds": 3.1,
               "wall_clock_seconds": 3.3}
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert train.finish(run, config, model, state, images) == results and (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "config.json").exists()
    monkeypatch.setattr(distributed, "is_main", lambda: True)
    assert train.finish(run, config, model, state, images) == results
    written, hashes = json.loads((tmp_path / "config.json").read_text()), {}
    for name, expected in (("weights.pt", model.state_dict()), ("weights_best.pt", best)):
        hashes[name] = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        found = checkpoint.load_state(tmp_path / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert written == {**config, **results, "unreadable_files": ["a.png", "b.png", "c.png"], "sha256": hashes,
                       "log_sha256": run_dir.file_digest(tmp_path / "log.csv")}
    assert not (tmp_path / "checkpoint.pt").exists()
    assert f"{run}: 3 epochs in 3 s, test accuracy 25.00 %" in capsys.readouterr().out
    train.finish(run, config, model, state, object())


@pytest.mark.parametrize(("seconds", "saved"), [(60, [4, 7]), (50, [3, 5, 7]), (0, [2, 3, 4, 5, 6, 7, 8])])
def test_the_state_is_saved_no_more_often_than_asked_for(monkeypatch, tmp_path, seconds, saved):
    """Eight epochs, each of which takes 25 s by the clock; the number is the epoch to continue with."""
    run = settings("softmax", tmp_path, 0)
    run = dataclasses.replace(run, recipe=run.recipe.changed(epochs=8))
    clock, found, plain = [0], [], train.accuracy_of
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])

    def accuracy_of(*words):
        clock[0] += 25
        return plain(*words)
    monkeypatch.setattr(train, "accuracy_of", accuracy_of)
    monkeypatch.setattr(train, "save_checkpoint", lambda run, config, modules, state: found.append(state.epoch))
    sets = images(29, 1), images(9, 2), None
    config = {**run.record(), "num_classes": 5, "data": {}}
    assert train.train(run, config, sets, CPU, ExecutionOptions(), StopSignals(), seconds) == 0 and found == saved
