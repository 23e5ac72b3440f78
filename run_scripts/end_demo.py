"""The last lines of `make demo`: detection with the package's calibrated head, answers of a network for CIFAR-10 about
two photographs, the report, the next commands.

  python run_scripts/end_demo.py results/digits/lenet/dismax_fpr/seed1

The script reads the logits that evaluate.py stored. One half of the in-distribution test images fits the temperature
and the thresholds, and the other half is classified.
"""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

import sklearn.datasets
import torch

from detect import RunReader
from losses import LossFirstPart
from recipes import score_of
from utils.io import UserError
from utils.npz import Damaged, read_arrays
from utils.run_dir import load_run
from utils.script import run_script

REJECT_RATE = 0.05
CIFAR10_RUN = Path("results/reference/cifar10/resnet20/dismax_fpr/seed1")  # with its weights
PHOTOGRAPHS = ("china.jpg", "flower.jpg")  # of scikit-learn
NEXT = """\
The networks learned digits 0-6; digits 7-9 and patches of photographs are
out-of-distribution. This is a toy: its numbers say nothing about the methods.

Tables and figures: {report}

Next, classify or reject your own images:
{activate}  python detect.py {run} FOLDER
Or train on CIFAR-10, one epoch in 80 minutes on two CPU cores:
  make reproduce-cifar10 MODELS=resnet34 METHODS="softmax dismax_fpr" \\
      SEEDS=1 EPOCHS=1"""


def main():
    if len(sys.argv) != 2:
        raise UserError("name the folder of one run")
    folder = Path(sys.argv[1])
    run, config = load_run(folder)
    logits, labels = saved_logits(folder, run.dataset)
    head = LossFirstPart(1, config["num_classes"])
    head.score_type = score_of(run.name)
    temperature = head.calibrate(logits[::2], labels[::2])
    head.set_thresholds(logits[::2] / temperature)
    sets = {run.dataset: logits[1::2], **{name: saved_logits(folder, name)[0] for name in (
        "digits_789", "photo_patches")}}
    rejected = {name: (~head.detect(z / temperature, REJECT_RATE)).double().mean().item() for name, z in sets.items()}
    print(f"\nDetection by {folder}\nat temperature {temperature:.2f} and reject rate {REJECT_RATE:.0%}. Rejected:")
    for name, title in ((run.dataset, "of 0-6, images that were not used for calibration"), ("digits_789", "of 7-9"),
                        ("photo_patches", "of patches of photographs")):
        print(f"  {rejected[name]:6.1%} {title}")
    ask_about_photographs()
    print("\n" + NEXT.format(report=folder.parents[3] / "report.html", run=CIFAR10_RUN, activate=activation()))


def ask_about_photographs():
    """What detect.py answers for two photographs that show none of CIFAR-10's classes."""
    root = Path(__file__).resolve().parents[1]
    reader = RunReader(root / CIFAR10_RUN, None, REJECT_RATE, torch.device("cpu"))
    print(f"\nDetection by {CIFAR10_RUN}\nA temple and a flower are none of CIFAR-10's classes, so \"out\" is right:")
    for name in PHOTOGRAPHS:
        found = reader.answer(str(Path(sklearn.datasets.__file__).parent / "images" / name))
        print(f"  {name}: {found['class_name']}, probability {found['probability']:.2f}, {found['answer']}")


def activation():
    """The line that activates the environment of this script; "" if it is active or needs no activation."""
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return ""
    return f"  source {os.path.relpath(sys.prefix)}/bin/activate\n"


def saved_logits(folder, name):
    """(n, C) mean logits of a set at temperature 1, and labels (n)."""
    file = folder / "logits" / f"{name}.npz"
    try:
        logits, labels = read_arrays(file, "logits", "labels")
    except (FileNotFoundError, Damaged) as error:
        raise UserError(f"{file} cannot be read ({error}): python evaluate.py {folder}") from error
    return torch.from_numpy(logits.mean(0)), torch.from_numpy(labels)


if __name__ == "__main__":
    run_script("end_demo.py", main)
