"""Export a run for use elsewhere: weights, settings, calibration, a model card, and optionally one graph of all of it.

  python export.py results/digits/lenet/dismax/seed1 exported/digits --onnx --torch-export
  python detect.py exported/digits photo.jpg                       the folder can be used like the run

DIR gets model.safetensors (the last epoch's state dict), config.json (with class names), calibration.json (temperature
and thresholds) and README.md (the model card). --onnx adds model.onnx, and --torch-export adds model.pt2. Their inputs
are uint8 images (N, 3 or 1, H, W), and their outputs are logits, probability, score and in_distribution (at the reject
rate). Both are compared with PyTorch before anything is written. The run must be evaluated.
"""
import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

import argparse
import math
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save

from detect import RunReader
from engine import checkpoint
from engine.build import score_functions
from engine.exported import DetectorGraph, write_onnx, write_program
from recipes import score_of
from reporting.model_card import model_card
from utils import run_dir
from utils.io import UserError, system_error, write_text
from utils.lock import locked
from utils.plugins import add_plugin_argument, load_plugins
from utils.script import run_script

GRAPHS = ("model.onnx", "model.pt2")


def main():
    load_plugins()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of an evaluated run")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write; an earlier export there is replaced")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx (pip install '.[onnx]')")
    parser.add_argument("--torch-export", action="store_true", help="also write model.pt2, for torch.export.load")
    parser.add_argument("--score", choices=list(score_functions()), help="default: the paper's score for the method")
    parser.add_argument("--reject-rate", type=float, default=5, metavar="PERCENT", help="share of in-distribution "
                        "images that the graphs reject, 0 to 100 percent (default: 5)")
    add_plugin_argument(parser)
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    if not 0 <= args.reject_rate <= 100:
        raise UserError(f"--reject-rate must be between 0 and 100 percent, got {args.reject_rate:g}")
    check_target(args.folder)
    _, config = run_dir.load_run(args.run)
    if not run_dir.is_finished(args.run):
        raise UserError(f"{args.run} has no weights.pt: it is an export already, or not trained to its end")
    try:
        rows = run_dir.read_metrics(args.run, config)
    except FileNotFoundError:
        raise UserError(f"{args.run} has no metrics.csv: python evaluate.py {args.run}") from None
    with locked(args.folder.parent, wait=True):  # two exports to one folder would mix their files
        write_folder(args, rows)
    print(f"{args.folder}: {', '.join(sorted(path.name for path in args.folder.iterdir()))}")


def write_folder(args, rows):
    """Write an export whole, in the place of an earlier one; when it fails, what was there before stays."""
    part = args.folder.with_name(f".{args.folder.name}.part")
    check_target(args.folder)  # again, now that nobody else can change it
    try:
        shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
        part.mkdir(parents=True)
        export(args, rows, part)
        args.folder.mkdir(exist_ok=True)
        for name in ("config.json", *GRAPHS):  # of an earlier export; without config.json a folder is none
            (args.folder / name).unlink(missing_ok=True)
        for path in sorted(part.iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, args.folder / path.name)
    except OSError as error:
        raise system_error(error, args.folder, "write") or UserError(
            f"could not write {args.folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_target(folder):
    """UserError unless there is nothing in the folder, or an earlier export."""
    if folder.exists() and not folder.is_dir() or (folder / "weights.pt").exists():
        raise UserError(f"{folder} is a run or a file: choose another folder to export to")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "model.safetensors").exists():
        raise UserError(f"{folder} holds other files, which stay as they are: choose another folder to export to")


def export(args, rows, folder):
    """Write all files of an export into an empty folder."""
    rate, (run, config) = args.reject_rate / 100, run_dir.load_run(args.run)
    reader = RunReader(args.run, args.score, rate, torch.device("cpu"))  # UserError without a fitting calibration
    state = checkpoint.load_state(args.run / "weights.pt")
    # written by ourselves: a file of safetensors' own can be read by its owner only
    (folder / "model.safetensors").write_bytes(save({name: tensor.contiguous() for name, tensor in state.items()}))
    made = run_dir.read_json(args.run / "calibration.json")["last"]
    digest = run_dir.file_digest(folder / "model.safetensors")
    run_dir.write_json(folder / "calibration.json", {"last": {**made, "weights": digest}})
    score = args.score or score_of(run.name)
    about = {"class_names": reader.images["class_names"], "size": reader.images["size"], "score": score,
             "reject_rate": rate, "threshold": reader.threshold, "temperature": made["temperature"],
             "mean": list(run.recipe.mean), "std": list(run.recipe.std)}
    threshold = about["threshold"] if math.isfinite(about["threshold"]) else None  # JSON has no infinity
    run_dir.write_json(folder / "config.json", {
        **config, "images": reader.images, "detection": {**about, "threshold": threshold}})
    graph = DetectorGraph(reader.detector, run.recipe.mean, run.recipe.std, rate).eval()
    checks = {}
    if args.onnx:
        checks["model.onnx"] = write_onnx(graph, about["size"], folder / "model.onnx", about)
    if args.torch_export:
        checks["model.pt2"] = write_program(graph, about["size"], folder / "model.pt2", about)
    for name, check in checks.items():
        print(f"{name} agrees with PyTorch on {check.images} images: largest difference "
              f"{check.largest_difference:.1e} of the largest value")
    write_text(folder / "README.md", model_card(run, config, rows, made, about, list(checks)))


if __name__ == "__main__":
    run_script("export.py", main)
