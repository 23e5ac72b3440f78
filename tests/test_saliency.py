"""Saliency maps for the report: the maps themselves, what is kept of them, and that they are made once."""
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import made_up_run, run_like, script

from engine import checkpoint
from engine.build import build_model
from engine.saliency import COUNTED, gradcam_maps, mean_over_pairs, pairwise_correlations, write_saliency
from losses.diversity import GradCAMDiversityLoss
from reporting import figures, plots
from reporting.load import read_runs
from utils import run_dir
from utils.io import UserError


def untrained(name, seed=0):
    torch.manual_seed(seed)
    return build_model(run_like(name), 7)


@pytest.fixture
def ensembles(tmp_path, data_dir):
    """Untrained DE and SDDE on digits, as runs that are finished."""
    for name in ("de", "gradcam"):
        run = run_like(name, epochs=3)
        log = [{"epoch": epoch, "selection_acc": 0.5, "seconds": len(name)} for epoch in (1, 2, 3)]
        folder = made_up_run(tmp_path, "digits", "lenet", name, 1, [], log=log, num_classes=7,
                             recipe=run.recipe.as_dict(), best_epoch=1)
        config = json.loads((folder / "config.json").read_text())
        run_dir.write_json(folder / "config.json", {**config, "method": run.method.choices()})
        for file in ("weights.pt", "weights_best.pt"):
            checkpoint.save_state(folder / file, untrained(name, len(name) + len(file)).state_dict())
    return tmp_path


# ---- maps ----

def test_maps_are_those_of_the_definition():
    """Sample by sample and member by member: relu(Σ_c mean(∂z/∂A_c)·A_c) of the class that the mean logits predict."""
    model, images = untrained("de"), torch.randn(4, 3, 28, 28)
    maps, predicted = gradcam_maps(model, images)
    assert torch.equal(predicted, model(images).mean(0).argmax(1)) and maps.shape == (5, 4, 5, 5)
    for n, member in enumerate(model.members):
        for b in range(4):
            logits, _, (*_, a, _) = member(images[b : b + 1], return_features=True)
            gradient, = torch.autograd.grad(logits[0, predicted[b]], a)
            plain = sum(gradient[0, c].mean() * a[0, c] for c in range(a.shape[1])).clamp(min=0)
            assert torch.allclose(maps[n, b], plain, atol=1e-6)


def test_the_mean_correlation_is_the_loss_of_sdde():
    model, images = untrained("gradcam"), torch.randn(6, 3, 28, 28)
    maps, predicted = gradcam_maps(model, images)
    logits, _, feature_maps = model(images, return_features=True)
    loss = GradCAMDiversityLoss()(labels=predicted, logits=logits, feature_maps=feature_maps)
    correlations = pairwise_correlations(maps)
    assert mean_over_pairs(correlations).mean().item() == pytest.approx(loss.item(), abs=1e-4)
    diagonal = correlations.diagonal(dim1=1, dim2=2)
    assert torch.allclose(correlations, correlations.mT) and torch.allclose(diagonal, diagonal.round(), atol=1e-5)
    assert set(diagonal.round().unique().tolist()) <= {0, 1}, "0: the map is 0 everywhere"


def test_a_constant_map_has_no_correlation_and_small_maps_keep_their_border():
    maps = torch.rand(2, 1, 5, 5)
    maps[1] = 0
    assert pairwise_correlations(maps)[0, 0, 1] == 0
    maps = torch.tensor([[[[1.0, 2], [3, 4]]], [[[2.0, 4], [6, 8]]]])  # (2, 1, 2, 2)
    assert pairwise_correlations(maps)[0, 0, 1] == pytest.approx(1, abs=1e-4)


# ---- the file, and the report ----

def test_both_ensembles_are_shown_on_the_same_images(ensembles, data_dir):
    words = ["analyze.py", "--results-dir", ensembles, "--saliency", "--data-dir", data_dir]
    said = script(*words).stdout
    assert said.count(": made") == 2 and f"Written to {ensembles}/report.html" in said
    assert "digits_lenet_saliency.png" in (ensembles / "report.html").read_text()
    contents = [np.load(ensembles / f"digits/lenet/{name}/seed1/saliency.npz") for name in ("de", "gradcam")]
    assert contents[0]["sets"].tolist() == ["digits", "digits_789", "photo_patches"]
    assert contents[0]["groups"].tolist() == ["id", "near", "far"] and str(contents[0]["checkpoint"]) == "best"
    assert np.array_equal(contents[0]["images"], contents[1]["images"])
    assert not np.array_equal(contents[0]["maps"], contents[1]["maps"])
    values = contents[0]["mean_correlations"]
    assert values.shape == (3, COUNTED) and np.isfinite(values[1]).all() and (np.abs(values[1]) <= 1 + 1e-5).all()
    assert np.isfinite(values[0]).sum() == 210, "the half of the test images that is not for validation"
    both = {picture.name: picture for picture in figures.pictures("digits", "lenet", read_runs(ensembles).runs)}
    rows, maps = both["digits_lenet_saliency"].draw.args
    assert [label.split(":")[0] for label, _ in rows] == 2 * ["in-distribution"] + 2 * ["near"] + 2 * ["far"]
    assert list(maps) == ["DE", "SDDE"] and maps["DE"][0][0].shape == (5, 5, 5)
    texts = [text.get_text() for text in plots.saliency_maps(rows, maps).axes[0].texts]
    assert texts.count("correlation") == 2 and sum(text.startswith("mean r = ") for text in texts) == 12
    assert script(*words).stdout.count(": there already") == 2


def test_maps_are_made_again_for_other_weights_or_images(ensembles, data_dir, tmp_path_factory):
    run = ensembles / "digits/lenet/de/seed1"
    assert write_saliency(run, data_dir) and not write_saliency(run, data_dir)
    shutil.copy(run / "weights.pt", run / "weights_best.pt")
    assert write_saliency(run, data_dir) and not write_saliency(run, data_dir)
    (run / "saliency.npz").write_bytes((run / "saliency.npz").read_bytes()[:1000])
    assert figures.arrays_if_there(run / "saliency.npz") == {}, "a damaged file is not shown"
    assert write_saliency(run, data_dir)
    fewer = tmp_path_factory.mktemp("data")
    shutil.copytree(data_dir / "digits", fewer / "digits")
    assert write_saliency(run, fewer) and np.load(run / "saliency.npz")["sets"].tolist() == ["digits"]


def test_what_cannot_be_shown_is_said_and_the_report_is_written(ensembles, data_dir, tmp_path):
    (ensembles / "digits/lenet/de/seed1/weights_best.pt").unlink()
    with pytest.raises(UserError, match="weights_best.pt is missing"):
        write_saliency(ensembles / "digits/lenet/de/seed1", data_dir)
    done = script("analyze.py", "--results-dir", ensembles, "--saliency", "--data-dir", tmp_path / "nothing")
    assert done.stdout.count("No saliency maps of ") == 2 and "digits is not in" in done.stdout
    assert (ensembles / "report.html").exists()


@pytest.mark.parametrize("key", sorted(figures.SALIENCY))
def test_maps_of_another_type_are_not_shown(ensembles, data_dir, key):
    run = ensembles / "digits/lenet/gradcam/seed1"
    write_saliency(run, data_dir)
    content = dict(np.load(run / "saliency.npz"))
    assert figures.are_maps(content)
    assert not figures.are_maps({**content, key: np.zeros(3)}) and not figures.are_maps({**content, key: np.array("a")})
