"""Every published setting of both papers as one readable table: methods, and how a data set is trained with them.

A field of Recipe is also a flag of train.py. What a flag changes is recorded in config.json as an override, and
analyze.py never puts such a run into a paper's row.
"""
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated


@dataclass(frozen=True)
class Method:
    """Three choices that combine freely: what each member's head and loss are, how many members there are and what
    keeps them apart, and whether they see outliers in training."""

    head: str  # a name of losses.LOSSES
    members: int = 1
    diversity: str = "none"  # or a name of DIVERSITIES
    outliers: str = "none"  # or a data set; "default": the paper's, data.catalog.EXPOSURE

    def changed(self, members=None, diversity=None, outliers=None):
        """A copy with the choices that are not None."""
        given = {"members": members, "diversity": diversity, "outliers": outliers}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Recipe:
    epochs: Annotated[int, "passes over the training set"]
    batch_size: Annotated[int, "images a step and member, over all processes; the last, smaller batch is kept"]
    lr: Annotated[float, "learning rate of SGD with Nesterov momentum"]
    weight_decay: Annotated[float, "on every parameter: prototypes, scales, BN and biases too"]
    padding: Annotated[int, "black pixels around an image before the random crop (ImageNet: unused)"]
    flip: Annotated[bool, "mirror half of the training images"]
    mean: Annotated[tuple, "of each channel, for pixels in [0, 1]"]
    std: Annotated[tuple, "of each channel"]
    momentum: Annotated[float, "Nesterov momentum"] = 0.9
    milestones: Annotated[tuple, "epochs after which the learning rate is multiplied by gamma; none: a cosine"] = ()
    gamma: Annotated[float, "factor at each milestone"] = 0.1
    final_lr: Annotated[float, "where a cosine from lr, step by step, ends"] = 1e-6
    micro_batch: Annotated[int, "images a forward pass, process and member; gradients are accumulated. 0: all"] = 0
    zero_bias: Annotated[bool, "start the SoftMax head's bias at 0 (DisMax), not as PyTorch does (SDDE)"] = True
    select_on: Annotated[str, "images that weights_best.pt is best on: test, or openood (validation)"] = "test"
    initial: Annotated[str, "random, pretrained (torchvision's ImageNet weights), or a file of such"] = "random"
    alpha: Annotated[float, "weight of fractional probability regularisation (dismax_fpr)"] = 1.0
    diversity_weight: Annotated[float, "factor of the diversity loss against the members' mean loss"] = 0.0
    adp_alpha: Annotated[float, "of ADP: weight of the ensemble's entropy"] = 2.0
    adp_beta: Annotated[float, "of ADP: weight of the log-determinant"] = 0.5
    per_class: Annotated[int, "of DICE: images a class in class-balanced batches; 0: shuffled batches"] = 0
    ramp_epochs: Annotated[int, "of DICE: epochs in which the weight grows from 0"] = 0
    discriminator_lr: Annotated[float, "of DICE: learning rate of its discriminator (RMSprop)"] = 0.0
    clip: Annotated[float, "largest norm of all gradients; 0: not clipped"] = 0.0
    outlier_weight: Annotated[float, "factor of the outlier-exposure loss"] = 0.0
    outlier_batch: Annotated[int, "outlier images a step, over all processes"] = 0

    def lr_at(self, epoch, step=0, steps=1):
        """The learning rate of a step, counted from 0, of an epoch of so many steps, counted from 1."""
        if self.milestones:
            return round(self.lr * self.gamma ** sum(epoch > milestone for milestone in self.milestones), 12)
        done = ((epoch - 1) * steps + step) / (self.epochs * steps)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * done)) / 2

    def changed(self, **flags):
        """A copy with the flags that are not None."""
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def as_dict(self):
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def differences(self, other):
        """field → (own value, other's value) where the two differ."""
        own, others = self.as_dict(), other.as_dict()
        return {name: (own[name], others[name]) for name in own if own[name] != others[name]}


DISMAX = {name: Method(name) for name in ("softmax", "isomax", "isomaxplus", "dismax", "dismax_fpr")}
DIVERSITIES = ("none", "ncl", "adp", "adp_stable", "dice", "dice_stable", "gradcam", "input_gradient")
SHARED_BATCH = ("ncl", "adp", "adp_stable", "dice", "dice_stable")
DICE = ("dice", "dice_stable")
  # all members train on the same images, and these losses are computed on them
SDDE = {
    "de": Method("softmax", 5), **{name: Method("softmax", 5, name) for name in DIVERSITIES[1:]},
    "oe": Method("softmax", 5, "none", "default"), "gradcam_oe": Method("softmax", 5, "gradcam", "default"),
}
METHODS = {**DISMAX, **SDDE}


# ---- DisMax (arXiv 2205.05874): the repository's main.py and run scripts; the same for all five losses ----

HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
DISMAX_CIFAR10 = Recipe(
    epochs=300, batch_size=64, lr=0.1, milestones=(150, 200, 250), weight_decay=1e-4, padding=4, flip=True,
    mean=(0.491, 0.482, 0.446), std=(0.247, 0.243, 0.261),
)
DISMAX_IMAGENET = Recipe(
    epochs=90, batch_size=256, lr=0.1, milestones=(30, 60), weight_decay=1e-4, padding=0, flip=True,
    **IMAGENET_STATISTICS,
)
# ours, in no paper: small sets on which everything can be seen to work
DIGITS = Recipe(
    epochs=20, batch_size=64, lr=0.02, milestones=(10, 15), weight_decay=5e-4, padding=2, flip=False, **HALF,
)
MNIST = replace(DIGITS, batch_size=128)

# ---- SDDE (arXiv 2305.11616): the released scripts and configs ----

SDDE_CIFAR10 = Recipe(
    epochs=100, batch_size=128, lr=0.1, weight_decay=5e-4, padding=4, flip=True, select_on="openood", zero_bias=False,
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
)
# ours: the mean over five members makes five times smaller gradients
SDDE_DIGITS = replace(DIGITS, lr=5 * DIGITS.lr, weight_decay=DIGITS.weight_decay / 5, zero_bias=False)
SDDE_MNIST = replace(SDDE_CIFAR10, epochs=50, **HALF)
SDDE_IMAGENET200 = replace(  # 8 processes × 32 images
    SDDE_CIFAR10, epochs=90, batch_size=256, micro_batch=32, padding=0, **IMAGENET_STATISTICS)
SDDE_IMAGENET = replace(  # from one pretrained network; 4 processes × 32 images × 4 micro-batches
    SDDE_CIFAR10, epochs=30, batch_size=512, micro_batch=32, lr=1e-3, padding=0, initial="pretrained",
    **IMAGENET_STATISTICS,
)

RECIPES = {
    "dismax": {
        "cifar10": DISMAX_CIFAR10,
        "cifar100": replace(DISMAX_CIFAR10, mean=(0.507, 0.486, 0.440), std=(0.267, 0.256, 0.276)),
        "imagenet1k": DISMAX_IMAGENET, "digits": DIGITS, "mnist": MNIST, "fashion_mnist": MNIST,
    },
    "sdde": {
        "cifar10": SDDE_CIFAR10,
        "cifar100": replace(SDDE_CIFAR10, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
        "mnist": SDDE_MNIST, "imagenet1k": SDDE_IMAGENET, "imagenet200": SDDE_IMAGENET200, "digits": SDDE_DIGITS,
    },
}
# ours, in no paper: CIFAR on a laptop
SMALL = {"epochs": 30, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "milestones": ()}
RECIPES_OF_MODEL = {"resnet20": {
    paper: {name: replace(recipe, **SMALL) for name, recipe in of_paper.items() if name in ("cifar10", "cifar100")}
    for paper, of_paper in RECIPES.items()}}
DATASETS = tuple(dict.fromkeys([*RECIPES["dismax"], *RECIPES["sdde"]]))
WEIGHTS = {"ncl": 0.1, "adp": 0.1, "adp_stable": 0.1, "dice": 0.2, "dice_stable": 0.2,
           "gradcam": 0.005, "input_gradient": 0.1}  # input_gradient: ours


def method_of(label):
    """(name, Method) of --loss: a name of METHODS, or base-members-diversity[-outliers] as `label_of` writes it.
    ValueError when it is neither."""
    if label in METHODS:
        return label, METHODS[label]
    base, *choices = label.split("-")
    if base in (*DISMAX, "de") and len(choices) in (2, 3) and choices[0].isdigit() and choices[1] in DIVERSITIES:
        return base, METHODS[base].changed(int(choices[0]), *choices[1:])
    raise ValueError(f"unknown loss {label!r}: choose from {', '.join(METHODS)}, or combine as dismax-5-gradcam")


def recipe_of(dataset, name, method=None, model=""):
    """The recipe of a method of METHODS, or of one that was changed from it, on a data set.

    A paper's recipe, with the published settings of the method's diversity loss and of its outliers. ValueError when
    there is none.
    """
    method = method or METHODS[name]
    paper = "dismax" if name in DISMAX else "sdde"
    known = RECIPES_OF_MODEL.get(model, RECIPES)[paper]
    if dataset not in known:
        of_model = f" with {model}" * (model in RECIPES_OF_MODEL)
        raise ValueError(f"there is no recipe for {name} on {dataset}{of_model}: choose from {', '.join(known)}")
    recipe = known[dataset]
    if dataset == "imagenet1k" and method.diversity == "none" and method.members > 1:
        recipe = replace(recipe, micro_batch=16)
    if method.diversity != "none":
        weight = 0.1 if method.diversity == "gradcam" and dataset in ("mnist", "digits") else WEIGHTS[method.diversity]
        recipe = replace(recipe, diversity_weight=weight)
    if method.diversity in DICE:
        recipe = replace(
            recipe, per_class=16 if dataset in ("cifar10", "mnist", "digits") else 2, ramp_epochs=20, clip=1.0,
            discriminator_lr=1e-3 if dataset == "mnist" else 1e-5)
        if dataset == "imagenet1k":
            recipe = replace(recipe, epochs=100)
    if method.outliers != "none":
        recipe = replace(recipe, outlier_weight=0.5, outlier_batch=256)
    return recipe


def label_of(name, method):
    """What a run's folder is called: the method's name, or where flags changed it base-members-diversity[-outliers].

    The base, a head or "de", says by which paper's recipe it is trained.
    """
    family = DISMAX if name in DISMAX else SDDE  # whose recipe it is trained by
    named = [other for other, published in family.items() if published == method]
    base = method.head if family is DISMAX else "de"
    words = [base, str(method.members), method.diversity] + [method.outliers] * (method.outliers != "none")
    return name if method == METHODS[name] else named[0] if named else "-".join(words)


# ---- what the papers trained, and which score their columns read ----

PUBLISHED = {
    "cifar10": ("densenetbc100", "resnet34", "wideresnet2810"),
    "cifar100": ("densenetbc100", "resnet34", "wideresnet2810"),
    "imagenet1k": ("resnet18",),
}
PUBLISHED_SEEDS = {"cifar10": 5, "cifar100": 5, "imagenet1k": 1}  # the scripts say 10, the numbers fit 5 (README)

SCORES = {"softmax": "MPS", "isomax": "ES", "isomaxplus": "MDS", "dismax": "MMLES", "dismax_fpr": "MMLES"}


def published_score(dataset, loss, group):
    """The score that the DisMax paper's column for this group of outliers reads.

    DisMax's repository writes MMLES and MPS and the paper does not say which fills which column: MPS for near outliers
    and MMLES for the others is what its notes imply. For ImageNet-O it states MMLES.
    """
    if loss.startswith("dismax") and group == "near" and dataset != "imagenet1k":
        return "MPS"
    return SCORES[loss]


def sdde_score(dataset, name):
    """The score that SDDE's released script of a method reads; of a method without a script, the paper's MAL."""
    if name in SHARED_BATCH or (name == "de" and not dataset.startswith("imagenet")):
        return "average"
    return "minmax" if name == "gradcam" and not dataset.startswith("imagenet") else "logit-average"


def flags():
    """(name, type, explanation) of every recipe field, for the command line."""
    for field in fields(Recipe):
        yield field.name, field.type.__origin__, field.type.__metadata__[0]
