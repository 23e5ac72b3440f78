"""Ask a trained run about anybody's images: which class, how probable, and does it know such images at all?

  python detect.py results/digits/lenet/dismax/seed1 photo.jpg scans/
  python detect.py results/cifar10/resnet34/dismax_fpr/seed1 holiday/*.jpg --reject 1 --score MPS > answers.csv

Writes CSV to standard output, a row an image: file, class (its number), probability (calibrated: softmax at the
temperature that evaluate.py fitted), score (larger = more like the training data), threshold, and answer: "in", or
"out" where the score is below what all but --reject per cent of the in-distribution test images reach.
Folders are searched for images. An image that cannot be read is named, and the others are still answered.
"""
import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from data.datasets import CATALOG
from data.loaders import resized
from data.sources.formats import IMAGE_SUFFIXES
from data.transforms import normalise
from engine import devices
from engine.inference import load_model
from engine.training_loss import add_member_dim
from metrics.scores import SCORES
from recipes import score_of
from utils import run_dir
from utils.io import UserError
from utils.plugins import add_plugin_argument, load_plugins
from utils.script import run_script


def main():
    load_plugins()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder that evaluate.py has been at")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    parser.add_argument("--score", choices=list(SCORES), help="by default the paper's for the run's loss")
    parser.add_argument("--reject", default="5", help="per cent of in-distribution images to turn away (default 5)")
    parser.add_argument("--device")
    add_plugin_argument(parser)
    args = parser.parse_args()
    run, config = run_dir.load_run(args.run)
    try:
        fitted = run_dir.read_json(args.run / "calibration.json")["last"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: train the run, then python evaluate.py {args.run}") from error
    dataset = run.dataset
    score = args.score or score_of(run.name)
    thresholds = fitted["thresholds"][score]
    if args.reject not in thresholds:
        raise UserError(f"no threshold for --reject {args.reject}: choose from {', '.join(thresholds)}")

    device = devices.choose(args.device)
    model = load_model(run, config["num_classes"], args.run / "weights.pt")
    model.to(device, memory_format=torch.channels_last).eval()

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["file", "class", "probability", "score", "threshold", "answer"])
    unread = 0
    for path in image_files(args.images):
        try:
            logits = logits_of(model, path, CATALOG[dataset].size, run.recipe, device)  # (1, C)
        except (OSError, UnidentifiedImageError) as error:
            print(f"detect.py: {path} cannot be read: {error}", file=sys.stderr)
            unread += 1
            continue
        probability = (logits / fitted["temperature_nll"]).softmax(1).amax().item()
        value, threshold = SCORES[score](logits).item(), thresholds[args.reject]
        out.writerow([path, logits.argmax().item(), f"{probability:.4f}", f"{value:.4f}", f"{threshold:.4f}",
                      "in" if value >= threshold else "out"])
    sys.exit(1 if unread else 0)


def image_files(paths):
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        else:
            yield path


@torch.inference_mode()
def logits_of(model, path, size, recipe, device):
    """The mean of the members' logits."""
    image = np.asarray(Image.open(path).convert("RGB"))[None]  # (1, H, W, 3)
    pixels = torch.from_numpy(resized(image, size).transpose(0, 3, 1, 2).copy()).to(device)  # (1, 3, s, s)
    mean, std = (torch.tensor(values, device=device) for values in (recipe.mean, recipe.std))
    return add_member_dim(model(normalise(pixels, mean, std)).double()).mean(0).cpu()


if __name__ == "__main__":
    run_script("detect.py", main)
