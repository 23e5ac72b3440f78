"""What methods, networks and sets are called in tables and figures; the tables have them in this order."""
from data.datasets import CATALOG

METHODS = {"softmax": "SoftMax", "isomax": "IsoMax", "isomaxplus": "IsoMax+", "dismax": "DisMax",
           "dismax_fpr": "DisMax†"}
ENSEMBLES = {"de": "DE", "ncl": "NCL", "adp": "ADP", "adp_stable": "ADP, stable",
             "dice": "DICE", "dice_stable": "DICE, stable", "gradcam": "SDDE",
             "input_gradient": "input gradient", "oe": "OE", "gradcam_oe": "SDDE + OE"}
MODELS = {"densenetbc100": "DenseNetBC100", "resnet34": "ResNet34", "wideresnet2810": "WideResNet-28-10",
          "resnet20": "ResNet20",
          "resnet18_32x32": "ResNet18", "resnet18": "ResNet18", "resnet50": "ResNet50", "lenet": "LeNet"}
ALL = {**ENSEMBLES, **METHODS}
TITLES = {"tinyimagenet_resize": "TinyImageNet-r", "lsun_resize": "LSUN-r", **{k: v.title for k, v in CATALOG.items()}}
