"""The examples, run as they are with fewer epochs; the notebook's cells, run as they stand."""
import importlib
import json
import re

import numpy as np
import pytest
from conftest import ROOT, script

from metrics.detection import detection_metrics


def needs(*packages):
    for package in packages:
        pytest.importorskip(package, reason=f"pip install {package}")


def test_the_sdde_example_gives_an_ensemble_whose_maps_differ():
    said = script("examples/sdde.py", "--epochs", 2).stdout
    plain, sdde = (float(number) for number in re.findall(r"correlation of saliency maps ([+-][0-9.]+)", said))
    assert sdde < plain - 0.1
    accuracies = [float(number) for number in re.findall(r"accuracy ([0-9.]+)%", said)]
    assert len(accuracies) == 2 and min(accuracies) > 95


def test_a_network_of_timm_is_fine_tuned_on_digits():
    needs("timm")
    said = script("examples/timm_finetune.py", "--epochs", 1, "--size", 16).stdout
    accuracy, away = (float(number) for number in re.findall(r"([0-9.]+)%", said))
    assert accuracy > 50 and away < 12


def test_a_network_of_timm_is_fine_tuned_on_class_folders(tmp_path):
    needs("timm")
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for k, name in enumerate(("dark", "light")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(32):
                pixels = rng.integers(128 * k, 128 * k + 128, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    said = script("examples/timm_finetune.py", "--data", tmp_path, "--epochs", 1).stdout
    assert "2 classes: accuracy" in said


def test_hugging_face_saves_and_loads_the_head(tmp_path):
    needs("transformers", "accelerate")
    said = script("examples/huggingface.py", "--epochs", 1, "--output", tmp_path).stdout
    assert float(re.search("difference after loading (.+)", said)[1]) == 0
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {"classifier.prototypes", "classifier.distance_scale", "classifier.temperature"} <= set(file.keys())


def test_other_libraries_read_our_scores_alike(tmp_path, monkeypatch):
    """AUROC, both AUPRs and FPR95 of score files, with ties and without, to six digits."""
    needs("pytorch_ood")
    monkeypatch.syspath_prepend(ROOT / "examples")
    module = importlib.import_module("with_pytorch_ood")
    rng, folder = np.random.default_rng(0), tmp_path / "scores" / "MPS"
    folder.mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps({"run": {"dataset": "digits"}}))
    for name, mean, label in (("digits", 1.0, 3), ("far", 0.0, -1), ("near", 0.7, -1)):
        conf = rng.normal(mean, size=500).astype(np.float32)
        conf[:200] = conf[:200].round(1)  # ties
        np.savez(folder / f"{name}.npz", pred=np.full(500, 3), conf=conf, label=np.full(500, label))
    said = script("examples/with_pytorch_ood.py", tmp_path, "MPS").stdout.splitlines()
    assert [line.split()[:2] for line in said[1:]] == [
        [name, reader] for name in ("far", "near") for reader in ("ours", "pytorch_ood", "openood")]
    refused = script("examples/with_pytorch_ood.py", tmp_path, "MSP", check=False)
    assert refused.returncode == 2 and "MSP one of its scores?" in refused.stderr
    for name in ("far", "near"):
        files = folder / "digits.npz", folder / f"{name}.npz"
        expected = detection_metrics(*(np.load(file)["conf"] for file in files))
        for reader in (module.ours, module.pytorch_ood, module.openood):
            values = dict(zip(module.NAMES, reader(*files)))
            assert values == pytest.approx({key: expected[key] for key in module.NAMES}, abs=1e-6), reader


def test_the_tour_runs(tmp_path):
    """Its code cells, one after the other in one process; it prints what its text promises."""
    cells = json.loads((ROOT / "examples/tour.ipynb").read_text())["cells"]
    code = "import matplotlib; matplotlib.use('Agg')\n" + "\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    said = script("-c", code, cwd=ROOT / "examples").stdout
    (confidence, accuracy), (sharper, _) = (
        (float(one), float(other)) for one, other in re.findall(r"confidence ([0-9.]+)%, accuracy ([0-9.]+)%", said))
    assert abs(sharper - accuracy) < abs(confidence - accuracy), "calibration brings confidence near to accuracy"
    known, unknown = (float(number) for number in re.findall(r"rejected of .*: ([0-9.]+)%", said))
    assert known < 12 and unknown > 60
