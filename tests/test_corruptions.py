"""CIFAR-10-C's official arrays from an archive or a mirror, and sets of our own that never pass for them."""
import io
import sys
import types
from hashlib import md5

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import put, script, tar_of
from test_openood import give

from data import corruptions, prepare
from data.sources import corruptions as sources
from data.sources.store import verify
from utils import run_dir
from utils.io import UserError

rng = np.random.default_rng(0)


@pytest.fixture
def arrays(monkeypatch):
    """The 20 official files in miniature (4 images a severity), with checksums of their own: {name: bytes}."""
    files = {}
    for name in [*corruptions.ARRAYS, "labels"]:
        shape = (20,) if name == "labels" else (20, 32, 32, 3)
        buffer = io.BytesIO()
        np.save(buffer, rng.integers(0, 10, shape, dtype=np.uint8))
        files[f"{name}.npy"] = buffer.getvalue()
    sums = {name: md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(sources, "MD5S", {name: (sums[f"{name}.npy"], "") for name in corruptions.ARRAYS})
    monkeypatch.setitem(sources.LABELS_MD5, "cifar10_c", sums["labels.npy"])
    return files


def check(data_dir, arrays):
    for corruption, severity in (("fog", 1), ("fog", 5), ("saturate", 3)):
        images, labels = corruptions.read_corrupted("cifar10_c", corruption, severity, data_dir)
        part = slice(4 * (severity - 1), 4 * severity)
        assert np.array_equal(images, np.load(io.BytesIO(arrays[f"{corruption}.npy"]))[part])
        assert np.array_equal(labels, np.load(io.BytesIO(arrays["labels.npy"]))[part]) and labels.dtype == np.int64
        assert corruptions.note("cifar10_c", corruption, severity, data_dir) == ""
    assert len(corruptions.available_corruptions("cifar10_c", data_dir)) == 19 * 5
    assert len(corruptions.CORRUPTIONS) == 15 and len(corruptions.VALIDATION) == 4


@pytest.mark.parametrize("layout", ["archive", "folder"])
def test_the_official_arrays(tmp_path, arrays, official, layout, capsys):
    files = {f"CIFAR-10-C/{name}": content for name, content in arrays.items()}
    put(tmp_path / "mirror", official("cifar10_c", archive=tar_of(files, "w")) if layout == "archive" else files)
    data = tmp_path / "data"
    assert prepare.prepare("cifar10_c", data, [tmp_path / "mirror"], may_download=False)
    assert "20 of 20 arrays: official files, MD5 verified" in capsys.readouterr().out
    check(data, arrays)
    assert (data / "cifar10_c/fog.npy").is_symlink() == (layout == "folder"), "3 GB are not copied from a folder"
    before = {p: p.lstat().st_mtime_ns for p in data.rglob("*")}
    assert prepare.prepare("cifar10_c", data, []) and verify("cifar10_c", data)
    assert before == {p: p.lstat().st_mtime_ns for p in data.rglob("*")}
    opened = corruptions.open_corrupted("cifar10_c", "fog", 2, data, torch.device("cpu"))
    assert next(opened.eval_batches())[0].shape == (4, 3, 32, 32)
    digests = {corruptions.corruption_digest("cifar10_c", c, s, data) for c in ("fog", "snow") for s in (1, 2)}
    assert len(digests) == 4


def test_a_damaged_array_is_named_and_the_others_work(tmp_path, arrays, capsys):
    arrays["snow.npy"] = arrays["snow.npy"][:-1]
    put(tmp_path / "CIFAR-10-C", arrays)
    assert not prepare.prepare("cifar10_c", tmp_path / "data", [tmp_path])
    said = capsys.readouterr().out
    assert "19 of 20 arrays" in said and "snow.npy is incomplete or altered" in said
    assert len(corruptions.available_corruptions("cifar10_c", tmp_path / "data")) == 18 * 5
    with pytest.raises(UserError, match="no snow in severity 1 .* data/sources/corruptions.py cifar10 --severity 1"):
        corruptions.read_corrupted("cifar10_c", "snow", 1, tmp_path / "data")
    with pytest.raises(UserError, match="has no 'rain' in severity 1: choose from gaussian_noise"):
        corruptions.read_corrupted("cifar10_c", "rain", 1, tmp_path / "data")
    (tmp_path / "data/cifar10_c/fog.npy").unlink()
    (tmp_path / "data/cifar10_c/fog.npy").write_bytes(b"bit rot")
    with pytest.raises(UserError, match="fog in .* is damaged"):
        corruptions.read_corrupted("cifar10_c", "fog", 1, tmp_path / "data")
    assert not verify("cifar10_c", tmp_path / "data")


def test_a_set_of_our_own_is_marked_repeatable_and_gives_way_to_the_official(tmp_path, arrays, monkeypatch, capsys):
    """With a stand-in for the package that draws from NumPy's global generator, as the real one does."""
    def corrupt(image, corruption_name, severity):
        if corruption_name == "fog":
            raise AttributeError("`np.float_` was removed in the NumPy 2.0 release")
        return np.clip(image + np.random.normal(0, severity, image.shape), 0, 255)

    monkeypatch.setitem(sys.modules, "imagecorruptions", types.SimpleNamespace(
        corrupt=corrupt, **dict.fromkeys(corruptions.ARRAYS, lambda x, severity: x)))
    give(tmp_path, "cifar10", labels=np.arange(10))
    sources.make_corruptions("cifar10", ["snow", "fog", "contrast"], [1, 5], 6, tmp_path)
    said = capsys.readouterr().out
    assert "4 arrays of 6 images" in said and "could not make: fog 1 (`np.float_` was removed" in said
    made = corruptions.available_corruptions("cifar10_c", tmp_path)
    assert made == [("snow", 1), ("snow", 5), ("contrast", 1), ("contrast", 5)]
    first, labels = corruptions.read_corrupted("cifar10_c", "contrast", 5, tmp_path)
    assert first.shape == (6, 32, 32, 3) and first.dtype == np.uint8 and labels.tolist() == list(range(6))
    assert "not CIFAR-10-C but made from the test images" in corruptions.note("cifar10_c", "contrast", 5, tmp_path)
    sources.make_corruptions("cifar10", ["contrast"], [5], 6, tmp_path)
    assert np.array_equal(corruptions.read_corrupted("cifar10_c", "contrast", 5, tmp_path)[0], first)
    assert len(corruptions.available_corruptions("cifar10_c", tmp_path)) == 4 and verify("cifar10_c", tmp_path)
    put(tmp_path / "mirror/CIFAR-10-C", arrays)
    assert prepare.prepare("cifar10_c", tmp_path, [tmp_path / "mirror"])
    check(tmp_path, arrays)
    assert "arrays made here, see data/sources/corruptions.py" in capsys.readouterr().out


def test_without_the_package_the_way_to_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UserError, match="pip install imagecorruptions-imaug"):
        sources.make_corruptions("cifar10", ["snow"], [1], 1, tmp_path)


def test_images_without_corruption_score_as_the_clean_ones_do(tmp_path, arrays):
    """evaluate.py to the end: fog of severity 1 is what the clean test images are here; other rows have their own."""
    put(tmp_path / "mirror", {f"CIFAR-10-C/{name}": content for name, content in arrays.items()})
    data = tmp_path / "data"
    images, labels = (np.load(io.BytesIO(arrays[name])) for name in ("fog.npy", "labels.npy"))
    for split, part in (("train", slice(4, 12)), ("test", slice(4))):
        give(data, "cifar10", split, labels[part].astype(np.int64), images=images[part])
    arrays_kept = ("fog", "snow", "labels")
    assert prepare.prepare("cifar10_c", data, [tmp_path / "mirror"], may_download=False)
    for path in (data / "cifar10_c").glob("*.npy"):
        if path.stem not in arrays_kept:
            path.unlink()
    script("train.py", "--dataset", "cifar10", "--model", "resnet18_32x32", "--loss", "de", "--members", 2,
           "--epochs", 1, "--device", "cpu", "--data-dir", data, "--results-dir", tmp_path)
    run = tmp_path / "cifar10/resnet18_32x32/de-2-none/seed1"
    script("evaluate.py", run, "--device", "cpu", "--data-dir", data)
    found = pd.DataFrame(run_dir.read_metrics(run), columns=run_dir.METRIC_COLUMNS)
    found = found[(found.benchmark == "openood") & (found.checkpoint == "last")].set_index("ood_group")
    clean, fog = ({row.metric: row.value for row in found.loc[group].itertuples() if row.dataset in ("cifar10", name)}
                  for group, name in (("id", ""), ("corrupted_1", "cifar10_c_fog")))
    by_clean = {metric: fog.pop(f"{metric}_clean_temperature") for metric in ("ece", "nll", "brier")}
    assert fog.keys() == clean.keys() and fog == pytest.approx(clean)
    assert by_clean == pytest.approx({metric: clean[metric] for metric in by_clean}), "it is fitted on the same images"
    assert set(found.loc["corrupted_5"].dataset) == {"cifar10_c_fog", "cifar10_c_snow"}
