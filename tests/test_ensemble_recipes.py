"""SDDE's recipes are the published ones, and a method has one name."""
import numpy as np
import pytest

from data.datasets import CATALOG, EXPOSURE, OPENOOD, OUTLIERS
from recipes import METHODS, RECIPES, method_of, name_of, recipe_of


def test_published_recipes():
    """sdde.md, section 2.4."""
    for dataset, epochs in (("mnist", 50), ("cifar10", 100), ("cifar100", 100)):
        for method in ("de", "ncl", "adp", "dice", "gradcam"):
            recipe = recipe_of(dataset, method)
            assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (epochs, 128, 0.1, 5e-4)
            assert recipe.milestones == () and recipe.final_lr == 1e-6 and recipe.select_on == "openood"
            assert (recipe.padding, recipe.flip) == (4, True), "digits are mirrored, too"
    weights = {name: recipe_of("cifar10", name).diversity_weight for name in ("de", "ncl", "adp", "dice", "gradcam")}
    assert weights == {"de": 0, "ncl": 0.1, "adp": 0.1, "dice": 0.2, "gradcam": 0.005}
    assert recipe_of("mnist", "gradcam").diversity_weight == 0.1
    assert (recipe_of("cifar10", "adp").adp_alpha, recipe_of("cifar10", "adp").adp_beta) == (2, 0.5)
    dice = {name: recipe_of(name, "dice") for name in ("mnist", "cifar10", "cifar100", "imagenet1k")}
    assert {name: r.per_class for name, r in dice.items()} == {
        "mnist": 16, "cifar10": 16, "cifar100": 2, "imagenet1k": 2}
    assert {name: r.discriminator_lr for name, r in dice.items()} == {
        "mnist": 1e-3, "cifar10": 1e-5, "cifar100": 1e-5, "imagenet1k": 1e-5}
    assert all((r.clip, r.ramp_epochs) == (1.0, 20) for r in dice.values()) and dice["imagenet1k"].epochs == 100
    imagenet = recipe_of("imagenet1k", "gradcam")
    assert (imagenet.epochs, imagenet.lr, imagenet.batch_size, imagenet.micro_batch, imagenet.initial) == (
        30, 1e-3, 512, 32, "pretrained")
    assert recipe_of("imagenet1k", "de").micro_batch == 16
    outlier = recipe_of("cifar10", "gradcam_oe")
    assert (outlier.outlier_weight, outlier.outlier_batch, outlier.diversity_weight) == (0.5, 256, 0.005)
    assert EXPOSURE == {"cifar10": "tinyimagenet597", "cifar100": "tinyimagenet597", "imagenet200": "imagenet800"}
    outlier = recipe_of("imagenet200", "oe")
    assert (outlier.epochs, outlier.lr, outlier.batch_size, outlier.outlier_batch, outlier.micro_batch) == (
        90, 0.1, 256, 256, 32)
    assert outlier.initial == "random" and outlier.select_on == "openood"
    assert all(METHODS[name].members == 5 and METHODS[name].head == "softmax" for name in METHODS
               if METHODS[name].paper == "sdde")


def test_the_cosine_falls_step_by_step_to_its_end():
    recipe = recipe_of("cifar10", "de")
    t, total = 12 * 391 + 100, 100 * 391
    m = 1e-6 / 0.1
    assert recipe.lr_at(13, 100, 391) == pytest.approx(0.1 * (m + (1 - m) * 0.5 * (1 + np.cos(np.pi * t / total))))
    assert recipe.lr_at(1, 0, 391) == pytest.approx(0.1) and recipe.lr_at(101, 0, 391) == pytest.approx(1e-6)


def test_labels_of_methods():
    """A published triple has one name, whichever way it was asked for; another has its choices for a name."""
    assert name_of("de", METHODS["de"].changed(diversity="gradcam")) == "gradcam"
    assert name_of("gradcam", METHODS["gradcam"].changed(members=3)) == "de-3-gradcam"
    assert name_of("softmax", METHODS["softmax"].changed(members=5)) == "softmax-5-none", "by the other paper's recipe"
    assert method_of("de-1-none")[1].choices() == METHODS["softmax"].choices()
    assert name_of(*method_of("de-1-none")) == "de-1-none"
    free = METHODS["dismax"].changed(members=5, diversity="gradcam")
    assert name_of("dismax", free) == "dismax-5-gradcam" and method_of("dismax-5-gradcam") == ("dismax", free)
    assert method_of("isomax-3-none-svhn")[1].outliers == "svhn"
    for wrong in ("dismax-5", "dismax-x-gradcam", "dismax-5-cam", "ndismax"):
        with pytest.raises(ValueError, match="unknown method"):
            method_of(wrong)


def test_every_recipe_has_a_benchmark():
    for dataset in {*RECIPES["dismax"], *RECIPES["sdde"]}:
        assert dataset in CATALOG and (dataset in OPENOOD or dataset in OUTLIERS)
