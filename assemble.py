"""From a run's names to its parts: the network or ensemble, and what its training minimises."""
from functools import partial

import models
from data.catalog import CATALOG
from files import UserError
from losses import LOSSES
from step import Objective


def model_of(config):
    """The freshly initialised network, or Ensemble, of a run's config."""
    method, dataset = config["method"], config["run"]["dataset"]
    head, classes = LOSSES[method["head"]][0], CATALOG[dataset].classes
    if method["members"] == 1:
        return models.build(config["run"]["model"], classes, head)
    return models.build_ensemble(config["run"]["model"], classes, head, method["members"])


def members_of(model):
    return list(getattr(model, "members", [model]))


def objective_of(model, config, recipe):
    """The Objective of a run's config, its diversity losses on the model's device."""
    method = config["method"]
    second = LOSSES[method["head"]][1]
    if method["head"] == "dismax_fpr":
        second = partial(second, alpha=recipe.alpha)
    terms, weights = {}, {}
    if method["diversity"] != "none":
        terms["diversity"] = diversity_loss(method["diversity"], recipe, model, config["run"]["dataset"])
        weights["diversity"] = recipe.diversity_weight
    if method["outliers"] != "none":
        from losses.diversity import OEDiversityLoss

        terms["outlier"], weights["outlier"] = OEDiversityLoss(), recipe.outlier_weight
    return Objective(model, [second(member.classifier) for member in members_of(model)], terms, weights)


def diversity_loss(name, recipe, model, dataset):
    from losses import diversity

    if len(members_of(model)) < 2:
        raise UserError(f"--diversity {name} keeps members apart: it needs --members 2 or more")
    if name == "dice":
        features = members_of(model)[0].classifier.num_features
        discriminator = diversity.Discriminator(CATALOG[dataset].classes, features).to(next(model.parameters()).device)
        return diversity.DiceDiversityLoss(discriminator)
    return {
        "ncl": diversity.NCLDiversityLoss,
        "adp": partial(diversity.ADPDiversityLoss, recipe.adp_alpha, recipe.adp_beta),
        "gradcam": diversity.GradCAMDiversityLoss,
        "input_gradient": partial(diversity.InputGradientDiversityLoss, "gt"),
    }[name]()
