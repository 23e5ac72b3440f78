"""The records of runs, plugins and versions: what is read, compared, removed and refused."""
import hashlib
import json
import math
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from recipes import METHODS
from utils import environment, plugins, run_dir, run_record
from utils.io import UserError
from utils.recipe import Recipe
from utils.run_dir import Run

RECIPE = Recipe(epochs=10, batch_size=64, lr=0.1, weight_decay=1e-4, padding=4, flip=True, mean=(0.5,) * 3,
                std=(0.25,) * 3)
RECORD = {"run": {"dataset": "d", "model": "m", "method": "x", "seed": 1}, "num_classes": 1, "best_epoch": 0,
          "method": {"head": "h", "members": 1, "diversity": "none", "outliers": "none"}}


# ---- records ----

@pytest.mark.parametrize("changes, said", [
    ({"run": None}, "^run is missing or of another type"), ({"num_classes": True}, "^num_classes is missing"),
    ({"num_classes": 0}, "num_classes is less than 1"), ({"best_epoch": 1.0}, "^best_epoch is missing"),
    ({"run": {**RECORD["run"], "seed": "1"}}, "^run.seed is missing"),
    ({"run": {"dataset": "d"}}, "^run.model is missing"),
    ({"method": {**RECORD["method"], "members": 0}}, "method.members or num_classes is less than 1"),
    ({"method": {**RECORD["method"], "outliers": 3}}, "^method.outliers is missing"),
    ({"overrides": []}, "^overrides is no object"),
    ({"overrides": {"lr": 1}}, "^overrides.lr is missing"),
    ({"overrides": {"lr": {"used": 1}}}, "what is published and what was used"),
    ({"overrides": {"lr": {"used": 1, "published": {"a": 1}}}}, "what is published and what was used"),
    ({"overrides": {"lr": {"used": 1, "published": True}}}, "what is published and what was used"),
    ({"sha256": []}, "^sha256 is no object"), ({"sha256": {"a": 1}}, "^sha256.a is missing"),
    ({"data": 3}, "^data is no object"),
    ({"images": {"size": 3}}, "^images.shorter_side is missing"),
    ({"images": {"size": 9, "shorter_side": 8}}, "no number of pixels"),
    ({"images": {"size": 0, "shorter_side": 8}}, "no number of pixels"),
    ({"images": {"size": 8, "shorter_side": 8}}, "are no names"),
    ({"images": {"size": 8, "shorter_side": 8, "class_names": ["a", 1]}}, "images.class_names are no names"),
    ({"images": None}, "^images is no")])
def test_a_record_that_is_none_is_refused_by_its_entry(changes, said):
    with pytest.raises(ValueError, match=said):
        run_record.check_record({**RECORD, **changes})


def test_a_whole_record_is_taken():
    run_record.check_record(RECORD)
    run_record.check_record({**RECORD, "overrides": {"lr": {"used": 1, "published": 2.5}}, "sha256": {"a": "b"},
                             "data": {"x": 1},
                             "images": {"size": 8, "shorter_side": 8, "class_names": ["a"]}})
    run_record.check_record({**RECORD, "images": {"size": 1, "shorter_side": 2, "class_names": None}})
    with pytest.raises(ValueError, match="^it is no object"):
        run_record._check("", [], {})


def test_a_folder_that_cannot_be_looked_into_is_found_at_each_level(tmp_path, monkeypatch):
    """Data set, network, method and seed; not what lies below a seed, and no files. Reading or entering: both count."""
    (tmp_path / "d/m/x/seed1/logits").mkdir(parents=True)
    (tmp_path / "d/file").write_text("")
    every = [tmp_path / name for name in ("d", "d/m", "d/m/x", "d/m/x/seed1")]
    for wanted in (os.R_OK, os.X_OK):
        monkeypatch.setattr(run_dir.os, "access", lambda path, mode, wanted=wanted: not mode & wanted)
        assert run_dir.closed_folders(tmp_path) == run_dir.closed_folders(tmp_path, "d") == every
    assert run_dir.closed_folders(tmp_path, "e") == []


def saved(folder, **changes):
    run = Run(folder, "mnist", "lenet", "de", 1, METHODS["de"], RECIPE)
    folder.mkdir(parents=True, exist_ok=True)
    run_dir.write_json(folder / "config.json", {**run.record(), "num_classes": 10, "best_epoch": 1, "data": {},
                                                **changes})
    return run


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = saved(tmp_path / "a")
    found, config = run_dir.load_run(str(tmp_path / "a"))
    assert found.address == run.address == {"dataset": "mnist", "model": "lenet", "method": "de", "seed": 1}
    assert found.recipe == RECIPE and found.folder == tmp_path / "a" and str(found) == str(tmp_path / "a")
    assert found.method.choices() == METHODS["de"].choices() and config["selection_split"] == "test"
    assert run_dir.run_folder("r", *run.address.values()).parts == ("r", "mnist", "lenet", "de", "seed1")
    saved(tmp_path / "a", recipe={**RECIPE.as_dict(), "more": 1})
    with pytest.raises(UserError, match="its recipe has other fields"):
        run_dir.load_run(tmp_path / "a")
    saved(tmp_path / "a", num_classes=0)
    with pytest.raises(UserError, match="num_classes is less than 1"):
        run_dir.load_run(tmp_path / "a")
    saved(tmp_path / "a", recipe={**RECIPE.as_dict(), "epochs": 0})
    with pytest.raises(UserError, match="not a run's record of this version .*--epochs must be at least 1.*--fresh"):
        run_dir.load_run(tmp_path / "a")
    with pytest.raises(UserError, match=f"{tmp_path} is not a run: it has no config.json. Train it"):
        run_dir.load_run(tmp_path)


def test_another_run_in_the_folder_is_told_in_a_line_for_each_difference(tmp_path):
    config = {**saved(tmp_path).record(), "data": {"a": 1}, "new": 2}
    run_dir.write_json(tmp_path / "config.json", {**config, "data": {"a": 1}, "old": 3, "new": 1})
    assert run_dir.check_same_run(tmp_path, config) == {**config, "old": 3, "new": 2}
    other = {**config, "data": {"b": 5}}
    with pytest.raises(UserError) as error:
        run_dir.check_same_run(tmp_path, other)
    assert str(error.value).splitlines()[:3] == [f"{tmp_path} holds a run with other settings:",
                                                 "  data.a: 1 there, None asked for",
                                                 "  data.b: None there, 5 asked for"]
    for broken in ({"recipe": 3}, {"sessions": {}}):
        run_dir.write_json(tmp_path / "config.json", {**config, **broken})
        with pytest.raises(UserError, match="is not a run's record of this version. Its folder is untouched"):
            run_dir.check_same_run(tmp_path, config)
    (tmp_path / "config.json").unlink()
    assert run_dir.check_same_run(tmp_path, config) is config


def test_folders_of_runs_are_found_in_order_and_cleared(tmp_path, monkeypatch):
    for name in ("b/m/x/seed1", "a/m/x/seed10", "a/m/x/seed2"):
        (tmp_path / name / "logits").mkdir(parents=True)
        for file in ("metrics.csv", "config.json", "weights.pt", "logits/a.npz"):
            (tmp_path / name / file).write_text("{}")
    found = run_dir.find_runs(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/m/x/seed10", "a/m/x/seed2", "b/m/x/seed1"]
    assert run_dir.find_runs(tmp_path, "b", "weights.pt") == found[2:] and run_dir.find_runs(tmp_path, "*",
                                                                                             "none") == []
    run_dir.clear(found[0], run_dir.MADE_BY_EVALUATION)
    assert {path.name for path in found[0].iterdir()} == {"config.json", "weights.pt"} and run_dir.is_finished(found[0])
    (found[0] / "weights.pt").unlink()
    assert not run_dir.is_finished(found[0])
    (found[1] / "config.json").unlink()
    assert not run_dir.is_finished(found[1])
    (found[2] / "link").symlink_to(found[1])
    order, unlink = [], run_dir.Path.unlink
    monkeypatch.setattr(run_dir.Path, "unlink", lambda path, **words: (order.append(path.name),
                                                                       unlink(path, **words))[1])
    run_dir.clear(found[2])
    assert order[0] == "weights.pt" and order[-1] == "config.json" and not [*found[2].iterdir()]
    assert (found[1] / "weights.pt").exists()
    run_dir.clear(found[2])


@pytest.mark.parametrize("denied", [".", "logits", "logits/inner"])
@pytest.mark.parametrize("mode", [os.W_OK, os.X_OK])
def test_nothing_is_removed_where_one_folder_cannot_be_changed(tmp_path, monkeypatch, denied, mode):
    (tmp_path / "logits/inner").mkdir(parents=True)
    (tmp_path / "weights.pt").write_text("")
    monkeypatch.setattr(run_dir.os, "access", lambda path, asked: not (path == tmp_path / denied and asked & mode))
    with pytest.raises(UserError, match=f"{tmp_path / denied} cannot be changed by this user: nothing was removed"):
        run_dir.clear(tmp_path)
    assert (tmp_path / "weights.pt").exists() and (tmp_path / "logits/inner").is_dir()
    run_dir.clear(tmp_path, ("scores",))


def test_what_a_link_leads_to_is_not_looked_at_and_what_is_gone_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "elsewhere/inner").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/logits").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run/log.csv").write_text("")
    asked = []
    def access(path, mode):
        asked.append(path)
        (tmp_path / "run/log.csv").unlink()
        return True
    monkeypatch.setattr(run_dir.os, "access", access)
    run_dir.clear(tmp_path / "run")
    assert asked == [tmp_path / "run"] and not [*(tmp_path / "run").iterdir()]
    assert (tmp_path / "elsewhere/inner").is_dir()


def test_weights_are_compared_with_their_record(tmp_path):
    content = os.urandom((1 << 20) + 3)
    (tmp_path / "weights.pt").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert run_dir.file_digest(tmp_path / "weights.pt") == digest
    for config in ({}, {"sha256": {}}, {"sha256": {"weights.pt": digest}}, {"sha256": 3}, {"sha256": {"other": "x"}}):
        assert run_dir.weights_digest(tmp_path, config, "weights.pt") == digest
    with pytest.raises(UserError, match=f"{tmp_path / 'weights.pt'} is damaged or another run's"):
        run_dir.weights_digest(tmp_path, {"sha256": {"weights.pt": "x"}}, "weights.pt")
    with pytest.raises(UserError, match="weights_best.pt is missing: train the run again with --fresh"):
        run_dir.weights_digest(tmp_path, {}, "weights_best.pt")


def test_records_are_objects(tmp_path):
    path = tmp_path / "a.json"
    run_dir.write_json(path, {"a": [1]})
    assert path.read_text() == json.dumps({"a": [1]}, indent=1) + "\n" and run_dir.read_json(path) == {"a": [1]}
    for content, said in (("[1]", "it holds a list"), ("{", "is damaged"),
                          ("\udcff".encode("utf-8", "surrogateescape"), "is damaged")):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=f"{said}.*--fresh"):
            run_dir.read_json(path)
    run_dir.write_log(tmp_path, [{"epoch": 1, "b": 2}, {"epoch": 2, "b": 3}])
    assert (tmp_path / "log.csv").read_bytes() == b"epoch,b\n1,2\n2,3\n"
    with pytest.raises(UserError, match="/dev/null is a device"):
        run_dir.file_digest("/dev/null")


def test_metrics_belong_to_the_weights_that_the_config_tells_of(tmp_path):
    row = ("openood", "svhn", "far", "best", "", "auroc", 1 + 1e-6, "note")
    for weights, config, fits in (("abc", None, True), ("abc", {}, True),
                                  ("abc", {"sha256": {"weights.pt": "abc"}}, True),
                                  ("abc", {"sha256": {"weights.pt": "x"}}, False),
                                  ("abc", {"sha256": {"a": "x"}}, True),
                                  ("", {"sha256": {"weights.pt": "x"}}, True)):
        run_dir.write_metrics(tmp_path, [row, row[:5] + ("brier", 2)], weights)
        if fits:
            assert run_dir.read_metrics(tmp_path, config) == [row, (*row[:5], "brier", 2.0, "")]
        else:
            with pytest.raises(UserError, match="made of other weights than config.json tells of: it is another run's"):
                run_dir.read_metrics(tmp_path, config)
    assert b"\r" not in (tmp_path / "metrics.csv").read_bytes()


@pytest.mark.parametrize("metric, low, high", [
    ("accuracy", 0, 1), ("ece_uncalibrated", 0, 1), ("auroc", 0, 1), ("aupr_out_published", 0, 1), ("brier", 0, 2),
    ("nll", 0, math.inf), ("images", 0, math.inf), ("temperature", 0, math.inf), ("own", -math.inf, math.inf)])
def test_values_lie_within_the_limits_of_their_metric(metric, low, high):
    def refused(value, checkpoint="last"):
        try:
            run_dir._refuse_impossible([("b", "d", "g", checkpoint, "", metric, value, "")], Path("r/metrics.csv"))
        except UserError as error:
            return str(error)
    for end, sign in ((low, -1), (high, 1)):
        if math.isfinite(end):
            assert not refused(end) and not refused(end + sign * 0.9e-6)
            assert "is impossible. Evaluate the run again: python evaluate.py r" in refused(end + sign * 1.1e-6)
    assert not refused(0.5) and not refused(0.5, "best") and "impossible" in refused(math.nan)
    assert "impossible" in refused(math.inf) and "unknown checkpoint 'first'" in refused(0.5, "first")


def test_a_row_that_no_csv_writer_wrote_is_damage(tmp_path):
    before = ",".join(run_dir.METRIC_COLUMNS) + '\n"b"x,d,g,last,,auroc,0.5,\n'
    closing = f",,,,,rows,1,sha256:{hashlib.sha256(before.encode()).hexdigest()}\n"
    (tmp_path / "metrics.csv").write_text(before + closing)
    with pytest.raises(UserError, match="is damaged or empty"):
        run_dir.read_metrics(tmp_path)


# ---- plugins and versions ----

def test_plugins_are_run_in_their_order_and_can_be_imported_by_pickle(tmp_path):
    (tmp_path / "first_one.py").write_text("import recipes\nVALUE = 5\n")
    found = plugins.load_plugins(["--plugin", f"{tmp_path}/first_one.py", "--other", "3", "--plug", "x"])
    assert found == [f"{tmp_path}/first_one.py"] and sys.modules.pop("plugin_first_one").VALUE == 5
    assert plugins.load_plugins([]) == []
    (tmp_path / "bad.py").write_text("\nraise KeyError('k')\n")
    with pytest.raises(UserError,
                       match=f"--plugin {tmp_path}/bad.py failed in {tmp_path}/bad.py, line 2: KeyError: 'k'"):
        plugins.load_plugins(["--plugin", f"{tmp_path}/bad.py"])
    sys.modules.pop("plugin_bad", None)
    (tmp_path / "text.txt").write_text("")
    for name, said in (("none.py", "there is no such file"), ("text.txt", "its name must end in .py")):
        with pytest.raises(UserError, match=f"--plugin {tmp_path}/{name}: {said}"):
            plugins.load_plugin(tmp_path / name)


def test_a_run_records_commit_and_versions(monkeypatch):
    said = {"rev-parse": "abc", "status": ""}
    monkeypatch.setattr(environment, "_git", lambda word, *more: said[word])
    found = environment.environment()
    assert found["commit"] == "abc" and found["uncommitted_changes"] is False and found["torch"] == version("torch")
    said["status"] = " M a.py"
    assert environment.environment()["uncommitted_changes"] is True
    assert list(found) == ["commit", "uncommitted_changes", "python", "torch", "torchvision", "numpy"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    monkeypatch.undo()
    assert environment._git("no-such-command") is None
