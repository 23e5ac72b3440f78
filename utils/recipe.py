"""The types of the entries in recipes.py: heads, networks, diversity losses, methods, recipes, blocks of a paper."""
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, get_args

from utils.io import UserError


@dataclass(frozen=True)
class Head:
    """The first and second part of a loss: classes, or "module:class"."""

    first: object
    second: object
    score: str = "MPS"  # the score that the paper's tables use
    options: Callable = lambda recipe: {}  # recipe → keyword arguments of the second part


@dataclass(frozen=True)
class Network:
    title: str
    build: object  # called as build(num_classes, head): a class, or "module:class"
    image_size: int | None = None  # pixels a side, where only one size will do


@dataclass(frozen=True)
class Diversity:
    """A diversity loss, with its published weight and the published grid of its search."""

    loss: object  # a class, or "module:class"
    weight: float
    grid: tuple = ()
    options: Callable = lambda recipe: {}  # recipe → keyword arguments of the loss
    shared_batch: bool = False  # all members train on the same images, and the loss is computed on them
    image_gradients: bool = False  # the loss differentiates by the images
    discriminator: bool = False  # the loss has a discriminator, which learns beside the ensemble (DICE)
    search: dict = field(default_factory=dict)  # recipe field → its values in the published search, beside the grid


@dataclass(frozen=True)
class Method:
    """Three choices that combine freely: head and loss of each member, members and their diversity loss, outliers."""

    head: str  # a name of recipes.HEADS
    members: int = 1
    diversity: str = "none"  # or a name of recipes.DIVERSITIES
    outliers: str = "none"  # or a data set, for outlier exposure; "default": the paper's
    title: str = ""  # in tables; "": the method's name
    paper: str = "sdde"  # whose recipe it is trained by: "dismax" or "sdde"

    def choices(self):
        """The part that makes a method this method, for config.json."""
        return {"head": self.head, "members": self.members, "diversity": self.diversity, "outliers": self.outliers}

    def changed(self, **choices):
        """A copy with the choices that are not None."""
        return replace(self, **{name: value for name, value in choices.items() if value is not None})


@dataclass(frozen=True)
class Recipe:
    """How a method is trained on a data set. Each field is a flag of train.py, with its help and its least value."""

    epochs: Annotated[int, "passes over the training set", 1]
    batch_size: Annotated[int, "images per step and member, over all ranks; the smaller last batch is kept", 1]
    lr: Annotated[float, "learning rate of SGD with Nesterov momentum", 0]
    weight_decay: Annotated[float, "weight decay of all parameters, also prototypes, scales, BN and biases", 0]
    padding: Annotated[int, "black pixels around an image before the random crop (unused for ImageNet)", 0]
    flip: Annotated[bool, "flip half of the training images left to right"]
    mean: Annotated[tuple, "mean of each channel, for pixels in [0, 1]"]
    std: Annotated[tuple, "standard deviation of each channel, for pixels in [0, 1]"]
    momentum: Annotated[float, "Nesterov momentum", 0] = 0.9
    milestones: Annotated[tuple, "epochs after which gamma multiplies the learning rate; empty: cosine schedule"] = ()
    gamma: Annotated[float, "factor of the learning rate at each milestone", 0] = 0.1
    final_lr: Annotated[float, "last learning rate of the cosine schedule", 0] = 1e-6
    micro_batch: Annotated[int, "images per forward pass, rank and member; gradients accumulate. 0: no split", 0] = 0
    zero_bias: Annotated[bool, "start the SoftMax head's bias at 0 (DisMax) instead of PyTorch's default (SDDE)"] = True
    select_on: Annotated[str, "images that select weights_best.pt: test, or openood (validation images)"] = "test"
    initial: Annotated[str, "random, pretrained (torchvision's ImageNet weights), or a file of weights"] = "random"
    alpha: Annotated[float, "weight of fractional probability regularization (dismax_fpr)", 0] = 1.0
    diversity_weight: Annotated[float, "weight of the diversity loss", 0] = 0.0
    adp_alpha: Annotated[float, "ADP: weight of the ensemble's entropy", 0] = 2.0
    adp_beta: Annotated[float, "ADP: weight of the log-determinant", 0] = 0.5
    per_class: Annotated[int, "DICE: images per class in class-balanced batches; 0: shuffled batches", 0] = 0
    ramp_epochs: Annotated[int, "DICE: epochs in which the weight grows from 0", 0] = 0
    discriminator_lr: Annotated[float, "DICE: learning rate of the discriminator (RMSprop)", 0] = 0.0
    clip: Annotated[float, "clip the norm of all gradients at this value; 0: no clipping", 0] = 0.0
    outlier_weight: Annotated[float, "weight of the outlier-exposure loss", 0] = 0.0
    outlier_batch: Annotated[int, "outlier images per step, over all ranks", 0] = 0

    def lr_at(self, epoch, step=0, steps=1):
        """The learning rate of a step, counted from 0, in an epoch, counted from 1, of `steps` steps."""
        if self.milestones:
            return round(self.lr * self.gamma ** sum(epoch > milestone for milestone in self.milestones), 12)
        done = ((epoch - 1) * steps + step) / (self.epochs * steps)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * done)) / 2

    def changed(self, **flags):
        """A copy with the flags that are not None. ValueError when a value makes no sense."""
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
        recipe = replace(self, **{name: value for name, value in given.items() if value is not None})
        recipe.check()
        return recipe

    def check(self):
        """ValueError, naming the flag, when a value is out of range."""
        for name, kind, _, least in flags():
            if not is_a(getattr(self, name), kind):
                raise ValueError(f"{flag(name)} must be {KINDS[kind]}, got {getattr(self, name)!r}")
            if least is not None and not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{flag(name)} must be at least {least}, got {getattr(self, name)}")
        if self.momentum >= 1:
            raise ValueError(f"--momentum must be below 1, got {self.momentum}")
        if self.select_on not in ("test", "openood"):
            raise ValueError(f"--select-on must be test or openood, got {self.select_on}")
        if not all(is_a(epoch, int) and epoch >= 0 for epoch in self.milestones):
            raise ValueError(f"--milestones must be epochs, got {self.milestones}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(map(math.isfinite, values)) or name == "std" and min(values) <= 0:
                raise ValueError(f"--{name} must be three numbers{', all positive' * (name == 'std')}, got {values}")

    def as_dict(self):
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def differences(self, other):
        """field → (own value, other's value) where the two differ."""
        own, others = self.as_dict(), other.as_dict()
        return {name: (own[name], others[name]) for name in own if own[name] != others[name]}


def check_entries(registry, kind):
    """UserError when an entry, of a plugin, is of another type, or has a name that cannot be one folder's."""
    for name, entry in registry.items():
        if not isinstance(entry, kind):
            raise UserError(f"{name!r} is registered as a {type(entry).__name__}, expected a {kind.__name__}")
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(f"{name!r} cannot be a name: use letters, digits, _, ., + and -")


@dataclass(frozen=True)
class Block:
    """A part of a paper's table: a number of seeds of each method on each network."""

    paper: str
    dataset: str
    networks: tuple
    methods: tuple
    seeds: int
    on_request: bool = False  # only when its network is named


def flags():
    """(name, type, text, least value or None) of every recipe field, for the command line."""
    for entry in fields(Recipe):
        kind, text, *least = get_args(entry.type)
        yield entry.name, kind, text, least[0] if least else None


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", tuple: "numbers"}


def is_a(value, kind):
    """Whether a value of a recipe or record has a type of Python or of JSON that means the same."""
    if kind is tuple:
        return isinstance(value, tuple) and all(is_a(one, float) for one in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def flag(name):
    return "--" + name.replace("_", "-")
