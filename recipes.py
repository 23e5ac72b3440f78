"""The registry: methods, networks, diversity losses, and how each paper trained them.

  python recipes.py runs cifar10                                 the runs of both papers on a data set, one per line
  python recipes.py runs cifar10 --models resnet34 --methods softmax dismax --seeds 1 2

Each method and network is registered here once; another file implements it. train.py, evaluate.py, the tables, Make and
Slurm read this registry. A plugin can add entries (`train.py --plugin my.py`). This file needs only Python's standard
library.

If a flag changes a recipe, config.json records the change as an override, and analyze.py never puts the run into a
paper's row.
"""
import argparse
from dataclasses import replace

from utils.recipe import Block, Diversity, Head, Method, Network, Recipe, check_entries
from utils.script import run_script

HEADS = {
    "softmax": Head("losses:SoftMaxLossFirstPart", "losses:SoftMaxLossSecondPart", "MPS"),
    "isomax": Head("losses:IsoMaxLossFirstPart", "losses:IsoMaxLossSecondPart", "ES"),
    "isomaxplus": Head("losses:IsoMaxPlusLossFirstPart", "losses:IsoMaxPlusLossSecondPart", "MDS"),
    "dismax": Head("losses:DisMaxLossFirstPart", "losses:DisMaxLossSecondPart", "MMLES"),
    "dismax_fpr": Head("losses:DisMaxLossFirstPart", "losses:DisMaxLossSecondPart", "MMLES",
                       lambda recipe: {"regularization": "fpr", "alpha": recipe.alpha}),
}

NETWORKS = {
    "densenetbc100": Network("DenseNetBC100", "models.densenet:DenseNetBC100"),
    "resnet34": Network("ResNet34", "models.resnet:ResNet34"),
    "wideresnet2810": Network("WideResNet-28-10", "models.wideresnet:WideResNet2810"),
    "resnet20": Network("ResNet-20", "models.resnet20:ResNet20"),  # in neither paper
    "resnet18_32x32": Network("ResNet18", "models.resnet:ResNet18Small"),
    "resnet18": Network("ResNet18", "models.resnet:ResNet18"),  # ImageNet, 224×224
    "resnet50": Network("ResNet50", "models.resnet:ResNet50"),  # ImageNet, 224×224
    "lenet": Network("LeNet", "models.lenet:LeNet", 28),
}

WEIGHTS_NCL = WEIGHTS_ADP = (0, 0.01, 0.1, 0.5, 1, 2, 5, 10, 100)
WEIGHTS_DICE = (0, 0.01, 0.05, 0.1, 0.2, 0.5, 1)
# SDDE's searches fix ADP's parts, by other values than its final scripts, and vary DICE's second learning rate
SEARCH_ADP, SEARCH_DICE = {"adp_alpha": (0.2,), "adp_beta": (0.1,)}, {"discriminator_lr": (0, 1e-5, 1e-4, 1e-3)}
DIVERSITIES = {
    "ncl": Diversity("losses.diversity:NCLDiversityLoss", 0.1, WEIGHTS_NCL, shared_batch=True),
    "adp": Diversity("losses.diversity:ADPDiversityLoss", 0.1, WEIGHTS_ADP, shared_batch=True, search=SEARCH_ADP,
                     options=lambda recipe: {"alpha": recipe.adp_alpha, "beta": recipe.adp_beta, "as_published": True}),
    "adp_stable": Diversity("losses.diversity:ADPDiversityLoss", 0.1, WEIGHTS_ADP, shared_batch=True, search=SEARCH_ADP,
                            options=lambda recipe: {"alpha": recipe.adp_alpha, "beta": recipe.adp_beta}),
    "dice": Diversity("losses.diversity:DiceDiversityLoss", 0.2, WEIGHTS_DICE, shared_batch=True, discriminator=True,
                      search=SEARCH_DICE, options=lambda recipe: {"as_published": True}),
    "dice_stable": Diversity(
        "losses.diversity:DiceDiversityLoss", 0.2, WEIGHTS_DICE, shared_batch=True, discriminator=True,
        search=SEARCH_DICE),
    "gradcam": Diversity("losses.diversity:GradCAMDiversityLoss", 0.005, (0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1)),
    "input_gradient": Diversity(  # its weight is ours
        "losses.diversity:InputGradientDiversityLoss", 0.1, (0, 0.01, 0.1, 0.5, 1, 2, 5),
        options=lambda recipe: {"mode": "gt"}, image_gradients=True),
}

# of plugins: name → function of logits (…, C) to scores (…), larger = more in-distribution; post-hoc detectors, see
# engine/detectors.py
SCORES, DETECTORS = {}, {}

METHODS = {
    "softmax": Method("softmax", title="SoftMax", paper="dismax"),
    "isomax": Method("isomax", title="IsoMax", paper="dismax"),
    "isomaxplus": Method("isomaxplus", title="IsoMax+", paper="dismax"),
    "dismax": Method("dismax", title="DisMax", paper="dismax"),
    "dismax_fpr": Method("dismax_fpr", title="DisMax†", paper="dismax"),  # † with FPR
    "de": Method("softmax", 5, title="DE"),
    "ncl": Method("softmax", 5, "ncl", title="NCL"),
    "adp": Method("softmax", 5, "adp", title="ADP"),
    "adp_stable": Method("softmax", 5, "adp_stable", title="ADP, stable form"),
    "dice": Method("softmax", 5, "dice", title="DICE"),
    "dice_stable": Method("softmax", 5, "dice_stable", title="DICE, stable form"),
    "gradcam": Method("softmax", 5, "gradcam", title="SDDE"),
    "input_gradient": Method("softmax", 5, "input_gradient", title="input gradient"),
    "oe": Method("softmax", 5, "none", "default", title="OE"),
    "gradcam_oe": Method("softmax", 5, "gradcam", "default", title="SDDE + OE"),
}


# ---- recipes: DisMax (arXiv 2205.05874), its main.py and run scripts; the same for all five losses ----

HALF_NORMALIZATION = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
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
    epochs=20, batch_size=64, lr=0.02, milestones=(10, 15), weight_decay=5e-4, padding=2, flip=False,
    **HALF_NORMALIZATION,
)
MNIST = replace(DIGITS, batch_size=128)

# ---- SDDE (arXiv 2305.11616), its scripts and configs ----

SDDE_CIFAR10 = Recipe(
    epochs=100, batch_size=128, lr=0.1, weight_decay=5e-4, padding=4, flip=True, select_on="openood", zero_bias=False,
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
)
# ours: the mean over five members makes five times smaller gradients
SDDE_DIGITS = replace(DIGITS, lr=5 * DIGITS.lr, weight_decay=DIGITS.weight_decay / 5, zero_bias=False)
SDDE_MNIST = replace(SDDE_CIFAR10, epochs=50, **HALF_NORMALIZATION)
SDDE_IMAGENET200 = replace(  # 8 ranks × 32 images
    SDDE_CIFAR10, epochs=90, batch_size=256, micro_batch=32, padding=0, **IMAGENET_STATISTICS)
SDDE_IMAGENET = replace(  # from one pretrained network; 4 ranks × 32 images × 4 micro-batches
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
RECIPES_OF_NETWORK = {"resnet20": {
    paper: {name: replace(recipe, **SMALL) for name, recipe in of_paper.items() if name in ("cifar10", "cifar100")}
    for paper, of_paper in RECIPES.items()}}
DATASETS = tuple(dict.fromkeys([*RECIPES["dismax"], *RECIPES["sdde"]]))


def add_dataset(name, size, mean, std):
    """Register the default recipes, which are ours, for a set of the user's own of size × size pixels."""
    for paper, recipe in (("dismax", DISMAX_CIFAR10), ("sdde", SDDE_CIFAR10)):
        changes = {**SMALL, "batch_size": 64, "lr": 0.05, "padding": size // 8, "mean": mean, "std": std}
        for known in (RECIPES, *RECIPES_OF_NETWORK.values()):
            known[paper][name] = replace(recipe, **changes)


def method_of(name):
    """(name of the base method, Method) of a name of METHODS, or of base-members-diversity[-outliers] as `name_of`
    writes it. ValueError when it is neither, UserError when a plugin's entry is none."""
    check_entries(METHODS, Method)
    check_entries(NETWORKS, Network)
    if name in METHODS:
        return name, METHODS[name]
    base, *choices = name.split("-")
    bases = [known for known, method in METHODS.items() if method.paper == "dismax" or known == "de"]
    if base in bases and len(choices) in (2, 3) and choices[0].isdecimal() and choices[1] in ("none", *DIVERSITIES):
        named = dict(zip(("members", "diversity", "outliers"), (int(choices[0]), *choices[1:])))
        return base, METHODS[base].changed(**named)
    raise ValueError(f"unknown method {name!r}: choose from {', '.join(METHODS)}, or combine as dismax-5-gradcam")


def name_of(base, method):
    """What a run's folder is called: the method's name, or where flags changed it base-members-diversity[-outliers].

    The base, a head or "de", says by which paper's recipe it is trained.
    """
    paper = METHODS[base].paper
    for name in (base, *METHODS):
        if METHODS[name].paper == paper and METHODS[name].choices() == method.choices():
            return name
    first = method.head if paper == "dismax" else "de"
    words = [first, str(method.members), method.diversity] + [method.outliers] * (method.outliers != "none")
    return "-".join(words)


def recipe_of(dataset, base, method=None, model=""):
    """The recipe of a method of METHODS, or of one that was changed from it, on a data set.

    A paper's recipe, with the published settings of the method's diversity loss and of its outliers. ValueError when
    there is none.
    """
    method = method or METHODS[base]
    known = RECIPES_OF_NETWORK.get(model, RECIPES)[METHODS[base].paper]
    if dataset not in known:
        of_model = f" with {model}" * (model in RECIPES_OF_NETWORK)
        raise ValueError(f"there is no recipe for {base} on {dataset}{of_model}: choose from {', '.join(known)}")
    recipe = known[dataset]
    if dataset == "imagenet1k" and method.diversity == "none" and method.members > 1:
        recipe = replace(recipe, micro_batch=16)
    if method.diversity != "none":
        on_mnist = method.diversity == "gradcam" and dataset in ("mnist", "digits")
        recipe = replace(recipe, diversity_weight=0.1 if on_mnist else DIVERSITIES[method.diversity].weight)
    if method.diversity != "none" and DIVERSITIES[method.diversity].discriminator:
        recipe = replace(
            recipe, per_class=16 if dataset in ("cifar10", "mnist", "digits") else 2, ramp_epochs=20, clip=1.0,
            discriminator_lr=1e-3 if dataset == "mnist" else 1e-5)
        if dataset == "imagenet1k":
            recipe = replace(recipe, epochs=100)
    if method.outliers != "none":
        recipe = replace(recipe, outlier_weight=0.5, outlier_batch=256)
    return recipe


# ---- what each paper trained ----

ALL_HEADS = ("softmax", "isomax", "isomaxplus", "dismax", "dismax_fpr")
ALL_ENSEMBLES = ("de", "ncl", "adp", "dice", "gradcam")
CIFAR_NETWORKS = ("densenetbc100", "resnet34", "wideresnet2810")
BLOCKS = (
    # DisMax's scripts say 10 seeds, the published numbers fit 5 (docs/protocols.md)
    Block("dismax", "cifar10", CIFAR_NETWORKS, ALL_HEADS, 5),
    Block("dismax", "cifar100", CIFAR_NETWORKS, ALL_HEADS, 5),
    Block("dismax", "imagenet1k", ("resnet18",), ALL_HEADS, 1),
    Block("sdde", "mnist", ("lenet",), ALL_ENSEMBLES, 5),
    Block("sdde", "cifar10", ("resnet18_32x32",), ALL_ENSEMBLES, 5),
    Block("sdde", "cifar100", ("resnet18_32x32",), ALL_ENSEMBLES, 5),
    Block("sdde", "imagenet1k", ("resnet50",), ALL_ENSEMBLES, 5, on_request=True),
    Block("sdde", "imagenet200", ("resnet50",), ("oe", "gradcam_oe"), 5),
    # in neither paper
    Block("", "cifar10", ("resnet20",), (*ALL_HEADS, "de", "gradcam"), 3, on_request=True),
    Block("", "cifar100", ("resnet20",), (*ALL_HEADS, "de", "gradcam"), 3, on_request=True),
    Block("", "digits", ("lenet",), ALL_HEADS, 3),
    Block("", "digits", ("lenet",), ("de", "gradcam", "dismax-5-gradcam"), 1),
)


def published_seeds(dataset, network):
    """How many seeds the paper trained on a network, or None where no paper did."""
    return next((b.seeds for b in BLOCKS if b.paper and b.dataset == dataset and network in b.networks), None)


def runs_of(dataset, networks=(), methods=(), seeds=()):
    """[(network, method, seed)] of the blocks on a data set. Names narrow it; both together also combine freely."""
    pairs = {}
    for block in BLOCKS:
        if block.dataset == dataset and not (block.on_request and not set(networks) & set(block.networks)):
            pairs |= {(network, method): block.seeds for network in block.networks for method in block.methods
                      if (not networks or network in networks) and (not methods or method in methods)}
    if networks and methods:
        pairs = {(network, method): pairs.get((network, method), published_seeds(dataset, network) or 5)
                 for network in networks for method in methods}
    most = max(pairs.values(), default=0)
    return [(*pair, seed) for seed in seeds or range(1, most + 1) for pair, count in pairs.items()
            if seeds or seed <= count]


# ---- the score that a paper's table uses for a method ----

def score_of(name):
    """The DisMax paper's score of a method's head; MPS for a head that is not registered."""
    try:
        head = method_of(name)[1].head
    except ValueError:
        head = name
    return HEADS[head].score if head in HEADS else "MPS"


def dismax_score(dataset, name, ood_group):
    """The score that the DisMax paper's column for this group of OOD sets uses.

    DisMax's repository writes MMLES and MPS and the paper does not say which fills which column: MPS for near OOD sets
    and MMLES for the others is what its notes imply. For ImageNet-O it states MMLES.
    """
    if name.startswith("dismax") and ood_group == "near" and dataset != "imagenet1k":
        return "MPS"
    return score_of(name)


def sdde_score(dataset, name):
    """The score that SDDE's released script of a method uses; for a method without a script, the paper's MAL."""
    imagenet = dataset.startswith("imagenet")
    if name in ("ncl", "adp", "adp_stable", "dice", "dice_stable") or (name == "de" and not imagenet):
        return "average"
    return "minmax" if name == "gradcam" and not imagenet else "logit-average"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["runs"], help="list the runs of a data set")
    datasets = ", ".join(dict.fromkeys(block.dataset for block in BLOCKS))
    parser.add_argument("dataset", help=datasets)
    parser.add_argument("--models", nargs="*", default=(), help="networks (default: those of the papers)")
    parser.add_argument("--methods", nargs="*", default=(), help="methods (default: those of the papers)")
    parser.add_argument("--seeds", nargs="*", type=int, default=(), help="default: those of the papers, 1 to 5 or 1")
    parser.add_argument("--by-block", action="store_true", help="all seeds of a method and network in one line")
    args = parser.parse_args()
    lines = {}
    for network, method, seed in runs_of(args.dataset, args.models, args.methods, args.seeds):
        key = (network, method) if args.by_block else (network, method, seed)
        lines.setdefault(key, []).append(f"{args.dataset}/{network}/{method}/seed{seed}")
    for line in lines.values():
        print(" ".join(line))
    if not lines:
        parser.exit(1, f"recipes.py: there are no such runs on {args.dataset}. Name other --models or --methods, or a "
                       f"data set of {datasets}\n")


if __name__ == "__main__":
    run_script("recipes.py", main)
