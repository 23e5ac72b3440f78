"""Runs with made-up metrics, of the two benchmarks, for tests of tables."""
from conftest import made_up_run

from metrics.ensemble import ENSEMBLE_SCORES

NEAR, FAR = ("notmnist", "fashion_mnist"), ("textures", "cifar10", "tinyimagenet", "places365")
OPENOOD_PAPER = {"near": 0.9245, "far": 0.9834}  # DE's row


def ensemble(folder, method, seed, near, far=0.9, sets=NEAR + FAR, checkpoint="best", overrides=None, notes=None,
             model="lenet", **config):
    """A run on MNIST whose AUROC is `near` or `far`, a number or one a score; of notMNIST 0.02 more, of FashionMNIST
    0.02 less. FPR95 is 1 − AUROC."""
    rows = [("openood", "mnist", "id", checkpoint, "", "accuracy", 0.99),
            ("openood", "mnist", "id", checkpoint, "", "images", 9_004, (notes or {}).get("mnist", ""))]
    for name in sets:
        group, value = ("near", near) if name in NEAR else ("far", far)
        shift = {"notmnist": 0.02, "fashion_mnist": -0.02}.get(name, 0)
        rows.append(("openood", name, group, checkpoint, "", "images", 100, (notes or {}).get(name, "")))
        for score in ENSEMBLE_SCORES:
            auroc = (value.get(score, 0.5) if isinstance(value, dict) else value) + shift
            rows += [("openood", name, group, checkpoint, score, metric, number)
                     for metric, number in (("auroc", auroc), ("fpr95", 1 - auroc))]
    return made_up_run(folder, "mnist", model, method, seed, rows, overrides, **config)


def single(folder, method, seed, accuracy, sets=("cifar100", "tinyimagenet_resize", "lsun_resize", "svhn"),
           overrides=None, notes=None, ece=0.0060, dropped="", model="resnet34", score="MPS", **config):
    """A run on CIFAR-10 with SoftMax's published values for ResNet34, but for the accuracy and the ECE."""
    rows = [("dismax", "cifar10", "id", "best", "", "accuracy", accuracy),
            ("dismax", "cifar10", "id", "best", "", "images", 10_000, (notes or {}).get("cifar10", "")),
            ("dismax", "cifar10", "id", "best", "", "ece_as_published", ece, dropped),
            ("dismax", "cifar10", "id", "best", "", "ece_fitted_on_test", 0.9 * ece)]
    values = {"cifar100": ("near", "aupr_out", 0.853), "tinyimagenet_resize": ("far", "auroc", 0.897),
              "lsun_resize": ("far", "auroc", 0.924), "svhn": ("very_far", "aupr_out", 0.949)}
    rows += [("dismax", name, values[name][0], "best", score, f"{values[name][1]}_published", values[name][2])
             for name in sets]
    rows += [("dismax", name, values[name][0], "best", "", "images", 10_000, (notes or {}).get(name, ""))
             for name in sets]
    return made_up_run(folder, "cifar10", model, method, seed, rows, overrides, **config)
