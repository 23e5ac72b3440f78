"""A training reports to TensorBoard and to wandb, and no tracker can stop it."""
import importlib.util
import json
import os
import sys
from types import SimpleNamespace

import pytest
from conftest import log_of, run_like, script

from engine import tracking
from utils.io import UserError


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


def train(data_dir, results, *more, **options):
    return script("train.py", "--dataset", "digits", "--model", "lenet", "--method", "dismax", "--epochs", 3,
                  "--device", "cpu", "--data-dir", data_dir, "--results-dir", results, *more, **options)


@needs("tensorboard")
def test_tensorboard_has_every_column_and_the_results(tmp_path, data_dir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(data_dir, tmp_path, "--track", "tensorboard")
    run = tmp_path / "digits/lenet/dismax/seed1"
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    log = log_of(run)
    for column in log[0]:
        found = [(event.step, event.value) for event in events.Scalars(column)]
        expected = [(int(row["epoch"]), float(row[column])) for row in log]
        assert [step for step, _ in found] == [1, 2, 3]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)
    config = json.loads((run / "config.json").read_text())
    final, = events.Scalars("final/best_accuracy")
    assert final.value == pytest.approx(config["best_accuracy"], rel=1e-6)
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| lr | 0.02 |" in text and "| method | dismax |" in text


@needs("wandb")
def test_wandb_works_offline(tmp_path, data_dir):
    env = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    train(data_dir, tmp_path, "--track", "wandb", env=env)
    run = tmp_path / "digits/lenet/dismax/seed1"
    file, = run.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()  # records of protobuf, their texts uncompressed
    for column in log_of(run)[0]:
        assert content.count(column.encode()) >= 3, f"{column} of three epochs"
    for value in (b"digits/lenet/dismax/1", b"dismax-sdde", b"weight_decay", b"best_accuracy"):
        assert value in content


def test_wandb_is_given_every_column_the_recipe_and_the_results(monkeypatch):
    calls = []
    session = SimpleNamespace(
        log=lambda row, step: calls.append((step, row)), summary={}, finish=lambda: calls.append(0))
    wandb = SimpleNamespace(init=lambda **options: calls.append(options) or session)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run = run_like("softmax")
    tracker = tracking.open_tracker("wandb", run, run.record())
    tracker.log({"epoch": 4, "train_loss": 0.5})
    tracker.finish({"best_epoch": 4, "unknown": None})
    options, row, end = calls
    assert options["config"]["lr"] == 0.02 and options["config"]["method"] == "softmax" and options["resume"] == "allow"
    assert row == (4, {"epoch": 4, "train_loss": 0.5}) and session.summary == {"best_epoch": 4} and end == 0
    assert tracker.works


def test_a_tracker_that_fails_is_said_once_and_training_continues(capsys):
    calls = []

    def fail(row):
        calls.append(row)
        raise OSError("no space left")

    tracker = tracking.Tracker("wandb", fail, fail)
    for epoch in (1, 2):
        tracker.log({"epoch": epoch})
    tracker.finish({})
    assert calls == [{"epoch": 1}]
    assert capsys.readouterr().out == "--track wandb failed and is off from here on: OSError: no space left\n"


def test_a_tracker_that_cannot_start_is_off(monkeypatch, capsys):
    def refuse(*arguments):
        raise ConnectionError("not logged in")

    monkeypatch.setattr(tracking, "_wandb", refuse)
    tracker = tracking.open_tracker("wandb", run_like("softmax"), {})
    tracker.log({"epoch": 1})
    assert "--track wandb cannot be started and is off: ConnectionError: not logged in" in capsys.readouterr().out

    def missing(*arguments):
        raise ModuleNotFoundError("No module named 'wandb'")

    monkeypatch.setattr(tracking, "_wandb", missing)
    with pytest.raises(UserError, match="--track wandb: the package is not installed .* pip install wandb"):
        tracking.open_tracker("wandb", run_like("softmax"), {})
