"""Claims about the parts of evaluate.py, detect.py and export.py."""
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import run_like
from PIL import Image
from safetensors.torch import save_file

import detect
import evaluate
import export
from data.datasets import CATALOG
from data.decode import UnreadableImage
from engine import checkpoint
from engine.build import build_model
from engine.detection import calibrate
from utils import run_dir
from utils.io import UserError


def arguments(monkeypatch, module, *words):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    return vars(module.parse_arguments())


# ---- evaluate.py ----

DEFAULTS = {"runs": [Path("R")], "if_changed": False, "detectors": [], "ood": [], "bf16": False, "pretrained": None,
            "weights": None, "dataset": None, "model": None, "method": "softmax", "seed": 0, "mean": None, "std": None,
            "results_dir": "results", "data_dir": "data", "device": None, "on_bad_image": "stop", "workers": None,
            "if_locked": "fail", "plugin": []}


def test_what_evaluate_does_unless_told_otherwise(monkeypatch):
    assert arguments(monkeypatch, evaluate, "R") == DEFAULTS
    assert arguments(monkeypatch, evaluate, "--pretrained") == {**DEFAULTS, "runs": [], "pretrained": ""}
    monkeypatch.setitem(evaluate.detectors.DETECTORS, "a", None)
    monkeypatch.setitem(evaluate.detectors.DETECTORS, "b", None)
    words = ["R", "S", "--if-changed", "--detectors", "a", "b", "--detectors", "a", "--ood", "x=1", "y=2",
             "--ood", "z=3", "--bf16",
             "--pretrained", "F", "--weights", "W", "--dataset", "D", "--model", "lenet", "--loss", "de",
             "--seed", "3", "--mean", ".1", ".2", ".3", "--std", "1", "2", "3", "--results-dir", "rd",
             "--data-dir", "dd", "--device", "cpu", "--on-bad-image", "skip", "--workers", "4", "--if-locked", "wait"]
    assert arguments(monkeypatch, evaluate, *words) == {
        "runs": [Path("R"), Path("S")], "if_changed": True, "detectors": ["a", "b", "a"],
        "ood": [("x", "1"), ("y", "2"), ("z", "3")], "bf16": True, "pretrained": "F", "weights": Path("W"),
        "dataset": "D", "model": "lenet", "method": "de", "seed": 3, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3],
        "results_dir": "rd", "data_dir": "dd", "device": "cpu", "on_bad_image": "skip", "workers": 4,
        "if_locked": "wait", "plugin": []}


@pytest.mark.parametrize("words", [
    [], ["R", "--model", "x"], ["R", "--on-bad-image", "x"], ["R", "--if-locked", "skip"], ["R", "--workers", "-1"],
    ["R", "--mean", "1", "2"], ["R", "--std", "1", "2", "a"], ["R", "--seed", "x"], ["R", "--ood", "x"]])
def test_what_evaluate_is_not_told(monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as left:
        arguments(monkeypatch, evaluate, *words)
    assert left.value.code == 2 and (words or "name a RUN, or use --pretrained or --weights" in capsys.readouterr().err)


def test_evaluates_help_keeps_its_lines(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        arguments(monkeypatch, evaluate, "--help")
    text = capsys.readouterr().out
    assert "\n  python evaluate.py results/digits/lenet/*/seed*\n" in text
    assert "\nweights that were trained elsewhere:\n  they become a run in --results-dir\n" in text


def test_ood_folders_and_detectors_are_checked(monkeypatch):
    with pytest.raises(UserError, match="--ood has the name b twice: each folder"):
        arguments(monkeypatch, evaluate, "R", "--ood", "c=1", "b=1", "a=2", "b=3")
    with pytest.raises(UserError, match="--ood has the name x twice"):  # one file on disks that ignore case
        arguments(monkeypatch, evaluate, "R", "--ood", "x=1", "X=2")
    with pytest.raises(UserError, match="unknown detector 'x'"):
        arguments(monkeypatch, evaluate, "R", "--detectors", "x")


def at(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (seconds, seconds))


def test_metrics_are_up_to_date_when_all_is_older(tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    assert not evaluate.up_to_date(run, data)
    at(run / "metrics.csv", 100)
    assert evaluate.up_to_date(run, data)
    for path in (run / "weights.pt", data / "a/manifest.json", data / "b/manifest.json"):
        for seconds, fresh in ((101, False), (100, False), (99, True)):
            at(path, seconds)
            assert evaluate.up_to_date(run, str(data)) == fresh, path


def row(metric, group="id", note=()):
    return ("dismax", "d", group, "last", "", metric, 1, *note)


def test_notes_are_put_to_counts_of_images():
    rows = [row("images"), row("images", "near", ("part",)), row("auroc"), row("images", "id", ("part",))]
    assert evaluate.with_notes(rows, False, False) == rows
    bf16, other = evaluate.IN_BF16, evaluate.OTHER_IMAGES
    assert [r[7:] for r in evaluate.with_notes(rows, True, False)] == [
        (bf16,), (f"part; {bf16}",), (), (f"part; {bf16}",)]
    assert [r[7:] for r in evaluate.with_notes(rows, False, True)] == [(other,), ("part",), (), (f"part; {other}",)]
    assert [r[7:] for r in evaluate.with_notes(rows, True, True)] == [
        (f"{bf16}; {other}",), (f"part; {bf16}",), (), (f"part; {bf16}; {other}",)]
    assert [r[:7] for r in evaluate.with_notes(rows, True, True)] == [r[:7] for r in rows]


def check(learned, here, **config):
    evaluate.check_classes("R", {"images": {"class_names": learned}, "num_classes": 3, **config},
                           SimpleNamespace(name="own", class_names=here))


def test_classes_are_those_that_were_learned_each_with_its_number():
    for learned, here in ((None, ["a"]), (["a"], None), (["a", "b"], ["a", "b"]), ([], ["a"])):
        check(learned, here)
    evaluate.check_classes("R", {}, SimpleNamespace(name="own", class_names=["a"]))
    for learned, here, said in (
            ("abc", "acb", "3 then and 3 now, and class 1 was b and is c"),
            ("abc", "ab", "3 then and 2 now, and class 2 was c and is not there"),
            ("a", "ab", "1 then and 2 now, and class 1 was not there and is b"),
            ("ba", "ab", "2 then and 2 now, and class 0 was b and is a")):
        with pytest.raises(UserError, match=f"R was trained on other classes than own has now: {said}"):
            check(list(learned), list(here))


def test_weights_from_elsewhere_need_all_classes():
    for count in (2, 4):
        with pytest.raises(UserError, match=f"R has weights for 3 classes, and the images of own have {count}"):
            check(None, list("abcd")[:count], weights_from={})
        check(None, list("abcd")[:count])
    check(None, list("abc"), weights_from={})
    check(None, None, weights_from={})


def test_both_benchmarks_make_the_rows_and_a_calibration(monkeypatch):
    given = {}
    monkeypatch.setattr(evaluate, "dismax_rows", lambda *words: given.update(dismax=words) or (["d"], {"t": 1}))
    monkeypatch.setattr(evaluate, "openood_rows", lambda *words: given.update(openood=words) or (["o"], 2.5))
    monkeypatch.setattr(evaluate, "calibrate", lambda *words: given.update(made=words) or {"temperature": 3})
    outputs = SimpleNamespace(logits=np.array([[[1.0, 2]], [[3, 4]]]), labels=np.array([1]))
    cache = SimpleNamespace(outputs=lambda split: outputs if split == "id" else None, num_classes=2, weights_digest="w")
    rows, made = evaluate.checkpoint_rows(cache, "id", "ood", "listed", "scores")
    assert rows == ["d", "o"] and made == {"weights": "w", "temperature": 3, "t": 1,
                                           "temperature_openood_validation": 2.5}
    assert given["dismax"] == (cache, "id", "ood", "scores") and given["openood"] == (cache, "listed", "scores")
    assert given["made"][0] == 2 and given["made"][1].tolist() == [[2, 3]] and given["made"][2].tolist() == [1]
    assert evaluate.checkpoint_rows(cache, "other rank", "ood", "listed", "scores") == ([], {})


# ---- detect.py ----

def test_images_are_as_large_as_the_catalog_says():
    digits, imagenet = (detect.image_facts(name) for name in ("digits", "imagenet1k"))
    assert digits == {"size": 28, "shorter_side": 28, "class_names": list(CATALOG["digits"].class_names)}
    assert imagenet["size"] == 224 and imagenet["shorter_side"] == 256
    with pytest.raises(UserError, match="unknown data set 'nothing'"):
        detect.image_facts("nothing")


ROW = {"file": "a.png", "class": 2, "class_name": "zwei", "probability": 0.123456, "score": -1.5,
       "threshold": float("inf"), "answer": "out"}


def test_rows_are_csv_or_json(capsys):
    write = detect.csv_writer(("run", *detect.COLUMNS))
    write({"run": "R"}, ROW)
    assert capsys.readouterr().out == ("run,file,class,class_name,probability,score,threshold,answer\n"
                                       "R,a.png,2,zwei,0.1235,-1.5000,inf,out\n")
    write = detect.json_writer()
    write({"run": "R"}, {**ROW, "class_name": "ß"})
    write({}, {**ROW, "threshold": 2.0})
    first, second = map(str, capsys.readouterr().out.splitlines())
    assert json.loads(first) == {"run": "R", **ROW, "class_name": "ß", "threshold": None} and "ß" in first
    assert json.loads(second) == {**ROW, "threshold": 2.0}


def test_folders_names_and_standard_input_are_images(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir(), (tmp_path / "empty").mkdir()
    for name in ("b.png", "a.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / "in" / name)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one.png\r\n\ntwo.png")))
    found = list(detect.image_files(["x.png", str(tmp_path / "in"), "-", str(tmp_path / "empty"), "y.png"]))
    assert found == ["x.png", *(str(tmp_path / "in" / name) for name in ("a.png", "b.png")), "one.png", "two.png",
                     str(tmp_path / "empty"), "y.png"]

    def closed(path):
        raise UserError("cannot be read")
    monkeypatch.setattr(detect, "find_images", closed)
    error, after = detect.image_files([str(tmp_path / "in"), "z.png"])
    assert str(error) == "cannot be read" and after == "z.png"


def test_an_image_is_cropped_normalised_and_answered(tmp_path):
    Image.new("RGB", (6, 6), (255, 0, 102)).save(tmp_path / "a.png")
    seen = []

    def detector(batch, rate):
        seen.append((batch, rate))
        return torch.tensor([1]), torch.tensor([0.75]), torch.tensor([2.5]), torch.tensor([rate < 0.5])
    reader = detect.RunReader.__new__(detect.RunReader)
    vars(reader).update(images={"size": 4, "shorter_side": 4, "class_names": ["a", "b"]}, device=torch.device("cpu"),
                        detector=detector, reject_rate=0.1, threshold=2.0, mean=torch.tensor([0.5, 0.5, 0.4]),
                        std=torch.tensor([0.5, 0.25, 0.1]))
    assert reader.answer(tmp_path / "a.png") == {
        "file": tmp_path / "a.png", "class": 1, "class_name": "b", "probability": 0.75, "score": 2.5, "threshold": 2.0,
        "answer": "in"}
    batch, rate = seen[0]
    assert rate == 0.1 and batch.shape == (1, 3, 4, 4)
    assert torch.allclose(batch[0, :, 2, 1], torch.tensor([1.0, -2, 0]), atol=1e-5)
    for names in (["a"], None):
        reader.images["class_names"], reader.reject_rate = names, 0.9
        answer = reader.answer(tmp_path / "a.png")
        assert answer["class_name"] == "" and answer["answer"] == "out"
    with pytest.raises(UnreadableImage, match="the folder holds no images"):
        reader.answer(tmp_path)


def test_a_calibration_belongs_to_its_weights(tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"w")
    digest = detect.run_dir.file_digest(weights)
    read = lambda: detect.RunReader.calibration(tmp_path, weights)
    with pytest.raises(UserError, match=r"has no calibration\.json: python evaluate\.py"):
        read()
    for content, error in (({"best": {}}, "has no calibration"), ({"last": []}, "made of other weights than weights"),
                           ({"last": {"weights": "x"}}, "made of other weights than weights"),
                           ({"last": {}}, "made of other weights")):
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=error):
            read()
    (tmp_path / "calibration.json").write_text(json.dumps({"last": {"weights": digest, "a": 1}, "best": {}}))
    assert read() == {"weights": digest, "a": 1}
    weights.unlink()
    with pytest.raises(UserError, match=r"has no weights\.pt: train the run, then python evaluate\.py"):
        detect.RunReader(tmp_path, None, 0.05, torch.device("cpu"))


@pytest.mark.parametrize(("file", "score", "recorded"), [
    ("weights.pt", None, True), ("model.safetensors", "ES", False)])
def test_a_reader_is_of_the_runs_weights_score_and_images(tmp_path, file, score, recorded):
    run, rng = run_like("dismax", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), np.random.default_rng(0)
    model = build_model(run, 7)
    save = {"weights.pt": checkpoint.save_state, "model.safetensors": lambda path, state: save_file(state, path)}[file]
    save(tmp_path / file, model.state_dict())
    if file == "weights.pt":
        (tmp_path / "model.safetensors").touch()  # of an export into the run's folder, never read
    images = {"images": {"size": 5, "shorter_side": 6, "class_names": ["x"]}} if recorded else {}
    run_dir.write_json(tmp_path / "config.json", {**run.record(), "num_classes": 7, "best_epoch": 1, **images})
    made = calibrate(7, rng.normal(size=(40, 7)).astype(np.float32), rng.integers(0, 7, 40))
    made["weights"] = run_dir.file_digest(tmp_path / file)
    run_dir.write_json(tmp_path / "calibration.json", {"last": made})
    reader = detect.RunReader(tmp_path, score, 0.1, torch.device("cpu"))
    assert reader.detector.head.score_type == (score or "MMLES") and not reader.detector.model.training
    assert torch.equal(reader.detector.model.conv1.weight, model.conv1.weight)
    assert reader.threshold == reader.detector.threshold(0.1) == made["thresholds"][score or "MMLES"][11]
    assert reader.images == (images["images"] if recorded else detect.image_facts("digits"))
    assert [*reader.mean.tolist(), *reader.std.tolist()] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert (reader.folder, reader.reject_rate, reader.device) == (tmp_path, 0.1, torch.device("cpu"))


# ---- export.py ----

def test_only_an_earlier_export_is_replaced(tmp_path):
    export.check_target(tmp_path / "new")
    export.check_target(tmp_path)
    (tmp_path / "other").touch()
    with pytest.raises(UserError, match="holds other files, which stay as they are: choose another"):
        export.check_target(tmp_path)
    (tmp_path / "model.safetensors").touch()
    export.check_target(tmp_path)
    (tmp_path / "weights.pt").touch()
    for place in (tmp_path, tmp_path / "other"):
        with pytest.raises(UserError, match="is a run or a file: choose another folder"):
            export.check_target(place)
