"""An exported folder answers as its run does: detect.py on it, the ONNX graph and the torch.export program."""
import json
import stat
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT, run_like, script
from PIL import Image

from engine.build import build_model
from engine.detection import Detector, calibrate
from engine.exported import DetectorGraph, compared, write_onnx, write_program
from utils.io import UserError
from utils.lock import locked

RUN = "digits/lenet/dismax_fpr/seed1"


@pytest.fixture(scope="module")
def exported(results_dir, tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="export --onnx needs the extra [onnx]")
    folder = tmp_path_factory.mktemp("exported") / "digits"
    script("export.py", results_dir / RUN, folder, "--onnx", "--torch-export")
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(path)
    return path


def test_detect_graph_and_program_answer_as_the_run_does(results_dir, exported, photo):
    words = photo, "--json", "--device", "cpu"
    expected = json.loads(script("detect.py", results_dir / RUN, *words).stdout)
    assert json.loads(script("detect.py", exported, *words).stdout) == expected
    import onnxruntime

    images = np.asarray(Image.open(photo)).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    program = torch.export.load(exported / "model.pt2").module()
    for answers in (session.run(None, {"images": images}), program(torch.from_numpy(images.copy()))):
        logits, probability, score, known = (np.asarray(torch.as_tensor(answer).detach()) for answer in answers)
        assert logits.argmax() == expected["class"] and known[0] == (expected["answer"] == "in")
        assert probability[0] == pytest.approx(expected["probability"], abs=1e-4)
        assert score[0] == pytest.approx(expected["score"], rel=1e-3, abs=1e-3)
    properties = session.get_modelmeta().custom_metadata_map
    config = json.loads((exported / "config.json").read_text())
    assert json.loads(properties["class_names"]) == config["images"]["class_names"]


def test_an_ensembles_graphs_answer_by_the_mean_of_its_members(tmp_path):
    """Three SDDE members, untrained. write_onnx and write_program compare every output with PyTorch's themselves."""
    pytest.importorskip("onnxruntime", reason="export --onnx needs the extra [onnx]")
    torch.manual_seed(0)
    run = run_like("gradcam", choices={"members": 3})
    model = build_model(run, 7).to(memory_format=torch.channels_last).eval()
    images = torch.randint(0, 256, (40, 3, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        logits = model((images / 255 - 0.5) / 0.5)
    assert logits.shape == (3, 40, 7) and not torch.allclose(logits[0], logits[1], atol=1e-3)
    labels = (logits.mean(0).argmax(1) + (torch.arange(40) % 4 == 0)) % 7
    made = calibrate(7, logits.mean(0).numpy(), labels.numpy())
    assert abs(made["temperature"] - 1) > 0.01
    graph = DetectorGraph(Detector(model, 7, made, "MDS"), run.recipe.mean, run.recipe.std, 0.25).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "No complete tensor")
        write_program(graph, 28, tmp_path / "model.pt2", {})
    assert write_onnx(graph, 28, tmp_path / "model.onnx", {}).images > 10
    answers = torch.export.load(tmp_path / "model.pt2").module()(images)
    assert torch.allclose(answers[0], logits.mean(0) / made["temperature"], atol=1e-4)
    assert answers[3].sum() == 30, "a quarter is turned away"


def test_the_card_quotes_the_metrics(results_dir, exported):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in exported.iterdir()}
    assert len(set(modes.values())) == 1, f"who may read one file may read all: {modes}"
    card = (exported / "README.md").read_text()
    accuracy = next(line.split(",") for line in (results_dir / RUN / "metrics.csv").read_text().splitlines()
                    if line.startswith("dismax,digits,id,last,,accuracy,"))
    assert f"{float(accuracy[6]):.4f}" in card and "auroc" in card and "## Limits" in card


def test_a_run_is_not_overwritten_by_an_export(results_dir):
    done = script("export.py", results_dir / RUN, results_dir / RUN, check=False)
    assert done.returncode == 1 and "choose another folder" in done.stderr


def test_an_export_is_no_run_to_export(tmp_path):
    run = ROOT / "results/reference/cifar10/resnet20/dismax/seed1"
    done = script("export.py", run, tmp_path / "x", check=False)
    assert done.returncode == 1 and f"{run} has no weights.pt: it is an export already" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_export_waits_for_another_to_the_same_place_and_looks_again(results_dir, tmp_path):
    """Two at once would mix their files; what the other one left may be no place to write to."""
    words = [sys.executable, ROOT / "export.py", results_dir / RUN, tmp_path / "x"]
    with locked(tmp_path):
        waiting = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=20)
        assert not list(tmp_path.iterdir())
        (tmp_path / "x").mkdir()
        (tmp_path / "x/mine.txt").touch()
    assert "holds other files, which stay as they are" in waiting.communicate(timeout=300)[1]
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "mine.txt"]


class BrightOrNot:
    """A graph whose answers are of the mean pixel: logits, probability, score, and whether it is known."""

    threshold = 100.0

    def __call__(self, images):
        mean = images.double().mean((1, 2, 3))
        return torch.stack([mean, -mean], 1), mean / 255, mean, mean > self.threshold


@pytest.mark.parametrize("error, accepted", [(0, True), (2e-5, True), (1e-3, False), (float("nan"), False)])
def test_a_file_is_compared_with_the_network_before_it_is_kept(error, accepted):
    """On 13 images, up to the error as a share of the largest value."""
    graph = BrightOrNot()

    def answers(images):
        *numbers, known = graph(images)
        return [*(number * (1 + error) for number in numbers), known]

    if accepted:
        check = compared(graph, answers, 8, "the file")
        assert check.images == 13 and check.largest_difference == pytest.approx(error, abs=1e-12)
    else:
        with pytest.raises(UserError, match="the file differs from PyTorch: logits"):
            compared(graph, answers, 8, "the file")
