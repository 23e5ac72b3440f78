"""The last lines of `make demo`: a detection by the package's calibrated head, the report, the next commands.

  python run_scripts/end_demo.py results/digits/lenet/dismax_fpr/seed1

The logits that evaluate.py has kept are used. One half of the in-distribution test images fits the temperature and the
thresholds, and the other half is answered for.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

import torch

from losses import LossFirstPart
from recipes import score_of
from utils.io import UserError
from utils.npz import Damaged, read_arrays
from utils.run_dir import load_run
from utils.script import run_script

REJECT_RATE = 0.05
NEXT = """\
Digits 0-6 were learned; 7-9 and patches of photographs were to be separated
from them. This is a toy: its numbers prove nothing.

All tables with figures: {report}
Next, the real thing:
  source .venv/bin/activate
  make prepare-data DATASETS="cifar10 cifar100 svhn"
  make reproduce-cifar10 MODELS=resnet34 METHODS="softmax dismax_fpr" SEEDS=1"""


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
    away = {name: (~head.detect(z / temperature, REJECT_RATE)).double().mean().item() for name, z in sets.items()}
    print(f"\nDetection by {folder}\nat temperature {temperature:.2f}. Asked to turn away {REJECT_RATE:.0%} of known "
          "digits, it turned away")
    for name, title in ((run.dataset, "of 0-6, images that it was not calibrated on"), ("digits_789", "of 7-9"),
                        ("photo_patches", "of patches of photographs")):
        print(f"  {away[name]:6.1%} {title}")
    print("\n" + NEXT.format(report=folder.parents[3] / "report.html"))


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
