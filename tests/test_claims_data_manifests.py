"""Small claims about the names of sets, their manifests, and what becomes known of them."""
import json

import pytest
from claims_data import catalog, tree  # noqa: F401

from data.datasets import CATALOG
from data.manifest import read_manifest
from data.sources.user_folder import prepare_folder
from data.user_sets import check_name, described, known, register
from utils.io import UserError


def test_a_name_has_1_to_64_letters_digits_and_underscores(tmp_path):
    with pytest.raises(UserError, match="the name svhn is already in use"):
        prepare_folder("svhn", tree(tmp_path, a=2, b=2), 8, tmp_path / "data")
    check_name("a" * 64)
    check_name("Own_7")
    for name in ("a" * 65, "", "a-b", "a/b", "ä", "a b"):
        with pytest.raises(UserError, match="cannot be the name of a set: use letters, digits and _"):
            check_name(name)
    for name in ("svhn", "SVHN", "sources", "benchmark_imglist", "DOWNLOADS"):
        with pytest.raises(UserError, match=f"the name {name} is already in use: choose another, .* my_{name}"):
            check_name(name)


DATASET = {"made_from": "/x", "class_names": ["a", "b"], "size": 8, "folders": False, "mean": [0.1, 0.2, 0.3],
           "std": [1, 2, 3]}


@pytest.mark.parametrize("change", [
    {"class_names": ["a"]}, {"class_names": ["a", 1]}, {"made_from": 3}, {"mean": [0.1] * 2}, {"mean": [0.1] * 4},
    {"std": [0.1] * 2}, {"std": [0.1] * 4}, {"mean": ["0.1"] * 3}, {"std": [True] * 3}, {"size": 0}, {"size": 8.5},
    {"size": "8"}, {"size": True}, {"folders": 1}, {"folders": None}])
def test_what_is_no_description_of_a_set_is_refused(change):
    content = {"splits": {"train": {"images": 5}}, "dataset": DATASET}
    found = described("own", content)
    assert (found.title, found.classes, found.size, found.counts) == ("own", 2, 8, {"train": 5})
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (1, 2, 3)) and found.class_names == ("a", "b")
    assert found.folders is False and found.made_from == "/x"
    assert described("own", {**content, "dataset": DATASET | {"size": 1, "folders": True}}).folders is True
    with pytest.raises((ValueError, TypeError)):
        described("own", {**content, "dataset": DATASET | change})


def test_own_sets_become_known_and_damaged_or_official_ones_do_not(tmp_path):
    for name, dataset in (("own", DATASET), ("svhn", DATASET), ("bad", {**DATASET, "size": 0}), ("plain", None)):
        (tmp_path / name).mkdir()
        more = {"dataset": dataset} if dataset else {}
        (tmp_path / name / "manifest.json").write_text(json.dumps({"splits": {"train": {"images": 5}}, **more}))
    svhn = CATALOG["svhn"]
    assert not known("nothing", tmp_path) and known("own", tmp_path) and known("svhn", tmp_path / "nowhere")
    assert register(tmp_path).keys() == {"own", "svhn"} and CATALOG["svhn"] is svhn
    assert CATALOG["own"].size == 8 and "bad" not in CATALOG and "plain" not in CATALOG
    path = tmp_path / "own/manifest.json"
    path.write_text(path.read_text().replace('"size": 8', '"size": 9'))
    assert known("own", tmp_path) and CATALOG["own"].size == 8, "a set that is known is not read again"
    register(tmp_path)
    assert CATALOG["own"].size == 9


@pytest.mark.parametrize("content, problem", [
    ([], "it has no splits"), ({"splits": []}, "it has no splits"), ({}, "it has no splits"),
    ({"splits": {}, "dataset": 1}, "its dataset is invalid"),
    ({"splits": {"test": 1}}, "the record of test is invalid"),
    ({"splits": {"test": {"files": []}}}, "the record of test is invalid"),
    ({"splits": {"test": {"source": 1}}}, "the source of test is invalid"),
    ({"splits": {"test": {"verified": "yes"}}}, "the entry verified of test is invalid"),
    ({"splits": {"test": {"verified": None}}}, "the entry verified of test is invalid"),
    ({"splits": {"test": {"images": "1"}}}, "the record of test has no number of images"),
    ({"splits": {"test": {"also_in_train": "1"}}}, "the record of test has no number of images"),
    ({"splits": {"test": {"left_out": "a"}}}, "the record of test has no number of images"),
    ({"splits": {"test": {"folder": 1}}}, "the folder of test is invalid"),
    ({"splits": {"test": {"files": {"a/b": {"bytes": 1}}}}}, "the record of a/b is invalid"),
    ({"splits": {"test": {"files": {"b": 1}}}}, "the record of b is invalid"),
    ({"splits": {"test": {"files": {"b": {}}}}}, "the record of b is invalid")])
def test_what_is_no_manifest_is_refused_with_the_reason(tmp_path, content, problem):
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"manifest.json is not a manifest of prepare.py .{problem}.$"):
        read_manifest(tmp_path)
    whole = {"splits": {"test": {"images": 1, "left_out": [], "files": {"b": {"bytes": 1}}, "folder": {}}}}
    (tmp_path / "manifest.json").write_text(json.dumps(whole))
    assert read_manifest(tmp_path) == whole
