"""Claims about what a training says, records and reports while it runs, and about the states that it writes."""
import contextlib
import dataclasses
import json
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import made_up_run, run_like
from torch import nn

from engine import checkpoint, console, distributed, records, tracking
from engine.train_step import ExecutionOptions
from utils import run_dir
from utils.io import UserError
from utils.lock import LockedError

CPU = torch.device("cpu")


# ---- the console ----

def test_signals_are_noted_and_a_second_one_is_obeyed(monkeypatch):
    there = {}
    monkeypatch.setattr(signal, "signal", there.__setitem__)
    stop = console.StopSignals()
    assert stop.signal == 0 and there == {signal.SIGINT: stop.note, signal.SIGTERM: stop.note}
    stop.note(15, None)
    assert stop.signal == 15
    with pytest.raises(SystemExit) as left:
        stop.note(2, None)
    assert left.value.code == 130 and stop.signal == 15


def test_only_the_first_rank_speaks_and_is_watched(monkeypatch, capsys):
    for main in (True, False):
        monkeypatch.setattr(distributed, "is_main", lambda main=main: main)
        console.say("a line")
        assert capsys.readouterr().out == "a line\n" * main
        for terminal in (True, False):
            monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda terminal=terminal: terminal))
            assert console.is_watched() == (main and terminal)
        monkeypatch.undo()


# ---- states in files ----

def test_an_outline_tells_all_but_numbers_in_tensors():
    state = {"a": torch.zeros(2, 3), "b": [1, 2.0, "x", None], "c": {"d": (True,)}}
    same = {**state, "a": torch.ones(2, 3)}
    assert checkpoint.outline(state) == checkpoint.outline(same) and len(checkpoint.outline(state)) == 64
    others = [{**state, "a": torch.zeros(3, 2)}, {**state, "a": torch.zeros(2, 3).double()},
              {**state, "b": (1, 2.0, "x", None)},
              {**state, "b": [1, 2, "x", None]}, {**state, "b": [1, 2.0, "y", None]}, {**state, "c": {"d": (False,)}},
              {**state, "c": {"e": (True,)}}, {**state, "c": {"d": (1,)}}, {"a": state["a"], "b": state["b"]},
              {**state, "a": [[0.0] * 3] * 2}, {**state, "c": {"d": [True]}}]
    assert len({checkpoint.outline(each) for each in (state, *others)}) == 1 + len(others)


def test_weights_must_be_finite_but_unknown_thresholds_may_be_nan():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    model.register_buffer("thresholds", torch.tensor([torch.nan]))
    checkpoint.check_finite(model, "f.pt")
    for place, value, name in ((model[1].running_var, torch.inf, "1.running_var"),
                               (model[0].bias.data, torch.nan, "0.bias")):
        before = place[0].item()
        place[0] = value
        with pytest.raises(UserError, match=rf"^f\.pt is of no use: {name} holds NaN or infinity\. Train"):
            checkpoint.check_finite(model, "f.pt")
        place[0] = before


def test_states_come_back_and_other_contents_are_damage(tmp_path):
    checkpoint.save_state(tmp_path / "a.pt", {"w": torch.ones(2), "n": 3})
    found = checkpoint.load_state(tmp_path / "a.pt")
    assert found["n"] == 3 and found["w"].tolist() == [1, 1]
    torch.save([1], tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"b\.pt is damaged \(it holds a list\)"):
        checkpoint.load_state(tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"c\.pt is damaged \(.*other files of the run are untouched"):
        checkpoint.load_state(tmp_path / "c.pt")
    with pytest.raises(FileNotFoundError):
        checkpoint.load_state(tmp_path / "d.pt")


# ---- the folder of a run ----

@pytest.fixture
def finished(tmp_path):
    """(Run, its config) of a run that is finished."""
    run = run_like("softmax", epochs=3)
    log = [{"epoch": epoch, "selection_acc": 0.5, "seconds": 1} for epoch in (1, 2, 3)]
    folder = made_up_run(tmp_path, "digits", "lenet", "softmax", 1, [], log=log, num_classes=7)
    run = dataclasses.replace(run, folder=folder)
    for name in ("weights.pt", "weights_best.pt"):
        checkpoint.save_state(folder / name, {"w": torch.zeros(1)})
    config = {**run.record(), "data": {}, "sha256": {
        name: run_dir.file_digest(folder / name) for name in ("weights.pt", "weights_best.pt")}}
    history = json.loads((folder / "config.json").read_text())
    run_dir.write_json(folder / "config.json", {**history, **config})
    return run, config


def taken(run, config, **options):
    with contextlib.ExitStack() as held:
        return records.take_folder(run, config, **{"fresh": False, "if_locked": "fail", **options}, held=held)


def test_a_finished_run_is_left_alone(finished, capsys):
    run, config = finished
    (run.folder / "checkpoint.pt").touch()
    assert taken(run, config) is None
    assert "is finished (3 epochs). Nothing to do; --fresh would start over" in capsys.readouterr().out
    assert not (run.folder / "checkpoint.pt").exists() and (run.folder / "metrics.csv").exists()
    assert taken(run, config) is None, "without a checkpoint, too"
    record = json.loads((run.folder / "config.json").read_text())
    run_dir.write_json(run.folder / "config.json", {**record, "method": {"members": "many"}})
    with pytest.raises(UserError, match=r"config\.json is not a run's record"):
        taken(run, config)
    run_dir.write_json(run.folder / "config.json", record)
    (run.folder / "weights_best.pt").write_bytes(b"other")
    with pytest.raises(UserError, match=r"weights_best\.pt is damaged"):
        taken(run, config)


def test_fresh_starts_over_and_unfinished_runs_lose_their_evaluation(finished, capsys):
    run, config = finished
    (run.folder / "notes.txt").touch()
    (run.folder / "weights.pt").unlink()
    assert taken(run, config)["sessions"] and not (run.folder / "metrics.csv").exists()
    assert (run.folder / "notes.txt").exists() and (run.folder / "log.csv").exists()
    assert taken(run, config, fresh=True) == config and not (run.folder / "log.csv").exists()


@pytest.mark.parametrize("name", ["config.json", "log.csv", "checkpoint.pt", "weights.pt", "weights_best.pt"])
def test_a_folder_in_a_files_place_is_named_before_training(tmp_path, name):
    run = dataclasses.replace(run_like("softmax"), folder=tmp_path)
    assert records.RUN_FILES == ("config.json", "log.csv", "checkpoint.pt", "weights.pt", "weights_best.pt")
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}"):
        taken(run, run.record() | {"data": {}})


def test_a_locked_run_fails_waits_or_is_skipped(finished, monkeypatch, capsys):
    run, config = finished
    waited = []

    @contextlib.contextmanager
    def locked(folder, wait=False):
        waited.append((folder, wait))
        raise LockedError("somebody works there")
        yield
    monkeypatch.setattr(records, "locked", locked)
    for choice in ("fail", "wait"):
        with pytest.raises(LockedError):
            taken(run, config, if_locked=choice)
    assert taken(run, config, if_locked="skip") is None
    assert f"{run} is skipped: somebody works there" in capsys.readouterr().out
    assert waited == [(run.folder, False), (run.folder, True), (run.folder, False)]


def test_each_session_is_recorded_after_the_earlier_ones(tmp_path, monkeypatch):
    run, model, state = SimpleNamespace(folder=tmp_path), nn.Linear(3, 2), SimpleNamespace(epoch=4)
    options = ExecutionOptions(bf16=True, why_eager="why")
    config = records.record_session(run, {"a": 1, "sessions": ["before"]}, state, CPU, options, model)
    assert json.loads((tmp_path / "config.json").read_text()) == config
    assert config["parameters"] == 8 and config["a"] == 1
    before, session = config["sessions"]
    assert before == "before" and session["from_epoch"] == 4 and session["device"].startswith("cpu (")
    assert session["ranks"] == 1 and session["torch"]
    assert {name: session[name] for name in options.record()} == {
        "bf16": True, "graphs": False, "compiled": False, "why_eager": "why"}
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (1, 2))
    other = records.record_session(run, {}, SimpleNamespace(epoch=9), CPU, options, model)
    assert other["sessions"][0]["ranks"] == 2 and json.loads((tmp_path / "config.json").read_text()) == config


@pytest.mark.parametrize(("status", "graphs", "said"), [
    ("graphed", True, False), ("eager: why", True, True), ("eager: why", False, False),
    ("eager: --graphs", False, True)])
def test_why_steps_are_not_graphed_is_said_where_they_could_be(tmp_path, capsys, status, graphs, said):
    run = SimpleNamespace(folder=tmp_path)
    config = records.record_steps(run, {"b": 2, "sessions": [{"c": 3}, {"graphs": graphs}]}, status)
    assert config == {"b": 2, "sessions": [{"c": 3}, {"graphs": graphs, "steps": status}]}
    assert json.loads((tmp_path / "config.json").read_text()) == config
    assert (f"steps run without a CUDA graph, {status}" in capsys.readouterr().out) == said
    (tmp_path / "config.json").unlink()
    assert records.record_steps(run, config, status) is config and not (tmp_path / "config.json").exists()


# ---- trackers ----

def test_a_tracker_is_off_after_its_first_failure(capsys):
    calls = []

    def log(row):
        calls.append(row)
        if len(calls) == 2:
            raise OSError("no network")
    tracker = tracking.Tracker("wandb", log, calls.append)
    for row in (1, 2, 3):
        tracker.log(row)
    tracker.finish("results")
    assert calls == [1, 2] and not tracker.works
    working = tracking.Tracker("wandb", calls.append, lambda results: calls.append(("end", results)))
    working.log(4), working.finish("results")
    assert calls[2:] == [4, ("end", "results")] and working.works
    assert capsys.readouterr().out == "--track wandb failed and is off from here on: OSError: no network\n"


def test_without_a_tracker_or_on_other_ranks_nothing_is_opened(monkeypatch):
    monkeypatch.setattr(tracking, "_wandb", None)
    assert tracking.open_tracker(None, None, None).name == ""
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    tracker = tracking.open_tracker("wandb", None, None)
    tracker.log({}), tracker.finish({})
    assert tracker.name == "" and tracker.works


def test_the_right_tracker_gets_the_run_and_its_first_epoch(monkeypatch):
    given = []
    for name in tracking.TRACKERS:
        monkeypatch.setattr(tracking, f"_{name}", lambda *words, name=name: given.append((name, *words)) or (
            given.append, given.append))
        tracker = tracking.open_tracker(name, "run", "config", 3)
        assert given == [(name, "run", "config", 3)] and tracker.name == name and tracker.works
        tracker.log("row")
        assert given.pop() == "row" and given.pop()
    tracking.open_tracker("wandb", "run", "config")
    assert given[-1][-1] == 1

    def missing(*_):
        raise ImportError("no module")
    monkeypatch.setattr(tracking, "_wandb", missing)
    with pytest.raises(UserError, match=r"--track wandb: .*not installed \(no module\)\. pip install wandb, or"):
        tracking.open_tracker("wandb", "run", "config")


def test_wandb_continues_a_runs_own_session(monkeypatch, tmp_path):
    sessions, told = [], []
    session = SimpleNamespace(log=lambda row, step: told.append((row, step)), finish=lambda: told.append("end"),
                              summary=SimpleNamespace(update=told.append))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: sessions.append(given) or session))
    config = {"recipe": {"lr": 0.5}}
    for folder in (tmp_path, tmp_path / "x", tmp_path):
        run = SimpleNamespace(folder=folder, address={"dataset": "d", "model": "m", "method": "x", "seed": 3})
        log, finish = tracking._wandb(run, config, 1)
    a, b, c = sessions
    assert a == c and a["id"] != b["id"] and len(a["id"]) == 16
    assert {**a, "id": ""} == {"project": "dismax-sdde", "name": "d/m/x/3", "group": "d/m/x", "id": "",
                               "resume": "allow", "dir": str(tmp_path), "config": {**run.address, "lr": 0.5}}
    row = {"epoch": 7, "loss": 1.0}
    log(row), finish({"best": 0.5, "n": 2, "name": "text", "files": []})
    assert told == [(row, 7), {"best": 0.5, "n": 2}, "end"] and told[0][0] is not row


def test_tensorboard_is_given_columns_by_epoch_and_the_last_results(monkeypatch, tmp_path):
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def __getattr__(self, name):
            return lambda *given: told.append((name, *given))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    run = SimpleNamespace(folder=tmp_path, address={"dataset": "d"})
    log, finish = tracking._tensorboard(run, {"recipe": {"epochs": 9, "lr": 0.5}}, 4)
    assert told == [(tmp_path / "tensorboard", 4), (
        "add_text", "recipe", "| | |\n|---|---|\n| dataset | d |\n| epochs | 9 |\n| lr | 0.5 |")]
    told.clear()
    log({"epoch": 5, "loss": 1.5})
    assert told == [("add_scalar", "epoch", 5, 5), ("add_scalar", "loss", 1.5, 5), ("flush",)]
    told.clear()
    finish({"best": 0.5, "text": "x"})
    assert told == [("add_scalar", "final/best", 0.5, 9), ("close",)]
