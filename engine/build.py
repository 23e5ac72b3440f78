"""From a run's names to its parts: the network or ensemble, and what its training minimises."""
from functools import partial

import models
from data.datasets import CATALOG
from engine.training_loss import Objective
from losses import LOSSES, diversity
from recipes import DICE
from utils.io import UserError


def model_of(config):
    """The freshly initialised network, or Ensemble, of a run's config."""
    method, dataset = config["method"], config["run"]["dataset"]
    head, classes = LOSSES[method["head"]][0], CATALOG[dataset].classes
    if method["head"] == "softmax" and not config.get("recipe", {}).get("zero_bias", True):
        head = partial(head, zero_bias=False)
    if method["members"] == 1:
        return models.build(config["run"]["model"], classes, head)
    return models.build_ensemble(config["run"]["model"], classes, head, method["members"])


def members_of(model):
    return list(getattr(model, "members", [model]))


def objective_of(model, config, recipe):
    """The Objective of a run's config, its diversity losses on the model's device."""
    method = config["method"]
    second = LOSSES[method["head"]][1]
    if method["members"] < 2 and method["diversity"] != "none":
        raise UserError(f"--diversity {method['diversity']} keeps members apart: it needs --members 2 or more")
    if method["head"] == "dismax_fpr":
        second = partial(second, alpha=recipe.alpha)
    terms, weights = {}, {}
    if method["diversity"] != "none":
        terms["diversity"] = diversity_loss(method["diversity"], recipe, model)
        weights["diversity"] = recipe.diversity_weight
    if method["outliers"] != "none":
        terms["outlier"], weights["outlier"] = diversity.OEDiversityLoss(), recipe.outlier_weight
    if method["diversity"] in DICE and (recipe.per_class < 2 or recipe.batch_size % recipe.per_class):
        raise UserError("DICE needs two or more images a class, and batches that they fill: --per-class "
                        f"{recipe.per_class} and --batch-size {recipe.batch_size} don't")
    criteria = [second(member.classifier) for member in members_of(model)]
    return Objective(model, criteria, terms, weights, image_gradients=method["diversity"] == "input_gradient")


def diversity_loss(name, recipe, model):
    head, device = members_of(model)[0].classifier, next(model.parameters()).device
    if name in DICE:
        discriminator = diversity.DiceDiscriminator(head.num_classes, head.num_features).to(device)
        return diversity.DiceDiversityLoss(discriminator, as_published=name == "dice")
    if name in ("adp", "adp_stable"):
        return diversity.ADPDiversityLoss(recipe.adp_alpha, recipe.adp_beta, as_published=name == "adp")
    return {"ncl": diversity.NCLDiversityLoss, "gradcam": diversity.GradCAMDiversityLoss,
            "input_gradient": lambda: diversity.InputGradientDiversityLoss("gt")}[name]()
