"""Claims about what evaluate.py, detect.py and export.py do in order, with stand-ins for the work."""
import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import run_like

import detect
import evaluate
import export
from data.decode import UnreadableImage
from engine import checkpoint, devices, distributed
from engine.exported import Check
from utils.io import UserError

CPU = torch.device("cpu")


def started(monkeypatch, module, *words):
    """Exit status of main()."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    try:
        module.main()
    except SystemExit as left:
        return left.code
    return 0


# ---- evaluate.py ----

@pytest.fixture
def evaluated(monkeypatch):
    """What main() does with runs: a list of words, and the runs that fail, cannot be locked or are up to date."""
    calls, bad, fresh = [], set(), set()

    def work(folder, args, device):
        calls.append(("evaluate", str(folder), device))
        if str(folder) in bad:
            raise UserError(f"{folder} is broken")

    @contextlib.contextmanager
    def locked(folder, wait):
        calls.append(("lock", str(folder), wait))
        yield
        calls.append(("free", str(folder)))
    monkeypatch.setattr(evaluate, "evaluate", work)
    monkeypatch.setattr(evaluate, "locked", locked)
    monkeypatch.setattr(evaluate, "check_finished", lambda folder: calls.append(("check", str(folder))))
    monkeypatch.setattr(evaluate, "up_to_date", lambda run, data_dir: data_dir == "D" and str(run) in fresh)
    return SimpleNamespace(calls=calls, bad=bad, fresh=fresh)


def of(run, wait=False):
    return [("check", run), ("lock", run, wait), ("evaluate", run, CPU), ("free", run)]


def test_networks_are_evaluated_without_tf32(monkeypatch, evaluated):
    monkeypatch.setattr(evaluate.devices, "turn_off_tf32", lambda: evaluated.calls.append("no TF32"))
    assert started(monkeypatch, evaluate, "a", "--device", "cpu") == 0 and evaluated.calls == ["no TF32", *of("a")]


def test_runs_are_locked_and_evaluated_one_after_the_other(monkeypatch, evaluated, capsys):
    assert started(monkeypatch, evaluate, "a", "b", "--device", "cpu") == 0 and evaluated.calls == [*of("a"), *of("b")]
    evaluated.calls.clear()
    started(monkeypatch, evaluate, "a", "--device", "cpu", "--if-locked", "wait")
    assert evaluated.calls == of("a", True)
    evaluated.calls.clear()
    evaluated.bad |= {"a", "c"}
    with pytest.raises(UserError, match="^not evaluated: a, c$"):
        started(monkeypatch, evaluate, "a", "b", "c", "--device", "cpu")
    assert [call for call in evaluated.calls if call[0] == "evaluate"] == [("evaluate", run, CPU) for run in "abc"]
    assert capsys.readouterr().err == "evaluate.py: a is broken\nevaluate.py: c is broken\n"
    with pytest.raises(UserError, match="^a is broken$"):
        started(monkeypatch, evaluate, "a", "--device", "cpu")
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "all_gather_object", lambda value: [value])
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    evaluated.calls.clear()
    with pytest.raises(UserError, match="^a is broken$"):
        started(monkeypatch, evaluate, "a", "b", "--device", "cpu")
    assert [call[0] for call in evaluated.calls] == ["check", "evaluate"], "only the first rank locks"


def test_runs_that_are_up_to_date_may_be_skipped(monkeypatch, evaluated):
    evaluated.fresh |= {"a"}
    monkeypatch.setitem(evaluate.detectors.DETECTORS, "mine", None)
    runs = lambda: [call[1] for call in evaluated.calls if call[0] == "evaluate"]
    for words, left in ((["--if-changed"], ["b"]), ([], ["a", "b"]), (["--if-changed", "--bf16"], ["a", "b"]),
                        (["--if-changed", "--detectors", "mine"], ["a", "b"]),
                        (["--if-changed", "--ood", "x=y"], ["a", "b"])):
        evaluated.calls.clear()
        started(monkeypatch, evaluate, "a", "b", "--device", "cpu", "--data-dir", "D", *words)
        assert runs() == left, words


def test_weights_from_elsewhere_become_runs_first(monkeypatch, evaluated):
    asked = []
    monkeypatch.setattr(evaluate, "adopt_torchvision", lambda *words: asked.append(words) or Path("p"))
    monkeypatch.setattr(evaluate, "adopt_file", lambda args: Path("w"))
    started(monkeypatch, evaluate, "a", "--device", "cpu", "--results-dir", "R", "--pretrained", "F", "--weights", "W")
    assert asked == [("R", "F", True)]
    assert [call[1] for call in evaluated.calls if call[0] == "evaluate"] == ["a", "p", "w"]
    evaluated.calls.clear()
    started(monkeypatch, evaluate, "--device", "cpu", "--pretrained")
    assert asked[1] == ("results", "", True) and evaluated.calls == of("p")


def adopting(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data-dir", "nowhere", "--results-dir", "R", *map(str, words)])
    return evaluate.adopt_file(evaluate.parse_arguments())


def test_a_file_of_weights_becomes_a_run(monkeypatch, tmp_path):
    adopted = []
    monkeypatch.setattr(evaluate, "read_weights", lambda file: ("state of", file))
    monkeypatch.setattr(evaluate, "adopt", lambda *words: adopted.append(words))
    file = tmp_path / "w.pt"
    file.write_bytes(b"w")
    known = "--weights", file, "--dataset", "digits", "--model", "lenet"
    assert adopting(monkeypatch, *known, "--mean", "1", "2", "3") == Path("R/digits/lenet/softmax/seed0")
    run, classes, state, name, digest = adopted.pop()
    assert (classes, state, name, digest) == (7, ("state of", file), "w.pt", evaluate.run_dir.file_digest(file))
    assert run.recipe.mean == (1, 2, 3) and run.recipe.std == run_like("softmax").recipe.std and run.seed == 0
    assert run.address == {"dataset": "digits", "model": "lenet", "method": "softmax", "seed": 0}
    assert adopting(monkeypatch, *known, "--method", "de", "--seed", "4") == Path("R/digits/lenet/de/seed4")
    assert adopted.pop()[0].method.members == 5
    for words, said in ((known[:4], "needs --dataset and --model"), ((*known[:2], *known[4:]), "needs --dataset and"),
                        ((*known, "--seed", "-1"), "--seed must be 0 or more, got -1"),
                        ((*known, "--method", "x"), "unknown method 'x'"), ((*known, "--std", "1", "0", "1"), "--std"),
                        ((*known[:2], "--dataset", "x", *known[4:]), "unknown data set 'x'")):
        with pytest.raises(UserError, match=said):
            adopting(monkeypatch, *words)
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    adopting(monkeypatch, *known)
    assert not adopted


def test_what_is_not_finished_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a finished run: it has no weights\.pt or no config\.json\. Train it"):
        evaluate.check_finished(tmp_path)
    for name in ("weights.pt", "config.json"):
        (tmp_path / name).touch()
    evaluate.check_finished(tmp_path)


# ---- detect.py ----

@pytest.fixture
def readers(monkeypatch, tmp_path):
    """Folders that count as runs, and stand-ins for their networks. `made` has what these were made with."""
    made = []

    class Reader:
        def __init__(self, *words):
            made.append(words)
            self.folder = words[0]

        def answer(self, file):
            if file in ("bad", "worse"):
                raise {"bad": UnreadableImage, "worse": ValueError}[file]("it is broken")
            return {"file": file, "class": 1, "class_name": "", "probability": 0.5, "score": 1, "threshold": 2,
                    "answer": "out"}
    monkeypatch.setattr(detect, "RunReader", Reader)
    monkeypatch.setattr(devices, "turn_off_tf32", lambda: made.append("no TF32"))
    for name in ("r1", "r2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    return made


def test_each_image_is_answered_by_each_run(monkeypatch, readers, capsys):
    line = "a,1,,0.5000,1.0000,2.0000,out\n"
    assert started(monkeypatch, detect, "r1", "a", "--device", "cpu") == 0
    assert capsys.readouterr().out == "file,class,class_name,probability,score,threshold,answer\n" + line
    assert readers == ["no TF32", (Path("r1"), None, 0.05, CPU)]
    words = "r1", "a", "r2", "b", "--device", "cpu", "--score", "ES", "--reject", "20"
    assert started(monkeypatch, detect, *words) == 0 and readers[-1] == (Path("r2"), "ES", 0.2, CPU)
    rows = [row.split(",")[:2] for row in capsys.readouterr().out.splitlines()]
    assert rows == [["run", "file"], ["r1", "a"], ["r2", "a"], ["r1", "b"], ["r2", "b"]]
    started(monkeypatch, detect, "r1", "a", "--device", "cpu", "--json")
    assert "run" not in json.loads(capsys.readouterr().out)


def test_images_that_cannot_be_read_are_named_once_and_the_status_says_so(monkeypatch, readers, capsys):
    assert started(monkeypatch, detect, "r1", "r2", "bad", "worse", "a", "--device", "cpu") == 1
    out, err = capsys.readouterr()
    assert err == "detect.py: bad cannot be read: it is broken\ndetect.py: worse cannot be read: it is broken\n"
    assert len(out.splitlines()) == 3
    monkeypatch.setattr(detect, "image_files", lambda images: [UserError("closed"), "a"])
    assert started(monkeypatch, detect, "r1", "x", "--device", "cpu") == 1
    out, err = capsys.readouterr()
    assert err == "detect.py: closed\n" and len(out.splitlines()) == 2


@pytest.mark.parametrize("rate", [0, 100, 0.5, 99.9])
def test_shares_are_percents(monkeypatch, readers, rate, tmp_path):
    assert started(monkeypatch, detect, "r1", "a", "--device", "cpu", "--reject-rate", rate) == 0
    assert readers[-1][2] == rate / 100
    for wrong in (-0.1, 100.1):
        for module, words in ((detect, ("r1", "a")), (export, ("r1", tmp_path / "new"))):
            with pytest.raises(UserError, match=f"--reject-rate must be between 0 and 100 percent, got {wrong}"):
                started(monkeypatch, module, *words, "--reject-rate", wrong)


def test_runs_and_images_are_both_needed(monkeypatch, readers):
    with pytest.raises(UserError, match=r"^a is not a run: it has no config\.json\. Train one"):
        started(monkeypatch, detect, "a", "b")
    with pytest.raises(UserError, match="name image files, folders of them, or - to read names"):
        started(monkeypatch, detect, "r1", "r2")


# ---- export.py ----

def test_an_export_replaces_an_earlier_one_as_a_whole(monkeypatch, tmp_path, capsys):
    given, target = [], tmp_path / "deep/out"
    monkeypatch.setattr(export.run_dir, "load_run", lambda folder: ("run", f"config of {folder}"))
    monkeypatch.setattr(export.run_dir, "is_finished", lambda folder: True)
    monkeypatch.setattr(export.run_dir, "read_metrics", lambda *words: given.append(words) or ["row"])

    def write(args, rows, folder):
        given.append((args.onnx, args.torch_export, args.score, args.reject_rate, rows))
        assert folder == target.parent / ".out.part" and not any(folder.iterdir())
        for name in ("config.json", "model.safetensors", "README.md"):
            (folder / name).write_text("new")
    monkeypatch.setattr(export, "export", write)
    (target.parent / ".out.part").mkdir(parents=True)
    (target.parent / ".out.part/rest").touch()
    assert started(monkeypatch, export, "r", target) == 0
    assert given == [(Path("r"), "config of r"), (False, False, None, 5, ["row"])]
    assert capsys.readouterr().out == f"{target}: README.md, config.json, model.safetensors\n"
    for name in ("model.onnx", "model.pt2", "notes.txt", "README.md"):
        (target / name).write_text("old")
    started(monkeypatch, export, "r", target, "--onnx", "--torch-export", "--score", "ES", "--reject-rate", "7.5")
    assert given[-1] == (True, True, "ES", 7.5, ["row"]) and (target / "README.md").read_text() == "new"
    assert {path.name for path in target.iterdir()} == {"README.md", "config.json", "model.safetensors", "notes.txt"}
    assert [path.name for path in target.parent.iterdir()] == ["out"]

    def fail(args, rows, folder):
        raise OSError("odd")
    monkeypatch.setattr(export, "export", fail)
    with pytest.raises(UserError, match=r"could not write .*out: odd"):
        started(monkeypatch, export, "r", target)
    assert (target / "config.json").exists() and [path.name for path in target.parent.iterdir()] == ["out"]

    def missing(*_):
        raise FileNotFoundError
    monkeypatch.setattr(export.run_dir, "read_metrics", missing)
    with pytest.raises(UserError, match=r"^r has no metrics\.csv: python evaluate\.py r$"):
        started(monkeypatch, export, "r", target)


@pytest.mark.parametrize(("threshold", "score", "graphs"), [(2.0, None, ()), (float("inf"), "ES", ("onnx", "program"))])
def test_an_export_has_weights_settings_calibration_and_a_card(monkeypatch, tmp_path, capsys, threshold, score, graphs):
    source, folder, asked = tmp_path / "r", tmp_path / "out", []
    source.mkdir(), folder.mkdir()
    checkpoint.save_state(source / "weights.pt", {"w": torch.ones(2, 3).T})
    (source / "calibration.json").write_text(json.dumps({"last": {"temperature": 1.5, "weights": "x"}, "best": {}}))
    run = run_like("dismax")
    monkeypatch.setattr(export.run_dir, "load_run", lambda path: (run, {"a": 1, "images": 0}))
    reader = SimpleNamespace(images={"class_names": ["k"], "size": 28}, threshold=threshold, detector="detector")
    monkeypatch.setattr(export, "RunReader", lambda *words: asked.append(words) or reader)
    graph = SimpleNamespace(eval=lambda: "graph")
    monkeypatch.setattr(export, "DetectorGraph", lambda *words: asked.append(words) or graph)
    monkeypatch.setattr(export, "write_onnx", lambda *words: asked.append(("onnx", *words)) or Check(13, 2e-6))
    monkeypatch.setattr(export, "write_program", lambda *words: asked.append(("program", *words)) or Check(12, 3e-6))
    monkeypatch.setattr(export, "model_card", lambda *words: asked.append(words) or "card")
    args = SimpleNamespace(run=source, score=score, reject_rate=7.5, onnx="onnx" in graphs,
                           torch_export="program" in graphs)
    export.export(args, ["row"], folder)
    about = {"class_names": ["k"], "size": 28, "score": score or "MMLES", "reject_rate": 0.075, "threshold": threshold,
             "temperature": 1.5, "mean": list(run.recipe.mean), "std": list(run.recipe.std)}
    config = json.loads((folder / "config.json").read_text())
    assert config == {"a": 1, "images": reader.images, "detection": {
        **about, "threshold": threshold if threshold == 2 else None}}
    made = json.loads((folder / "calibration.json").read_text())
    digest = export.run_dir.file_digest(folder / "model.safetensors")
    assert made == {"last": {"temperature": 1.5, "weights": digest}}
    assert torch.equal(checkpoint.load_state(folder / "model.safetensors")["w"], torch.ones(3, 2))
    names = {"onnx": "model.onnx", "program": "model.pt2"}
    assert asked == [(source, score, 0.075, CPU), ("detector", run.recipe.mean, run.recipe.std, 0.075),
                     *((kind, "graph", 28, folder / names[kind], about) for kind in graphs),
                     (run, {"a": 1, "images": 0}, ["row"], {"temperature": 1.5, "weights": "x"}, about,
                      [names[kind] for kind in graphs])]
    assert (folder / "README.md").read_text() == "card"
    out = capsys.readouterr().out
    assert out == ("model.onnx agrees with PyTorch on 13 images: largest difference 2.0e-06 of the largest value\n"
                   "model.pt2 agrees with PyTorch on 12 images: largest difference 3.0e-06 of the largest value\n"
                   if graphs else "")
