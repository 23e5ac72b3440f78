"""Classify images with trained runs, and reject images that are out-of-distribution.

  python detect.py results/digits/lenet/dismax/seed1 photo.jpg scans/
  python detect.py results/cifar10/resnet34/dismax_fpr/seed1 holiday/*.jpg --reject-rate 1 --score MPS > answers.csv
  find scans -name '*.png' | python detect.py RUN1 RUN2 - --json

The command prints one row per image and run, as CSV or JSON lines: run (if there are several), file, class (a number),
class_name, probability (softmax at the fitted temperature), score (larger = more in-distribution), threshold, and
answer: "out" if the score is below the threshold, else "in". --reject-rate percent of the in-distribution test images
have a score below the threshold; at 100 percent it is infinite, which JSON has as null. Temperature and thresholds are
those of evaluate.py.

Folders are searched for images, and "-" reads file names from standard input, one per line. Images are rotated
according to their EXIF orientation. If an image cannot be read, its name goes to standard error, the other images are
processed, and the exit status is 1.
"""
import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

import argparse
import csv
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch

from data.datasets import CATALOG
from data.decode import UnreadableImage, open_rgb, resize_center_crop
from data.image_files import find_images, printable_path, report_skipped
from data.transforms import normalise
from engine import devices
from engine.build import score_functions
from engine.detection import Detector
from engine.inference import load_model
from recipes import score_of
from utils import run_dir
from utils.io import UserError
from utils.plugins import add_plugin_argument, load_plugins
from utils.script import run_script

COLUMNS = ("file", "class", "class_name", "probability", "score", "threshold", "answer")


def main():
    load_plugins()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="RUN … IMAGE …", help="folders of evaluated runs, then image "
                        "files, folders of images, or - for names on standard input")
    parser.add_argument("--score", choices=list(score_functions()), help="default: the paper's score for the method")
    parser.add_argument("--reject-rate", "--reject", type=float, default=5, metavar="PERCENT", help="share of "
                        "in-distribution images to reject, 0 to 100 percent (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead of CSV")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the accelerator if there is one)")
    add_plugin_argument(parser)
    args = parser.parse_args()
    if not 0 <= args.reject_rate <= 100:
        raise UserError(f"--reject-rate must be between 0 and 100 percent, got {args.reject_rate:g}")
    runs = [path for path in args.paths if os.path.exists(os.path.join(path, "config.json"))]
    images = [path for path in args.paths if path not in runs]
    if not runs:
        raise UserError(f"{args.paths[0]} is not a run: it has no config.json. Train one: python train.py --help")
    if not images:
        raise UserError("name image files, folders of them, or - to read names from standard input")
    device = devices.choose(args.device)
    devices.turn_off_tf32()
    with devices.explain_out_of_memory(device, devices.FEWER_PROCESSES):
        readers = [RunReader(Path(run), args.score, args.reject_rate / 100, device) for run in runs]
        problems = print_answers(readers, image_files(images), args.json)
    sys.exit(1 if problems else 0)


def print_answers(readers, files, as_json):
    """Print a row for each file and reader; returns how many files have none."""
    write = json_writer() if as_json else csv_writer(COLUMNS if len(readers) == 1 else ("run", *COLUMNS))
    problems = 0
    for file in files:
        if isinstance(file, UserError):
            print(f"detect.py: {file}", file=sys.stderr)
            problems += 1
            continue
        for reader in readers:
            try:
                row = reader.answer(file)
            except (UnreadableImage, ValueError, OSError) as error:
                print(f"detect.py: {printable_path(file)} cannot be read: {error}", file=sys.stderr)
                problems += 1
                break
            write({"run": str(reader.folder)} if len(readers) > 1 else {}, row)
    return problems


class RunReader:
    """The network of a run, ready to classify image files."""

    def __init__(self, folder, score, reject_rate, device):
        file = next((folder / name for name in ("weights.pt", "model.safetensors") if (folder / name).exists()), None)
        if file is None:
            raise UserError(f"{folder} has no weights.pt: train the run, then python evaluate.py {folder}")
        run, config = run_dir.load_run(folder)
        calibration = self.calibration(folder, file)
        model = load_model(run, config["num_classes"], file)
        model.to(device, memory_format=torch.channels_last).eval()
        self.folder, self.reject_rate, self.device = folder, reject_rate, device
        self.detector = Detector(model, config["num_classes"], calibration, score or score_of(run.name))
        self.threshold = self.detector.threshold(reject_rate)
        self.images = config.get("images") or image_facts(run.dataset)
        self.mean, self.std = (torch.tensor(values, device=device) for values in (run.recipe.mean, run.recipe.std))

    @staticmethod
    def calibration(folder, file):
        try:
            made = run_dir.read_json(
                folder / "calibration.json", f"Evaluate the run again: python evaluate.py {folder}")["last"]
        except (FileNotFoundError, KeyError) as error:
            raise UserError(f"{folder} has no calibration.json: python evaluate.py {folder}") from error
        if not isinstance(made, dict) or made.get("weights") != run_dir.file_digest(file):
            raise UserError(f"{folder / 'calibration.json'} was made of other weights than {file.name}. Evaluate the "
                            f"run again: python evaluate.py {folder}")
        return made

    def answer(self, file):
        """A dict of COLUMNS. UnreadableImage, ValueError or OSError when there is none."""
        if os.path.isdir(file):
            raise UnreadableImage("the folder holds no images")
        with open_rgb(file) as image:
            pixels = np.array(resize_center_crop(image, self.images["size"], self.images["shorter_side"]))  # (s, s, 3)
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.device)  # (1, 3, s, s)
        batch = normalise(batch, self.mean, self.std)
        label, probability, score, known = (part.item() for part in self.detector(batch, self.reject_rate))
        names = self.images["class_names"] or ()  # of a part of ImageNet some only
        name = names[label] if label < len(names) else ""
        return {"file": file, "class": label, "class_name": name, "probability": probability,
                "score": score, "threshold": self.threshold, "answer": "in" if known else "out"}


def image_facts(dataset):
    """What a network needs to know of images, for runs whose config.json does not say."""
    if dataset not in CATALOG:
        raise UserError(f"unknown data set {dataset!r}")
    info = CATALOG[dataset]
    return {"size": info.size, "shorter_side": int(info.size / 0.875) if info.folders else info.size,
            "class_names": list(info.class_names)}


def image_files(paths):
    """The files behind paths, folders and "-"; for a folder that cannot be read its UserError."""
    for path in paths:
        if path == "-":
            for line in sys.stdin.buffer:
                if name := line.rstrip(b"\r\n"):
                    yield os.fsdecode(name)
        elif os.path.isdir(path):
            try:
                found, skipped = find_images(path)
            except UserError as error:
                yield error
                continue
            for line in report_skipped(skipped, path):
                print(f"detect.py: {line}", file=sys.stderr)
            if not found:
                yield path  # which is then named, as what cannot be read
            yield from (os.path.join(path, file) for file in found)
        else:
            yield path


def csv_writer(columns):
    out = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    out.writeheader()

    def write(run, row):
        numbers = {name: f"{row[name]:.4f}" for name in ("probability", "score", "threshold")}
        out.writerow({**run, **row, **numbers, "file": printable_path(row["file"])})
        sys.stdout.flush()

    return write


def json_writer():
    def write(run, row):
        threshold = row["threshold"] if math.isfinite(row["threshold"]) else None
        row = {**run, **row, "file": printable_path(row["file"]), "threshold": threshold}
        print(json.dumps(row, ensure_ascii=False, allow_nan=False), flush=True)

    return write


if __name__ == "__main__":
    run_script("detect.py", main)
