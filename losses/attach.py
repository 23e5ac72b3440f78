"""`attach` puts a loss on any classifier: the last linear layer becomes the first part of the loss."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from .base import LossFirstPart
from .criterion import LossSecondPart
from .dismax import DisMaxLossFirstPart, DisMaxLossSecondPart
from .isomax import IsoMaxLossFirstPart, IsoMaxLossSecondPart
from .isomaxplus import IsoMaxPlusLossFirstPart, IsoMaxPlusLossSecondPart
from .softmax import SoftMaxLossFirstPart, SoftMaxLossSecondPart

# name → (first part, second part): every loss that train.py knows
LOSSES: dict[str, tuple[Callable[..., LossFirstPart], Callable[..., LossSecondPart]]] = {
    "softmax": (SoftMaxLossFirstPart, SoftMaxLossSecondPart),
    "isomax": (IsoMaxLossFirstPart, IsoMaxLossSecondPart),
    "isomaxplus": (IsoMaxPlusLossFirstPart, IsoMaxPlusLossSecondPart),
    "dismax": (DisMaxLossFirstPart, DisMaxLossSecondPart),
    "dismax_fpr": (DisMaxLossFirstPart, partial(DisMaxLossSecondPart, regularization="fpr")),
}

# what last layers are called; only to notice that the layer registered last may not be the last one
CLASSIFIER_NAMES = ("classifier", "fc", "head", "heads", "score")


def attach(
    model: nn.Module, loss: str, num_classes: int | None = None, regularization: str | None = None,
    *, layer: str | None = None, **options: Any,
) -> LossSecondPart:
    """Replace the last linear layer of a classifier, in place, by a new first part, and return the criterion.

    It works for classifiers of torchvision, timm and Hugging Face and for plain modules. The first part,
    `criterion.model_classifier`, keeps the layer's number of features, device, dtype and mode. Call it before you make
    the optimizer, because the head has new parameters, and before you wrap the model for distributed training.

    Args:
        model: a network with an nn.Linear, or a first part of an earlier call, as its last layer.
        loss: "softmax", "isomax", "isomaxplus", "dismax", or "dismax_fpr", short for "dismax" with
            regularization="fpr".
        num_classes: number of classes; None: as many as the layer has outputs.
        regularization: "fpr" for DisMax's; None: none.
        layer: which layer, by its name in the model ("fc", "head", "classifier.6"), or a module that holds it.
        options: more arguments of the criterion, for instance label_smoothing=0.1 or alpha=0.5.

    ValueError if no linear layer, or more than one, could be the last one, as in torchvision's Inception
    (`AuxLogits.fc` and `fc`) or DeiT with distillation (`head` and `head_dist`). The message names the candidates.
    ValueError for a lazy layer that has seen no batch, and TypeError for a model that is no nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {model!r}")
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}: choose from {', '.join(LOSSES)}")
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        raise ValueError(f"attach to the model before it is wrapped by {type(model).__name__}: attach(model.module, …)")
    first, second = LOSSES[loss]
    if regularization is not None:
        if not loss.startswith("dismax"):
            raise ValueError(f'regularization={regularization!r} belongs to "dismax", not to {loss!r}')
        options["regularization"] = regularization
    name, old = _last_linear_layer(model, layer)
    num_features, outputs = _sizes(old)
    if not num_features:
        raise ValueError(f"the layer {name} is lazy and does not know its number of features yet: give the model a "
                         "batch first")
    head = first(num_features, outputs if num_classes is None else num_classes)
    criterion = second(head, **options)
    weight = next(old.parameters())
    head.to(weight.device, weight.dtype if weight.is_floating_point() else None).train(old.training)
    _replace(model, old, head)
    _tell(model, outputs, head.num_classes)
    return criterion


def _last_linear_layer(model: nn.Module, layer: str | None) -> tuple[str, nn.Module]:
    if layer is not None:
        try:
            chosen = model.get_submodule(layer)
        except AttributeError as error:
            raise ValueError(f"the model has no layer {layer!r}. {_linear_layers(model)}") from error
        if chosen is model:
            raise ValueError("layer must name a layer inside the model")
        if _is_candidate(chosen):
            return layer, chosen
        found = _candidates(chosen)
        prefix = layer + "."
    else:
        found, prefix = _candidates(model), ""
    if _is_candidate(model):
        raise ValueError("the model is a linear layer itself: use a first part in its place, or an nn.Sequential of it")
    if len(found) == 1:
        name, = found
        return prefix + name, found[name]
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear layer that could be its last one. "
                         f"{_linear_layers(model)}")
    names = ", ".join(prefix + name for name in found)
    raise ValueError(f"{type(model).__name__} has more than one linear layer that could be its last one: {names}. Say "
                     f"which: attach(model, …, layer={prefix + min(found, key=len)!r})")


def _candidates(model: nn.Module) -> dict[str, nn.Module]:
    """name → linear layer that may be the model's last one."""
    linear = {name: module for name, module in model.named_modules() if _is_candidate(module)}
    get_classifier = getattr(model, "get_classifier", None)  # timm
    if callable(get_classifier):
        own = get_classifier()
        parts = list(own) if isinstance(own, (tuple, list, nn.ModuleList)) else [own]
        modules = {id(m) for part in parts if isinstance(part, nn.Module) for m in part.modules()}
        linear = {name: module for name, module in linear.items() if id(module) in modules}
        return _of_size(linear, getattr(model, "num_classes", None)) or linear
    last_of_chain = {name: module for name, module in linear.items() if not _is_followed(model, name)}
    if not last_of_chain:
        return {}
    config = getattr(model, "config", None)  # Hugging Face
    classes = getattr(config, "num_labels", None)
    if not isinstance(classes, int):
        classes = _sizes(list(linear.values())[-1])[1]
    found = _of_size(last_of_chain, classes)
    named = {name: module for name, module in last_of_chain.items() if name.split(".")[0] in CLASSIFIER_NAMES}
    return found if not named or named.keys() & found.keys() else {**named, **found}


def _of_size(layers: dict[str, nn.Module], outputs: int | None) -> dict[str, nn.Module]:
    return {name: module for name, module in layers.items() if _sizes(module)[1] == outputs}


def _is_followed(model: nn.Module, name: str) -> bool:
    """Whether an nn.Sequential around this layer has a linear layer after it."""
    parts = name.split(".")
    for depth, part in enumerate(parts):
        parent = model.get_submodule(".".join(parts[:depth]))
        if isinstance(parent, nn.Sequential):
            later = list(parent)[list(parent._modules).index(part) + 1 :]
            if any(_is_candidate(module) for child in later for module in child.modules()):
                return True
    return False


def _is_candidate(module: nn.Module) -> bool:
    inside_attention = isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return isinstance(module, (nn.Linear, LossFirstPart)) and not inside_attention


def _sizes(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, LossFirstPart):
        return layer.num_features, layer.num_classes
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def _linear_layers(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if _is_candidate(module)]
    if not names:
        return ("It has no nn.Linear at all: a classifier that is a convolution, quantized or scripted cannot be "
                "replaced")
    return f"Its linear layers: {', '.join(names[-8:])}. Say which: attach(model, …, layer={names[-1]!r})"


def _replace(model: nn.Module, old: nn.Module, head: LossFirstPart) -> None:
    """Under every name that the layer has."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                setattr(parent, name, head)


def _tell(model: nn.Module, before: int, now: int) -> None:
    """timm and Hugging Face note the number of classes, in the model and in its config."""
    for owner, name in ((model, "num_classes"), (model, "num_labels"), (getattr(model, "config", None), "num_labels")):
        if before != now and owner is not None and getattr(owner, name, None) == before:
            setattr(owner, name, now)
