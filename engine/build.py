"""From the names of a run to its parts: the network or ensemble, and its training loss."""
import importlib
from functools import partial

import recipes
from engine.training_loss import TrainingLoss
from losses import calibration
from losses.diversity import DiceDiscriminator, OEDiversityLoss
from models.ensemble import Ensemble
from recipes import DIVERSITIES, HEADS, NETWORKS
from utils.io import UserError


def resolve(entry):
    """The class behind an entry of the registry: the class itself, or "module:class"."""
    if not isinstance(entry, str):
        return entry
    try:
        module, name = entry.split(":")
        return getattr(importlib.import_module(module), name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"{entry!r} of the registry is no module:class that can be imported ({error})") from error


def build_network(name, num_classes, head):
    """A newly initialized network of the registry whose `.classifier` is head(num_features, num_classes).

    Args:
        head: a first-part class of `losses`, or any class with the same arguments, for instance `torch.nn.Linear`.
    UserError on an unknown name.
    """
    if name not in NETWORKS:
        raise UserError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}. One of a plugin needs "
                        "--plugin FILE")
    network = resolve(NETWORKS[name].build)(num_classes, head)
    if not hasattr(network, "classifier"):
        raise UserError(f"the network {name} has no .classifier, which must be head(num_features, num_classes)")
    return network


def build_ensemble(name, num_classes, head, members):
    """An Ensemble of networks that are initialized one after another from one random stream."""
    return Ensemble([build_network(name, num_classes, head) for _ in range(members)])


def build_model(run, num_classes):
    """The newly initialized network, or Ensemble, of a run."""
    if run.method.head not in HEADS:
        raise UserError(f"unknown head {run.method.head!r}: choose from {', '.join(HEADS)}. One of a plugin needs "
                        "--plugin FILE")
    head = resolve(HEADS[run.method.head].first)
    if run.method.head == "softmax":
        head = partial(head, zero_bias=run.recipe.zero_bias)
    if run.method.members == 1:
        return build_network(run.model, num_classes, head)
    return build_ensemble(run.model, num_classes, head, run.method.members)


def score_functions():
    """name → function of logits (…, C): the package's scores and those of plugins, which the heads then know, too."""
    calibration.SCORES.update(recipes.SCORES)
    return calibration.SCORES


def members_of(model):
    return list(getattr(model, "members", [model]))


def build_training_loss(model, run):
    """The TrainingLoss of a run, its diversity losses on the model's device."""
    method, recipe = run.method, run.recipe
    if method.members < 2 and method.diversity != "none":
        raise UserError(f"--diversity {method.diversity} separates members: it needs --members 2 or more")
    aux_losses, weights = {}, {}
    if method.diversity != "none":
        aux_losses["diversity"] = diversity_loss(model, method.diversity, recipe)
        weights["diversity"] = recipe.diversity_weight
    if method.outliers != "none":
        aux_losses["outlier"], weights["outlier"] = OEDiversityLoss(), recipe.outlier_weight
    second, options = resolve(HEADS[method.head].second), HEADS[method.head].options(recipe)
    criteria = [second(member.classifier, **options) for member in members_of(model)]
    image_gradients = method.diversity != "none" and DIVERSITIES[method.diversity].image_gradients
    return TrainingLoss(model, criteria, aux_losses, weights, image_gradients)


def diversity_loss(model, name, recipe):
    if name not in DIVERSITIES:
        raise UserError(f"unknown diversity loss {name!r}: choose from {', '.join(DIVERSITIES)}. One of a plugin needs "
                        "--plugin FILE")
    diversity = DIVERSITIES[name]
    loss = partial(resolve(diversity.loss), **diversity.options(recipe))
    if not diversity.discriminator:
        return loss()
    if recipe.per_class < 2 or recipe.batch_size % recipe.per_class:
        raise UserError("DICE needs two or more images per class that fill a batch: --per-class "
                        f"{recipe.per_class} and --batch-size {recipe.batch_size} do not fit")
    if 0 < recipe.micro_batch < recipe.per_class:
        raise UserError(f"DICE compares the {recipe.per_class} images of a class, so they stay in one micro-batch: "
                        f"--micro-batch {recipe.micro_batch} is smaller. Use {recipe.per_class} or more")
    head = members_of(model)[0].classifier
    device = next(model.parameters()).device
    return loss(DiceDiscriminator(head.num_classes, head.num_features).to(device))


def shares_batch(method):
    """Whether all members train on the same images."""
    return method.diversity != "none" and DIVERSITIES[method.diversity].shared_batch
