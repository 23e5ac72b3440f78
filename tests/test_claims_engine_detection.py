"""Claims about calibration, detection and exported graphs, with the smallest networks."""
import copy
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import recipes
from engine import exported
from engine.detection import Detector, calibrate
from engine.exported import DetectorGraph, compared, example_images
from losses import LossFirstPart, SoftMaxLossFirstPart
from losses.calibration import PERCENTILES, SCORES, score_number
from models.ensemble import Ensemble
from utils.io import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


class Tiny(nn.Module):
    """Pixels of 4×4 images straight to a head."""

    def __init__(self, head=None):
        super().__init__()
        self.classifier = head or SoftMaxLossFirstPart(48, 3)

    def forward(self, images):
        return self.classifier(images.flatten(1))


class Foreign(nn.Linear):
    """A plugin's head: it knows of no temperature."""


@pytest.fixture
def world():
    """(model of two members, images, their mean logits, labels, calibration)"""
    torch.manual_seed(0)
    model = Ensemble([Tiny(), Tiny()]).eval()
    for member in model.members:
        nn.init.normal_(member.classifier.weights, std=0.3)
    images = torch.randn(30, 3, 4, 4)
    with torch.no_grad():
        logits = model.members[0](images) / 2 + model.members[1](images) / 2
    labels = (logits.argmax(1) + (torch.arange(30) % 4 == 0)) % 3
    return model, images, logits, labels, calibrate(3, logits.numpy(), labels.numpy())


# ---- calibration.json ----

def test_a_calibration_says_what_it_was_made_of(world):
    _, _, logits, labels, made = world
    assert set(made) == {"images", "temperature", "temperature_note", "percentiles", "thresholds"}
    assert made["images"] == 30 and made["percentiles"] == list(PERCENTILES) and made["temperature_note"] == ""
    assert abs(made["temperature"] - 1) > 0.01
    for score, values in made["thresholds"].items():
        expected = SCORES[score]((logits / made["temperature"]).double())
        assert values[0] == pytest.approx(expected.min().item(), rel=1e-4)
        assert values[-1] == pytest.approx(expected.max().item(), rel=1e-4) and values == sorted(values)
    assert set(made["thresholds"]) == set(SCORES)


def test_a_temperature_that_is_doubtful_is_noted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever else is done with warnings
        right = calibrate(2, np.array([[3.0, 0], [0, 3]], np.float32), np.array([0, 1]))
    assert right["temperature_note"] and right["images"] == 2


def damaged(made, change):
    made = copy.deepcopy(made)
    change(made)
    return made


@pytest.mark.parametrize("change", [
    lambda c: c.update(temperature=0), lambda c: c.update(temperature=-1.0), lambda c: c.update(temperature=True),
    lambda c: c.update(temperature=float("nan")), lambda c: c.update(temperature="1"), lambda c: c.pop("temperature"),
    lambda c: c.update(temperature=float("inf")), lambda c: c.update(images=30.0), lambda c: c.pop("images"),
    lambda c: c.update(percentiles=[*PERCENTILES[:-1], 99]), lambda c: c["thresholds"]["MPS"].pop(),
    lambda c: c["thresholds"]["ES"].reverse(), lambda c: c["thresholds"]["ES"].__setitem__(3, None),
    lambda c: c["thresholds"]["energy"].__setitem__(24, float("inf")), lambda c: c.update(thresholds=[1])])
def test_damaged_calibrations_are_refused(world, change):
    model, *_, made = world
    with pytest.raises(UserError, match="the calibration is damaged .*Evaluate the run again"):
        Detector(model, 3, damaged(made, change), "MPS")


def test_equal_thresholds_and_whole_numbers_are_a_calibration(world):
    model, *_, made = world
    equal = damaged(made, lambda c: c.update(temperature=2, thresholds={"MDS": [1] * 25, "ES": [0.0] * 25}))
    assert Detector(model, 3, equal, "MDS").threshold(0.05) == 1
    half = damaged(made, lambda c: c.update(temperature=0.5))
    head = Detector(model, 3, half, "MDS").head
    assert head.temperature.item() == 0.5 and head.validationset_available.item() is True
    assert head.thresholds_score.tolist() == [-1, score_number("MDS")] and head.precomputed_thresholds[0].isnan().all()
    assert head.thresholds_temperature[0].isnan() and head.thresholds_temperature[1] == 0.5
    with pytest.raises(UserError, match="no thresholds of MPS, it has MDS, ES. Evaluate the run again, with --plugin"):
        Detector(model, 3, equal, "MPS")
    with pytest.raises(UserError, match="the calibration is damaged"):
        Detector(model, 3, None, "MPS")


# ---- a detector ----

@pytest.mark.parametrize("score", ["MPS", "MMLES"])
def test_a_detector_answers_by_the_calibrated_mean_of_its_members(world, score):
    model, images, logits, _, made = world
    detector = Detector(model, 3, made, score)
    assert detector.ours and detector.temperature == made["temperature"]
    assert all(member.classifier.temperature.item() == pytest.approx(made["temperature"]) for member in model.members)
    classes, probabilities, scores, known = detector(images, 0.1)
    calibrated = (logits / made["temperature"]).double()
    assert torch.equal(classes, logits.argmax(1)) and scores.dtype == torch.float64
    assert torch.allclose(probabilities, calibrated.softmax(1).amax(1), atol=1e-5)
    assert torch.allclose(scores, SCORES[score](calibrated), atol=1e-4)
    assert detector.threshold(0.1) == made["thresholds"][score][PERCENTILES.index(10)]
    assert torch.equal(known, scores >= detector.threshold(0.1)) and known.sum() == 27
    assert detector(images, 1.0)[3].sum() < known.sum() < detector(images, 0.0)[3].sum() + 1


def test_a_foreign_heads_logits_are_divided_by_the_temperature(world):
    _, images, _, _, made = world
    model = Tiny(Foreign(48, 3))
    detector = Detector(model, 3, made, "MDS")
    assert not detector.ours and isinstance(detector.head, LossFirstPart)
    assert torch.allclose(detector(images, 0.05)[2], (model(images).double() / made["temperature"]).amax(1))
    assert detector.head.num_classes == 3
    mixed = Ensemble([Tiny(), Tiny(Foreign(48, 3))])
    assert not Detector(mixed, 3, made, "MDS").ours
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        detector(images, 0.05)


def test_scores_of_plugins_are_known_to_detectors(world, monkeypatch):
    model, images, logits, _, made = world
    monkeypatch.setitem(recipes.SCORES, "of_a_plugin", lambda z: z[..., 0])
    with_it = damaged(made, lambda c: c["thresholds"].update(of_a_plugin=made["thresholds"]["MDS"]))
    try:
        scores = Detector(model, 3, with_it, "of_a_plugin")(images, 0.05)[2]
        assert torch.allclose(scores, logits[:, 0].double() / made["temperature"], atol=1e-4)
    finally:
        SCORES.pop("of_a_plugin", None)


# ---- the graph of an export ----

def test_a_graph_answers_as_the_detector_does_on_normalised_pixels(world):
    model, _, _, _, made = world
    images = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for network in (model, Tiny(Foreign(48, 3))):
        detector = Detector(network, 3, made, "ES")
        graph = DetectorGraph(detector, MEAN, STD, 0.25)
        classes, probabilities, scores, known = detector((images / 255 - mean) / std, 0.25)
        logits, *answers = graph(images)
        assert logits.shape == (9, 3) and torch.equal(logits.argmax(1), classes)
        assert torch.allclose(answers[0].double(), probabilities, atol=1e-5)
        assert torch.allclose(answers[1].double(), scores, atol=1e-5) and torch.equal(answers[2], known)
        assert torch.allclose(logits.softmax(1).amax(1), answers[0]) and graph.threshold.dtype == torch.float32
        graph.threshold.copy_(answers[1][0])
        assert graph(images)[3][0], "a score at the threshold is in"
        gray = images[:, :1]
        assert all(torch.equal(a, b) for a, b in zip(graph(gray), graph(gray.expand(-1, 3, -1, -1))))


def test_examples_are_noise_ramps_and_flat_images():
    images = example_images(8, 6, 1)
    assert images.shape == (6, 1, 8, 8) and images.dtype == torch.uint8 and example_images(5, 2).shape == (2, 3, 5, 5)
    distinct = [len(image.unique()) for image in images]
    assert distinct[2] == distinct[5] == 1 and min(distinct[0], distinct[3]) > 30
    assert images[1, 0, 0, 0] == 0 and images[1, 0, -1, -1] == 255 and (images[1, 0, 1:].diff(dim=0) >= 0).all()
    ramp = [[int(255 * y / 7 * (0.2 + 0.8 * x / 7) + 1e-9) for x in range(8)] for y in range(8)]
    assert (images[1, 0] - torch.tensor(ramp)).abs().max() <= 1
    rng = np.random.default_rng(0)
    assert np.array_equal(images[0], rng.integers(0, 256, (1, 8, 8))) and images[2, 0, 0, 0] == rng.integers(256)
    assert torch.equal(images[1], images[4]) and not torch.equal(images[0], images[3])
    colour = example_images(8, 3)
    assert torch.equal(colour[1, 0], colour[1, 2]) and not torch.equal(colour[0, 0], colour[0, 2])
    assert torch.equal(colour, example_images(8, 3)), "every time the same"


def fake_graph(scores, threshold=0.0):
    """Outputs that are what we say, for as many images as there are."""
    class Graph:
        def __call__(self, images):
            n = len(images)
            score = torch.tensor(scores).repeat(n)[:n]
            return torch.ones(n, 3) * 2, torch.ones(n), score, score >= threshold
    graph = Graph()
    graph.threshold = torch.tensor(threshold)
    return graph


def test_a_file_may_differ_by_the_tolerance_of_the_largest_value():
    graph, seen = fake_graph([3.0]), []

    def off(by, output):
        def run(images):
            seen.append(tuple(images.shape[:2]))
            return [x + by if k == output else x for k, x in enumerate(graph(images))]
        return run
    check = compared(graph, off(1e-4, 0), 4, "it")  # half of the tolerance of 2
    assert check.images == 13 and check.largest_difference == pytest.approx(5e-5, rel=0.01)
    assert seen == [(1, 3), (2, 3), (7, 3), (3, 1)]
    for output, name in enumerate(exported.OUTPUTS[:3]):
        with pytest.raises(UserError, match=f"it differs from PyTorch: {name} is off by .* Nothing was written"):
            compared(graph, off(1e-2, output), 4, "it")
    with pytest.raises(UserError, match="score is off by nan"):
        compared(graph, off(float("nan"), 2), 4, "it")
    with pytest.raises(UserError, match="differs from PyTorch: logits"):
        compared(graph, lambda images: [graph(images)[0][:, :1], *graph(images)[1:]], 4, "it")


def test_small_values_are_compared_as_if_the_largest_were_one():
    graph = fake_graph([0.5, -0.5])
    by = lambda amount: lambda images: [x + amount * (k == 2) if k < 3 else x for k, x in enumerate(graph(images))]
    assert compared(graph, by(9e-5), 4, "it").largest_difference == pytest.approx(9e-5, rel=0.01)
    with pytest.raises(UserError, match="score is off by 0.0002"):
        compared(graph, by(2e-4), 4, "it")


def test_decisions_must_be_alike_but_at_the_threshold():
    flipped = lambda graph: lambda images: [*graph(images)[:3], ~graph(images)[3]]
    with pytest.raises(UserError, match="it rejects other images than PyTorch. Nothing was written"):
        compared(fake_graph([0.5, -0.5]), flipped(fake_graph([0.5, -0.5])), 4, "it")
    assert compared(fake_graph([0.5]), fake_graph([0.5]), 4, "it").largest_difference == 0
    high = fake_graph([3.0002], 3.0)
    assert compared(high, flipped(high), 4, "it").images == 13, "within the tolerance of the largest score"
    for score in (3.0004, 1.00015):
        beyond = fake_graph([score], round(score))
        with pytest.raises(UserError, match="rejects other images"):
            compared(beyond, flipped(beyond), 4, "it")
    near = fake_graph([5e-5, -5e-5])
    assert compared(near, flipped(near), 4, "it").images == 13


# ---- files of an export ----

class Unfit(nn.Module):
    def forward(self, images):
        raise RuntimeError("first line\nsecond line")


def test_networks_that_cannot_be_exported_are_refused_in_a_line(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="^this network cannot be exported: first line$"):
        exported.exported_program(Unfit(), 4)
    pytest.importorskip("onnxruntime", reason="export --onnx needs the extra [onnx]")
    given = []
    monkeypatch.setattr(exported, "exported_program", lambda graph, size: ("program of", graph, size))

    def export(*words, **options):
        given.append((words, options))
        raise torch.onnx.OnnxExporterError("outer\nmore") from (ValueError("inner\nmore") if len(given) > 1 else None)
    monkeypatch.setattr(torch.onnx, "export", export)
    for reason in ("outer", "inner"):
        with pytest.raises(UserError, match=f"^ONNX cannot express this network: {reason}$"):
            exported.write_onnx("graph", 4, tmp_path / "x", {})
    assert given[0] == ((("program of", "graph", 4),), {
        "dynamo": True, "input_names": ["images"], "output_names": list(exported.OUTPUTS), "opset_version": 20,
        "verbose": False})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="^--onnx needs onnx: pip install onnx onnxruntime onnxscript$"):
        exported.write_onnx("graph", 4, tmp_path / "x", {})


def test_a_program_is_saved_with_its_metadata_and_compared_as_it_was_loaded(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(exported, "exported_program", lambda *words: ("program of", *words))
    monkeypatch.setattr(torch.export, "save", lambda *words, **options: given.append((words, options)))
    monkeypatch.setattr(torch.export, "load", lambda path: SimpleNamespace(module=lambda: ("loaded", path)))
    monkeypatch.setattr(exported, "compared", lambda *words: words)
    assert exported.write_program("graph", 4, tmp_path, {"a": [1]}) == (
        "graph", ("loaded", tmp_path), 4, "the torch.export program")
    assert given == [((("program of", "graph", 4), tmp_path), {"extra_files": {"metadata.json": '{"a": [1]}'}})]
