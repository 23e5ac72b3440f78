"""Claims about how evaluate.py puts the rows of a run together, with stand-ins for networks and images."""
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import evaluate
from engine import distributed

CPU = torch.device("cpu")


class Splits:
    """OpenSplits of sets of which "gone" is not prepared."""

    def __init__(self, data_dir, dataset):
        assert (data_dir, dataset) == ("D", "own")

    def get(self, name, split="test"):
        return SimpleNamespace(name=name, split=split, digest=f"digest of {name}", class_names=None)

    def available(self, name):
        return name != "gone"


@pytest.fixture
def world(monkeypatch):
    """What evaluate() calls, and `run(…)`, which calls it."""
    calls, written = [], []
    config = {"data": {"test": "digest of own"}, "num_classes": 2}
    monkeypatch.setattr(evaluate, "check_finished", lambda folder: calls.append(("finished", folder)))
    monkeypatch.setattr(evaluate.run_dir, "load_run", lambda folder: (SimpleNamespace(dataset="own"), config))
    monkeypatch.setattr(evaluate, "check_dataset", lambda *words: calls.append(("known", *words)))
    monkeypatch.setattr(evaluate, "check_classes", lambda folder, given, split: calls.append(("classes", split.name)))
    monkeypatch.setattr(evaluate, "OpenSplits", Splits)
    monkeypatch.setattr(evaluate, "OODFolder", lambda name, path, dataset: SimpleNamespace(
        name=name, path=path, dataset=dataset))
    monkeypatch.setattr(evaluate, "OUTLIERS", {"own": {"near": ("n1", "gone"), "far": ("f1",)}})
    listed = SimpleNamespace(missing={"near": ["m1"], "far": ["gone", "m2"]})
    monkeypatch.setattr(evaluate, "benchmark", lambda *words: calls.append(("listed", words[0], words[1], [
        own.name for own in words[3]])) or listed)

    class Cache:
        def __init__(self, run, given, checkpoint, device, features, bf16, options):
            calls.append(("cache", checkpoint, device, features, bf16, options))
            self.unreadable, self.weights_digest = {"n1": 3} if checkpoint == "best" else {}, f"w {checkpoint}"
            self.checkpoint = checkpoint
    monkeypatch.setattr(evaluate, "LogitsCache", Cache)
    monkeypatch.setattr(evaluate.detectors, "FittedDetectors", lambda names, cache, split: (
        names, cache.checkpoint, split.split))

    def rows(cache, id_split, ood_splits, given, scores):
        calls.append(("rows", cache.checkpoint, id_split.name, [(s.name, group) for s, group in ood_splits], scores))
        made = {"temperature_openood_validation": f"t {cache.checkpoint}"}
        return [("dismax", "own", "id", "", "images", 1, "")], made
    monkeypatch.setattr(evaluate, "checkpoint_rows", rows)
    monkeypatch.setattr(evaluate, "corrupted_rows", lambda cache, given, t, data_dir: [
        ("openood", "own_c", "c", "", "auroc", t, data_dir)])
    monkeypatch.setattr(evaluate, "write_score_files", lambda cache, splits, scores: calls.append(
        ("scores", cache.checkpoint, [split.name for split in splits], scores)))
    monkeypatch.setattr(evaluate.run_dir, "write_json", lambda path, content: written.append((path, content)))
    monkeypatch.setattr(evaluate.run_dir, "write_metrics", lambda *words: written.append(words))

    def run(**changes):
        calls.clear(), written.clear()
        args = {"data_dir": "D", "ood": [], "detectors": [], "bf16": False, "on_bad_image": "skip", "workers": 2}
        evaluate.evaluate(Path("R"), SimpleNamespace(**{**args, **changes}), CPU)
        return calls, written
    return SimpleNamespace(run=run, config=config)


def row(checkpoint):
    return [("dismax", "own", "id", checkpoint, "", "images", 1, ""),
            ("openood", "own_c", "c", checkpoint, "", "auroc", f"t {checkpoint}", "D")]


def test_both_checkpoints_are_evaluated_on_what_is_prepared(world, capsys):
    calls, written = world.run()
    options = {"on_unreadable": "skip", "workers": 2}
    assert calls == [
        ("finished", Path("R")), ("known", "own", "D"), ("classes", "own"), ("listed", "own", "D", []),
        ("cache", "last", CPU, False, False, options), ("rows", "last", "own", [("n1", "near"), ("f1", "far")], []),
        ("scores", "last", ["own", "n1", "f1"], []),
        ("cache", "best", CPU, False, False, options), ("rows", "best", "own", [("n1", "near"), ("f1", "far")], [])]
    made = {name: {"temperature_openood_validation": f"t {name}"} for name in ("last", "best")}
    assert written == [
        (Path("R/calibration.json"), made),
        (Path("R"), [*row("last"), *row("best"), ("", "n1", "", "best", "", "unreadable_images", 3)], "w last")]
    assert capsys.readouterr().out == "R: 5 metrics; not prepared: gone, m1, m2\n"


def test_own_sets_detectors_and_precision_are_passed_on(world):
    calls, _ = world.run(ood=[("holiday", "dir")], detectors=["knn"], bf16=True)
    assert ("listed", "own", "D", ["holiday"]) in calls
    assert [call[3:5] for call in calls if call[0] == "cache"] == [(True, True)] * 2
    last = next(call for call in calls if call[0] == "rows")
    assert last[3] == [("n1", "near"), ("f1", "far"), ("holiday", "ood")] and last[4] == (["knn"], "last", "train")
    assert next(call for call in calls if call[0] == "scores")[2:] == (["own", "n1", "f1", "holiday"], last[4])


def test_images_that_were_prepared_again_are_noted(world, capsys, monkeypatch):
    for data, noted in (({"test": "other"}, True), ({"test": "digest of own"}, False), ({}, False)):
        world.config["data"] = data
        _, written = world.run()
        assert (written[1][1][0][7] == evaluate.OTHER_IMAGES) == noted
        assert (f"R: the test images of own were {evaluate.OTHER_IMAGES}" in capsys.readouterr().out) == noted
    del world.config["data"]
    assert world.run(bf16=True)[1][1][1][0][7] == evaluate.IN_BF16
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert not world.run()[1]
