"""Recipes and the registry: limits, defaults, names, and which runs a paper has."""
import math
import sys

import pytest

import recipes
from recipes import METHODS
from utils.recipe import Diversity, Head, Method, Network, Recipe, flag, flags

RECIPE = Recipe(epochs=10, batch_size=64, lr=0.1, weight_decay=1e-4, padding=4, flip=True, mean=(0.5,) * 3,
                std=(0.25,) * 3)


# ---- recipes ----

def test_the_learning_rate_falls_after_its_milestones_or_along_a_cosine():
    steps = RECIPE.changed(milestones=(3, 5), gamma=0.5)
    assert [steps.lr_at(epoch) for epoch in (1, 3, 4, 5, 6)] == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert steps.lr_at(4, 7, 8) == 0.05
    cosine = RECIPE.changed(final_lr=0.02)
    assert cosine.lr_at(1) == pytest.approx(0.1) and cosine.lr_at(6) == pytest.approx(0.06)
    assert cosine.lr_at(10, 9, 10) == pytest.approx(0.02 + 0.08 * (1 + math.cos(math.pi * 0.99)) / 2)
    assert cosine.lr_at(1, 5, 10) == pytest.approx(0.02 + 0.08 * (1 + math.cos(math.pi * 0.05)) / 2)


@pytest.mark.parametrize("changes, said", [
    ({"epochs": 0}, "--epochs must be at least 1, got 0"),
    ({"epochs": True}, "--epochs must be a whole number, got True"),
    ({"batch_size": 2.5}, "--batch-size must be a whole number, got 2.5"), ({"lr": -1e-9}, "--lr must be at least 0"),
    ({"lr": math.inf}, "--lr must be at least 0, got inf"), ({"lr": False}, "--lr must be a number, got False"),
    ({"flip": 1}, "--flip must be true or false, got 1"), ({"select_on": 3}, "--select-on must be a text, got 3"),
    ({"momentum": 1}, "--momentum must be below 1, got 1"),
    ({"select_on": "train"}, "--select-on must be test or openood"),
    ({"milestones": (1, -1)}, "--milestones must be epochs"), ({"milestones": (1.5,)}, "--milestones must be epochs"),
    ({"milestones": 3}, "--milestones must be numbers, got 3"),
    ({"milestones": ("a",)}, "--milestones must be numbers"),
    ({"mean": (0.5, 0.5)}, r"--mean must be three numbers, got \(0.5, 0.5\)"),
    ({"mean": (0, 0, math.nan)}, "--mean must be three"),
    ({"std": (1, 1, 0)}, "--std must be three numbers, all positive, got"),
    ({"std": (1, 1, math.inf)}, "--std must be three")])
def test_a_recipe_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        RECIPE.changed(**changes)


def test_the_limits_of_a_recipe_are_allowed():
    fine = RECIPE.changed(epochs=1, lr=0, momentum=0.999, milestones=[0, 2], select_on="openood", mean=[0, -1, 2],
                          std=None,
                          flip=False, padding=0, clip=0)
    assert fine.milestones == (0, 2) and fine.mean == (0, -1, 2) and fine.std == RECIPE.std and fine.flip is False
    assert fine.as_dict()["mean"] == [0, -1, 2] and RECIPE.epochs == 10
    assert fine.differences(RECIPE.changed(epochs=1, lr=0, momentum=0.999, milestones=[0, 2], mean=[0, -1, 2],
                                           padding=0,
                                           flip=False)) == {"select_on": ("openood", "test")}


def test_each_field_is_a_flag_with_a_text_and_a_least_value():
    found = {name: (kind, least) for name, kind, text, least in flags() if isinstance(text, str)}
    assert len(found) == len(RECIPE.as_dict()) and flag("batch_size") == "--batch-size"
    assert found["epochs"] == (int, 1) and found["lr"] == (float, 0) and found["flip"] == (bool, None)
    assert found["mean"] == (tuple, None) and found["outlier_batch"] == (int, 0)


def test_entries_have_defaults():
    assert Head(1, 2).score == "MPS" and Head(1, 2).options(RECIPE) == {} and Network("t", 1).image_size is None
    plain = Diversity(1, 0.5)
    assert (plain.grid, plain.options(RECIPE), plain.shared_batch, plain.image_gradients, plain.discriminator,
            plain.search) == ((), {}, False, False, False, {})
    assert Method("softmax").choices() == {"head": "softmax", "members": 1, "diversity": "none", "outliers": "none"}
    assert Method("a", paper="dismax").changed(members=3, diversity=None) == Method("a", 3, paper="dismax")
    assert (Method("a").title, Method("a").paper) == ("", "sdde")
    assert (RECIPE.momentum, RECIPE.gamma, RECIPE.final_lr, RECIPE.alpha, RECIPE.adp_alpha, RECIPE.adp_beta) == (
        0.9, 0.1, 1e-6, 1.0, 2.0, 0.5) and RECIPE.zero_bias and RECIPE.milestones == ()


# ---- the registry ----

@pytest.mark.parametrize("name, base, choices", [
    ("dismax-5-gradcam", "dismax", ("dismax", 5, "gradcam", "none")), ("de-3-none", "de",
                                                                       ("softmax", 3, "none", "none")),
    ("de-3-ncl-default", "de", ("softmax", 3, "ncl", "default")), ("gradcam", "gradcam",
                                                                   ("softmax", 5, "gradcam", "none"))])
def test_a_combination_is_read_as_it_is_written(name, base, choices):
    found, method = recipes.method_of(name)
    assert (found, tuple(method.choices().values())) == (base, choices) and recipes.name_of(found, method) == name


@pytest.mark.parametrize("name", ["dismax-5", "dismax-5-gradcam-default-more", "dismax-x-gradcam", "dismax-5-unknown",
                                  "ncl-5-none", "nothing", "dismax", "gradcam-5-none"])
def test_other_names_are_refused(name):
    if name == "dismax":
        assert recipes.method_of(name) == (name, METHODS[name])
        return
    with pytest.raises(ValueError, match=f"unknown method '{name}': choose from softmax, isomax, "):
        recipes.method_of(name)


def test_a_changed_method_has_the_name_of_a_known_one_or_of_its_choices():
    def name(base, **choices):
        return recipes.name_of(base, METHODS[base].changed(**choices))
    assert name("de", diversity="gradcam") == "gradcam" and name("gradcam", diversity="none") == "de"
    assert name("softmax", members=5) == "softmax-5-none" and name("softmax", head="dismax") == "dismax"
    assert name("gradcam", members=3) == "de-3-gradcam" and name("oe", members=2) == "de-2-none-default"
    assert name("isomax") == "isomax" and name("dismax", members=5, diversity="ncl") == "dismax-5-ncl"


def test_recipes_of_methods():
    of = recipes.recipe_of
    assert of("imagenet1k", "de").micro_batch == 16 and of("imagenet1k", "gradcam").micro_batch == 32
    assert of("imagenet1k", "softmax").micro_batch == 0 and of("cifar10", "de").micro_batch == 0
    assert [of(d, "gradcam").diversity_weight for d in ("mnist", "digits", "cifar10")] == [0.1, 0.1, 0.005]
    assert of("mnist", "ncl").diversity_weight == 0.1 and of("mnist", "dice").diversity_weight == 0.2
    assert of("mnist", "de").diversity_weight == 0 and of("mnist", "oe").diversity_weight == 0
    dice = [of(d, "dice") for d in ("cifar10", "cifar100", "mnist", "digits", "imagenet1k")]
    assert [r.per_class for r in dice] == [16, 2, 16, 16, 2] and [r.epochs for r in dice][-1] == 100
    assert [r.discriminator_lr for r in dice] == [1e-5, 1e-5, 1e-3, 1e-5, 1e-5] and dice[0].epochs == 100
    assert {(r.ramp_epochs, r.clip) for r in dice} == {(20, 1.0)} and of("mnist", "ncl").per_class == 0
    assert (of("imagenet200", "oe").outlier_weight, of("imagenet200", "oe").outlier_batch) == (0.5, 256)
    assert of("cifar10", "de").outlier_weight == 0 and of("cifar10", "softmax", model="resnet20").epochs == 30
    assert of("cifar10", "softmax").epochs == 300 and of("cifar10", "de", METHODS["gradcam"]).diversity_weight == 0.005
    with pytest.raises(ValueError, match="no recipe for de on mnist with resnet20: choose from cifar10, cifar100"):
        of("mnist", "de", model="resnet20")
    with pytest.raises(ValueError, match="no recipe for softmax on imagenet200: choose from cifar10, "):
        of("imagenet200", "softmax", model="resnet50")


def test_a_set_of_ones_own_gets_recipes_of_both_papers(monkeypatch):
    known = {name: {paper: dict(of) for paper, of in table.items()}
             for name, table in (("all", recipes.RECIPES), ("small", recipes.RECIPES_OF_NETWORK["resnet20"]))}
    monkeypatch.setattr(recipes, "RECIPES", known["all"])
    monkeypatch.setattr(recipes, "RECIPES_OF_NETWORK", {"resnet20": known["small"]})
    recipes.add_dataset("mine", 36, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    for table in known.values():
        for paper, selected in (("dismax", "test"), ("sdde", "openood")):
            mine = table[paper]["mine"]
            assert (mine.epochs, mine.batch_size, mine.lr, mine.padding, mine.weight_decay) == (30, 64, 0.05, 4, 5e-4)
            assert mine.mean == (0.1, 0.2, 0.3) and mine.std == (0.4, 0.5, 0.6) and mine.select_on == selected
            assert mine.milestones == () and mine.flip


def test_runs_are_those_of_the_papers_unless_they_are_named():
    runs = recipes.runs_of
    assert len(runs("cifar10")) == 3 * 5 * 5 + 5 * 5 and ("resnet20", "softmax", 1) not in runs("cifar10")
    assert runs("cifar10", ["resnet20"], seeds=[3])[0] == ("resnet20", "softmax",
                                                           3) and len(runs("cifar10", ["resnet20"])) == 21
    assert runs("imagenet1k") == [("resnet18", m, 1) for m in recipes.ALL_HEADS] and runs("nothing") == []
    assert runs("digits", methods=["de", "softmax"]) == [
        ("lenet", "softmax", 1), ("lenet", "de", 1), ("lenet", "softmax", 2), ("lenet", "softmax", 3)]
    assert runs("mnist", ["lenet"], ["own"]) == [("lenet", "own", seed) for seed in range(1, 6)]
    assert runs("imagenet1k", ["resnet18"], ["own"]) == [("resnet18", "own", 1)]
    assert runs("digits", ["lenet"], ["own"])[-1] == ("lenet", "own", 5)
    assert runs("digits", ["lenet"], ["de", "softmax"])[:2] == [("lenet", "de", 1), ("lenet", "softmax", 1)]
    assert runs("mnist", methods=["de"], seeds=[9]) == [("lenet", "de", 9)]
    assert recipes.published_seeds("cifar10", "resnet34") == 5 and recipes.published_seeds("imagenet1k",
                                                                                           "resnet18") == 1
    assert recipes.published_seeds("cifar10", "resnet20") is None and recipes.published_seeds("digits", "lenet") is None


def test_runs_are_listed_one_a_line_or_by_block(monkeypatch, capsys):
    def listed(*words):
        monkeypatch.setattr(sys, "argv", ["recipes.py", *words])
        recipes.main()
        return capsys.readouterr().out.splitlines()
    words = ["runs", "digits", "--methods", "softmax", "de", "--seeds", "1", "2"]
    assert listed(*words)[:2] == ["digits/lenet/softmax/seed1", "digits/lenet/de/seed1"] and len(listed(*words)) == 4
    assert listed(*words, "--by-block") == ["digits/lenet/softmax/seed1 digits/lenet/softmax/seed2",
                                            "digits/lenet/de/seed1 digits/lenet/de/seed2"]
    assert listed("runs", "mnist", "--models", "lenet", "--methods", "own", "--seeds", "7") == ["mnist/lenet/own/seed7"]
    with pytest.raises(SystemExit) as left:
        listed("runs", "digits", "--methods", "own")
    assert left.value.code == 1 and "there are no such runs on digits. Name other" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        listed("walks", "digits")
    assert left.value.code == 2 and "invalid choice: 'walks'" in capsys.readouterr().err


def test_scores_of_the_papers():
    assert [recipes.score_of(name) for name in ("softmax", "isomax-5-none", "dismax_fpr", "mine")] == ["MPS", "ES",
                                                                                                       "MMLES", "MPS"]
    assert [recipes.score_of(name) for name in ("isomaxplus", "oe")] == ["MDS", "MPS"]
    score = recipes.dismax_score
    assert (score("cifar10", "dismax_fpr", "near"), score("cifar10", "dismax", "far"),
            score("imagenet1k", "dismax", "near"),
            score("cifar10", "isomax", "near")) == ("MPS", "MMLES", "MMLES", "ES")
    score = recipes.sdde_score
    assert [score("cifar10", m) for m in ("ncl", "adp", "adp_stable", "dice", "dice_stable", "de")] == ["average"] * 6
    assert [score("imagenet200", m) for m in ("ncl", "de", "gradcam", "oe")] == ["average"] + ["logit-average"] * 3
    assert [score("mnist", m) for m in ("gradcam", "oe", "softmax")] == ["minmax", "logit-average", "logit-average"]
