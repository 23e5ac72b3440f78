"""Claims about metrics.csv's rows and score files, from made-up outputs of a network."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.subsets import Subset
from engine import metric_rows
from engine.inference import Outputs
from engine.metric_rows import (
    calibrated_metrics,
    corrupted_rows,
    dismax_rows,
    every_score,
    fitted_temperature,
    images_row,
    openood_rows,
    openood_scores,
    published_scores,
    quality_metrics,
    subset_outputs,
)
from engine.score_files import write_score_files
from losses.calibration import SCORE_TYPES, SCORES
from metrics import calibration
from metrics.detection import detection_metrics
from metrics.ensemble import ensemble_scores
from metrics.published import published_detection_metrics

RNG = np.random.default_rng(0)


def split_of(name, split="test"):
    return SimpleNamespace(name=name, split=split, origin_note="")


def outputs_of(n, members=2, classes=3, ood=False, scale=3.0):
    logits = RNG.normal(size=(members, n, classes), scale=scale).astype(np.float32)
    labels = np.full(n, -1) if ood else (logits.mean(0).argmax(1) + (np.arange(n) % 4 == 0)) % classes
    return Outputs(logits, labels.astype(np.int64), np.arange(n))


class Cache:
    """Outputs by the name of a set; what is not there is None."""

    def __init__(self, **outputs):
        self.by_name = outputs

    def outputs(self, split):
        return self.by_name.get(split.name if split.split == "test" else f"{split.name}_{split.split}")


def by_score(rows, dataset):
    """(group, score) → {metric: value}"""
    found = {}
    for _, name, group, score, metric, value, *_ in rows:
        if name == dataset and score:
            assert metric not in found.setdefault((group, score), {})
            found[group, score][metric] = value
    return found


# ---- the benchmark of the DisMax paper ----

def test_dismax_rows_are_of_the_mean_logits_with_published_values_beside():
    inside, outside = outputs_of(12), outputs_of(9, ood=True)
    own = {"mine": RNG.normal(size=12)}, {"mine": RNG.normal(size=9)}
    id_split, splits = split_of("own"), [(split_of("near_set"), "near"), (split_of("absent"), "far")]
    detectors = lambda split: own[split.name == "near_set"] if split.name != "absent" else {}
    rows, temperatures = dismax_rows(Cache(own=inside, near_set=outside), id_split, splits, detectors)
    assert {row[0] for row in rows} == {"dismax"} and {row[1] for row in rows} == {"own", "near_set"}
    means = inside.logits.mean(0), outside.logits.mean(0)
    quality, expected = quality_metrics(means[0].astype(np.float64), inside.labels)
    assert temperatures == expected
    assert rows[: 1 + len(quality)] == [("dismax", "own", "id", "", "images", 12, ""), *(
        ("dismax", "own", "id", "", metric, *value) for metric, value in quality.items())]
    assert rows[1 + len(quality)] == ("dismax", "near_set", "near", "", "images", 9, "")
    found = by_score(rows, "near_set")
    assert set(found) == {("near", score) for score in (*SCORES, "mine")}
    for score in SCORES:
        values = [every_score(mean)[score] for mean in means]
        metrics = detection_metrics(*values)
        if score in SCORE_TYPES:
            published = published_detection_metrics(*(published_scores(mean)[score] for mean in means))
            metrics |= {f"{name}_published": value for name, value in published.items()}
        assert found["near", score] == metrics, score
    assert found["near", "mine"] == detection_metrics(own[0]["mine"], own[1]["mine"])


def test_without_detectors_or_outputs_there_are_no_such_rows():
    rows, _ = dismax_rows(Cache(own=outputs_of(8), ood=outputs_of(5, ood=True)), split_of("own"),
                          [(split_of("ood"), "far")])
    assert set(by_score(rows, "ood")) == {("far", score) for score in SCORES}
    assert dismax_rows(Cache(), split_of("own"), [(split_of("ood"), "far")], lambda split: {}) == ([], {})


def test_scores_are_float64_and_published_ones_float32_with_a_probability():
    logits = np.array([[2.0, 0, -1], [1, 1, 1]], np.float32)
    assert all(values.dtype == np.float64 for values in every_score(logits).values())
    published = published_scores(logits)
    assert list(published) == list(SCORE_TYPES) and all(values.dtype == np.float32 for values in published.values())
    assert published["MPS"] == pytest.approx([np.exp(2) / (np.exp(2) + 1 + np.exp(-1)), 1 / 3])
    assert published["MDS"].tolist() == [2, 1] and published["MMLS"] == pytest.approx([2 + 1 / 3, 2])


def test_quality_is_measured_under_three_temperatures(monkeypatch):
    outputs = outputs_of(40)
    logits, labels = outputs.logits.mean(0).astype(np.float64), outputs.labels
    found, temperatures = quality_metrics(logits, labels)
    t = calibration.fit_temperature(logits, labels, "ece")
    crossed, crossed_t = calibration.cross_fitted_logits(logits, labels, "nll")
    assert temperatures["temperatures_cross_fitted_nll"] == crossed_t and len(crossed_t) == 2
    assert temperatures["temperature_fitted_on_test_ece"] == t == found["temperature_fitted_on_test"][0] != 1
    for suffix, z in (("uncalibrated", logits), ("fitted_on_test", logits / t), ("cross_fitted", crossed)):
        q = calibration.probabilities_of(z)
        assert found[f"ece_{suffix}"] == (calibration.expected_calibration_error(q, labels),)
        assert found[f"nll_{suffix}"] == (calibration.negative_log_likelihood(z, labels),)
        assert found[f"brier_{suffix}"] == (calibration.brier_score(q, labels),)
    assert found["accuracy"] == (0.75,)
    for drop, note in ((False, ""), (True, "dropped by the release: its temperature search ended at a bound")):
        monkeypatch.setattr(metric_rows, "published_temperature", lambda *_, drop=drop: SimpleNamespace(
            ece=0.5, temperature=9.0, dropped=drop))
        found, temperatures = quality_metrics(logits, labels)
        assert found["ece_as_published"] == (0.5, note) and found["temperature_as_published"] == (9.0, note)
        assert temperatures["temperature_as_published"] == 9.0


def test_images_are_counted_against_the_publishers(monkeypatch):
    for name, expected, note in (("own", None, ""), ("known", {"test": 6}, ""),
                                 ("known", {"test": 1234}, "6 of its 1,234 images"),
                                 ("known", {"train": 6}, "6 of its 0 images")):
        monkeypatch.setattr(metric_rows, "CATALOG", {"known": SimpleNamespace(counts=expected)})
        assert images_row(split_of(name), "near", outputs_of(6)) == ("dismax", name, "near", "", "images", 6, note)
    noted = SimpleNamespace(name="known", origin_note="from elsewhere")
    assert images_row(noted, "id", outputs_of(6))[6] == "6 of its 0 images, from elsewhere"


def test_a_single_image_is_not_cross_fitted_and_two_are():
    logits, labels = np.array([[1.0, 0], [0, 2]]), np.array([0, 0])
    one, temperatures = quality_metrics(logits[:1], labels[:1])
    assert temperatures["temperatures_cross_fitted_nll"] == (1.0, 1.0)
    assert one["nll_cross_fitted"] == one["nll_uncalibrated"]
    two, temperatures = quality_metrics(logits, labels)
    assert temperatures["temperatures_cross_fitted_nll"] == calibration.cross_fitted_logits(logits, labels)[1]
    assert two["nll_cross_fitted"] != two["nll_uncalibrated"]


# ---- the openood benchmark ----

def subset_of(name, index, split="test", note=""):
    return Subset(name, {split: np.array(index, dtype=np.int64)}, len(index), note, {split: split_of(name, split)})


def test_openood_rows_are_of_the_listed_images_under_the_validation_temperature():
    inside, near, chosen = outputs_of(20), outputs_of(9, ood=True), outputs_of(6, ood=True)
    cache = Cache(own=inside, near_set=near, chosen=chosen)
    own = {name: {"mine": RNG.normal(size=n)} for name, n in (("own", 20), ("near_set", 9), ("chosen", 6))}
    test, validation = list(range(8, 20)), list(range(8))
    listed = SimpleNamespace(
        test=subset_of("own", test, note="ours"), validation=subset_of("own", validation),
        validation_outliers=subset_of("chosen", [0, 2, 5]),
        groups={"near": [subset_of("near_set", [1, 2, 4, 8], note="other")], "far": [subset_of("absent", [0])]})
    rows, temperature = openood_rows(cache, listed, lambda split: own.get(split.name, {}))
    mean = inside.logits.mean(0)
    assert temperature == calibration.fit_temperature(mean[validation], inside.labels[validation]) != 1
    quality = calibrated_metrics(mean[test], inside.labels[test], temperature)
    assert rows[: 1 + len(quality)] == [("openood", "own", "id", "", "images", 12, "ours"), *(
        ("openood", "own", "id", "", metric, value) for metric, value in quality.items())]
    assert rows[1 + len(quality)] == ("openood", "near_set", "near", "", "images", 4, "other")
    id_scores = {**openood_scores(inside.logits[:, test], temperature), "mine": own["own"]["mine"][test]}
    for name, outputs, index, group in (("near_set", near, [1, 2, 4, 8], "near"), ("chosen", chosen, [0, 2, 5],
                                                                                  "validation")):
        ood = {**openood_scores(outputs.logits[:, index], temperature), "mine": own[name]["mine"][index]}
        assert by_score(rows, name) == {
            (group, score): detection_metrics(id_scores[score], ood[score]) for score in id_scores}
    assert {row[1] for row in rows} == {"own", "near_set", "chosen"}
    listed.validation_outliers = None
    rows, _ = openood_rows(cache, listed)
    assert {row[2] for row in rows} == {"id", "near"} and "mine" not in {row[3] for row in rows}
    assert openood_rows(Cache(), listed, lambda split: {}) == ([], None)


def test_without_validation_images_the_temperature_is_one():
    outputs = outputs_of(10)
    assert fitted_temperature(outputs, np.array([], dtype=np.int64)) == 1.0
    assert fitted_temperature(outputs, np.array([4])) == calibration.fit_temperature(
        outputs.logits.mean(0)[[4]], outputs.labels[[4]])


def test_a_subset_may_come_from_two_splits():
    train, test = outputs_of(5, ood=True), outputs_of(4, ood=True)
    cache = Cache(a_train=train, a=test)
    subset = Subset("a", {"train": np.array([0, 3]), "test": np.array([1])}, 3,
                    splits={"train": split_of("a", "train"), "test": split_of("a")})
    logits, detected = subset_outputs(cache, subset, lambda split: {"d": np.arange(5) + 10 * (split.split == "test")})
    assert np.array_equal(logits, np.concatenate([train.logits[:, [0, 3]], test.logits[:, [1]]], 1))
    assert detected["d"].tolist() == [0, 3, 11]
    logits, detected = subset_outputs(cache, subset)
    assert logits.shape == (2, 3, 3) and detected == {}
    assert subset_outputs(Cache(), subset)[0].shape == (1, 0, 1)


# ---- calibration under corruption ----

def test_corrupted_rows_have_a_temperature_of_their_own_and_the_clean_one(monkeypatch):
    outputs = outputs_of(16)
    asked = []

    class OfCorruptions:
        def corrupted_outputs(self, *words):
            asked.append(words)
            return outputs if words[1] != "snow" else None
    monkeypatch.setattr(metric_rows, "CORRUPTED", {"own": "own_c"})
    monkeypatch.setattr(metric_rows.corruptions, "available_corruptions", lambda name, data_dir: [
        ("fog", 3), ("snow", 1)] if (name, data_dir) == ("own_c", "data") else [])
    monkeypatch.setattr(metric_rows.corruptions, "note", lambda *words: " ".join(map(str, words)))
    test, validation = list(range(6, 16)), list(range(6))
    listed = SimpleNamespace(test=subset_of("own", test), validation=subset_of("own", validation))
    rows = corrupted_rows(OfCorruptions(), listed, 2.5, "data")
    assert asked == [("own_c", "fog", 3, "data"), ("own_c", "snow", 1, "data")]
    mean, labels = outputs.logits.mean(0), outputs.labels
    own = calibration.fit_temperature(mean[validation], labels[validation])
    quality, clean = (calibrated_metrics(mean[test], labels[test], t) for t in (own, 2.5))
    expected = {"images": 10, **quality, **{f"{m}_clean_temperature": clean[m] for m in ("ece", "nll", "brier")}}
    assert quality["nll"] != clean["nll"] and len(rows) == len(expected)
    assert {row[4]: row[5] for row in rows} == expected
    assert {row[:4] for row in rows} == {("openood", "own_c_fog", "corrupted_3", "")}
    assert rows[0][4:] == ("images", 10, "own_c fog 3 data")
    assert corrupted_rows(OfCorruptions(), listed, None, "data") == []
    monkeypatch.setattr(metric_rows, "CORRUPTED", {})
    assert corrupted_rows(OfCorruptions(), listed, 2.5, "data") == []


# ---- score files ----

@pytest.mark.parametrize("members", [1, 2])
def test_score_files_have_prediction_score_and_label(tmp_path, members):
    inside, outside = outputs_of(6, members), outputs_of(4, members, ood=True)
    cache = Cache(own=inside, ood=outside)
    cache.run = SimpleNamespace(folder=tmp_path)
    write_score_files(cache, [split_of("own"), split_of("ood"), split_of("absent")],
                      lambda split: {"mine": np.arange({"own": 6, "ood": 4}.get(split.name, 0))})
    names = {*SCORES, "mine"} | (set(openood_scores(inside.logits, 1.0)) if members > 1 else set())
    assert {path.name for path in (tmp_path / "scores").iterdir()} == names
    for split, outputs in (("own", inside), ("ood", outside)):
        mean = outputs.logits.mean(0)
        conf = {**(openood_scores(outputs.logits, 1.0) if members > 1 else {}), **every_score(mean),
                "mine": np.arange(len(mean))}
        for score in names:
            file = np.load(tmp_path / "scores" / score / f"{split}.npz")
            assert np.array_equal(file["pred"], mean.argmax(1)) and np.array_equal(file["label"], outputs.labels)
            assert np.array_equal(file["conf"], conf[score]), score
        assert not (tmp_path / "scores" / score / "absent.npz").exists()


def test_sddes_scores_are_of_calibrated_members_and_dismaxs_of_mean_logits():
    logits = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    at_one, at_two = openood_scores(logits, 1.0), openood_scores(logits, 2.0)
    assert np.array_equal(at_two["average"], ensemble_scores(logits, 2.0)["average"].numpy())
    same = {name for name in at_one if np.array_equal(at_one[name], at_two[name])}
    assert same == {"ES", "MMLS", "MMLES", "MMLEPS"}
    assert np.array_equal(at_two["MMLES"], every_score(logits.astype(np.float64).mean(0))["MMLES"])
    score = torch.as_tensor(at_one["ES"])
    assert score.dtype == torch.float64 and at_one["ES"].shape == (5,)
