"""What methods, networks and data sets are called in tables, in which order, and which score a method is ranked by.

A name that is not known here is its own title, comes after the known ones, and is scored with MPS: whatever has a run
gets a row.
"""
import recipes
from data.datasets import CATALOG

SINGLE = {"softmax": "SoftMax", "isomax": "IsoMax", "isomaxplus": "IsoMax+", "dismax": "DisMax",
          "dismax_fpr": "DisMax†", "softmax-torchvision": "SoftMax, torchvision's weights"}
ENSEMBLES = {"de": "DE", "ncl": "NCL", "adp": "ADP", "adp_stable": "ADP, stable form",
             "dice": "DICE", "dice_stable": "DICE, stable form", "gradcam": "SDDE",
             "input_gradient": "input gradient", "oe": "OE", "gradcam_oe": "SDDE + OE"}
RELEASED = ("de", "ncl", "adp", "dice", "gradcam", "oe", "gradcam_oe")  # methods that SDDE's release has a script for
NETWORKS = {"densenetbc100": "DenseNetBC100", "resnet34": "ResNet34", "wideresnet2810": "WideResNet-28-10",
            "resnet20": "ResNet20", "resnet18_32x32": "ResNet18", "resnet18": "ResNet18", "resnet50": "ResNet50",
            "lenet": "LeNet"}
TITLES = {**ENSEMBLES, **SINGLE, **NETWORKS, **{name: data_set.title for name, data_set in CATALOG.items()}}


def title_of(name):
    """What a method, a network or a data set is called."""
    return TITLES.get(name, name)


def is_known(method):
    return method in ENSEMBLES or method in SINGLE


def in_order(names):
    """Methods or networks: the known ones in the order of this file, then the others by name."""
    known = [name for name in (*ENSEMBLES, *SINGLE, *NETWORKS) if name in names]
    return known + sorted(set(names) - set(known))


def dismax_score(dataset, method, group):
    """The score that DisMax's paper ranks a method by in its column for this group of OOD sets; MPS by default."""
    return recipes.published_score(dataset, method, group) if method in recipes.SCORES else "MPS"


def sdde_score(dataset, method):
    """The score of SDDE's released script for a method, or for the published form of one; None without a script."""
    published = method.removesuffix("_stable")
    return recipes.sdde_score(dataset, published) if published in RELEASED else None
