"""Damage every file of a run and of a prepared set in every way, and see what each script makes of it.

  python tests/faults/damage.py                   the whole matrix; prints what broke a promise, and counts
  python tests/faults/damage.py --sample 40       a part of it

A promise is kept when the script ends with the results of the undamaged run, or with a sentence that names the file and
an exit status that is not 0. A traceback, another result without a word, and a pickle that was executed break it.
"""
import argparse
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make tests/ and our packages importable
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import forked
import numpy as np
import torch
from PIL import Image

from tests.faults.damages import DAMAGES

ROOT = Path(__file__).resolve().parents[2]
RUN, OTHER = "results/digits/lenet/softmax/seed1", "results/digits/lenet/isomax/seed1"
ENSEMBLE = "results/digits/lenet/de-2-gradcam/seed1"
STOPPED = "results/digits/lenet/dismax/seed1"  # has a checkpoint
TRAIN = "train.py --dataset digits --model lenet --epochs 2 --data-dir data --results-dir results --device cpu --method"
SCRIPTS = {
    "train": f"{TRAIN} softmax", "continue": f"{TRAIN} dismax --checkpoint-seconds 0",
    "own": "train.py --dataset pets --model lenet --method dismax --epochs 1 --data-dir data --results-dir own "
           "--device cpu",
    "evaluate": f"evaluate.py {RUN} --data-dir data --device cpu",
    "weights": "evaluate.py --weights foreign.pt --dataset digits --model lenet --results-dir adopted --data-dir data "
               "--device cpu",
    "analyze": "analyze.py --results-dir results", "report": "analyze.py --results-dir results --report",
    "saliency": "analyze.py --results-dir results --saliency --data-dir data",
    "scores": "analyze.py --results-dir results --scores x=scores",
    "detect": f"detect.py {RUN} photo.png --device cpu", "exported": "detect.py exported photo.png --device cpu",
    "export": f"export.py {RUN} target",
    "prepare": "data/prepare.py digits --data-dir data", "verify": "data/prepare.py --verify --data-dir data",
}
# what each script reads, files below the folder of the matrix
READS = {
    "train": [f"{RUN}/config.json", f"{RUN}/weights.pt"],
    "continue": [f"{STOPPED}/{name}" for name in ("config.json", "checkpoint.pt", "log.csv")] + [
        "data/digits/train.npz", "data/digits/test.npz", "data/digits/manifest.json"],
    "evaluate": [f"{RUN}/{name}" for name in (
        "config.json", "weights.pt", "weights_best.pt", "metrics.csv", "calibration.json", "logits/digits.npz",
        "logits/photo_patches.npz")] + [
        "data/digits/test.npz", "data/digits/manifest.json", "data/photo_patches/test.npz",
        "data/photo_patches/manifest.json"],
    "analyze": [f"{RUN}/{name}" for name in ("config.json", "log.csv", "metrics.csv")],
    "report": [f"{RUN}/{name}" for name in ("logits/digits.npz", "scores/MPS/digits.npz", "log.csv")],
    "saliency": [f"{ENSEMBLE}/{name}" for name in ("saliency.npz", "config.json", "weights.pt")],
    "scores": ["scores/digits.npz", "scores/digits_789.npz"], "weights": ["foreign.pt"],
    "export": [f"{RUN}/{name}" for name in ("config.json", "weights.pt", "calibration.json", "metrics.csv")],
    "exported": [f"exported/{name}" for name in ("config.json", "model.safetensors", "calibration.json")],
    "own": ["data/pets/manifest.json", "data/pets/train.npz"],
    "prepare": ["data/digits/manifest.json", "data/digits/train.npz"],
    "verify": ["data/digits/manifest.json", "data/digits/train.npz", "data/pets/manifest.json"],
    "detect": [f"{RUN}/{name}" for name in ("config.json", "weights.pt", "calibration.json")] + ["photo.png"],
}


# a word, or the part after NAME=, that is a path in the matrix' folder
IN_FOLDER = re.compile(r"^(\w+=|)((data|results|own|adopted|target|exported|scores|pets|photo\.png|foreign\.pt)(/.*)?)$"
                       r"(?<!\.py)")


class Matrix:
    """The undamaged folder, and one copy of it for each cell."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.whole = self.folder / "whole"
        self.whole.mkdir()
        self.must("data/prepare.py --for digits --data-dir data")
        for method in ("softmax", "isomax", "gradcam --members 2"):
            self.must(f"{TRAIN} {method}")
        self.must(f"evaluate.py {RUN} {OTHER} {ENSEMBLE} --data-dir data --device cpu")
        self.must("analyze.py --results-dir results --saliency --data-dir data")
        shutil.rmtree(self.whole / "results/tables")
        self.stopped_run()
        self.must(f"export.py {RUN} exported")
        shutil.copytree(self.whole / RUN / "scores/MPS", self.whole / "scores")
        shutil.copy(self.whole / RUN / "weights.pt", self.whole / "foreign.pt")
        self.pictures()
        self.expected = {}

    def pictures(self):
        """photo.png, and a set of the user's own."""
        rng = np.random.default_rng(0)
        for k in range(24):
            path = self.whole / "pets" / ("cats", "dogs")[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(path)
        Image.new("RGB", (40, 30), (200, 90, 20)).save(self.whole / "photo.png")
        self.must("data/prepare.py --folder pets=pets --size 28 --data-dir data")

    def must(self, words):
        done = self.run(words, self.whole)
        assert done.returncode == 0, done.stderr

    def undamaged(self, script):
        """What a script makes of the undamaged folder."""
        if script not in self.expected:
            copy = self.copy()
            done = self.run(SCRIPTS[script], copy)
            self.expected[script] = result_of(script, copy, done.stdout)
            shutil.rmtree(copy)
        return self.expected[script]

    def stopped_run(self):
        """A run with a checkpoint: stopped, by an error of ours, when it is about to write its last files."""
        code = ("import runpy, sys; sys.argv, sys.path[0] = sys.argv[1:], '.'\nimport utils.run_dir as r\n"
                "write = r.write_log\ndef stop(folder, rows):\n    write(folder, rows)\n"
                "    if len(rows) == 2: raise SystemExit(9)\nr.write_log = stop\n"
                "runpy.run_path(sys.argv[0], run_name='__main__')")
        words = SCRIPTS["continue"].split()
        arguments = [str(self.whole / word) if word in ("data", "results") else word for word in words]
        assert forked.run(["-c", code, *arguments], ROOT).returncode == 9
        assert (self.whole / STOPPED / "checkpoint.pt").exists()

    def copy(self):
        target = Path(tempfile.mkdtemp(prefix="cell-", dir=self.folder))
        shutil.copytree(self.whole, target, dirs_exist_ok=True)
        return target

    def run(self, words, folder):
        words = [IN_FOLDER.sub(rf"\g<1>{folder}/\g<2>", word) for word in words.split()]
        return forked.run(words, ROOT, timeout=300)

    def cell(self, script, path, damage, rng):
        """"" when the promise is kept, else how it was broken."""
        folder = self.copy()
        try:
            target = folder / path
            content = target.read_bytes()
            if script == "scores" and damage == "missing":
                return ""  # nobody has said which sets others have scored
            if DAMAGES[damage] is None:
                target.unlink()
            if damage == "a folder":
                target.mkdir()
            elif damage == "a pipe":
                os.mkfifo(target)
            elif damage == "a link to itself":
                target.symlink_to(target.name)
            elif damage == "the other run's":
                other = folder / path.replace(RUN, OTHER)
                if other == target or not other.exists():
                    return ""
                shutil.copy(other, target)
            elif damage != "missing":
                changed = DAMAGES[damage](content, rng)
                if changed == content:
                    return ""
                target.write_bytes(changed)
            done = self.run(SCRIPTS[script], folder)
            return self.verdict(script, folder, done)
        finally:
            shutil.rmtree(folder)

    def verdict(self, script, folder, done):
        if (ROOT / "executed").exists():
            (ROOT / "executed").unlink()
            return "EXECUTED a pickle"
        if "Traceback" in done.stderr:
            return f"TRACEBACK {done.stderr.strip().splitlines()[-1][:150]}"
        if done.returncode:
            said = (done.stdout if script in ("prepare", "verify") else done.stderr).strip()
            return "" if said and len(said) < 1500 else f"SILENT exit with status {done.returncode}"
        if script == "evaluate" and "not prepared: " in done.stdout:
            return ""  # an OOD set is named and left out
        try:
            if result_of(script, folder, done.stdout) == self.undamaged(script):
                return ""
        except Exception as error:
            return f"NO RESULT, and not a word: {error!r}"[:150]
        if script in TABLES and re.search("Left out: |No saliency maps of ", done.stdout):
            return ""  # said under the table
        return "ANOTHER RESULT, and not a word"


TABLES = ("analyze", "report", "saliency", "scores")


def result_of(script, folder, stdout):
    """What a script is for: tables, metrics, weights, answers."""
    if script in TABLES:
        return {path.name: path.read_text().replace(str(folder), "")
                for path in sorted((folder / "results/tables").glob("*.md"))}
    if script in ("evaluate", "weights"):
        return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/*/*/*/seed*/metrics.csv"))}
    if script in ("detect", "exported", "verify"):
        return stdout.replace(str(folder), "")
    if script == "export":
        files = {path.name: path.read_bytes() for path in sorted((folder / "target").iterdir())}
        config = json.loads(files.pop("config.json"))  # beside these it is a copy of the run's
        return files, config["detection"], config["images"]
    if script == "prepare":
        files = {path.name: path.read_bytes() for path in sorted((folder / "data/digits").iterdir())}
        return files, json.loads(files.pop("manifest.json"))["splits"]
    run = folder / {"train": RUN, "continue": STOPPED, "own": "own/pets/lenet/dismax/seed1"}[script]
    state = torch.load(run / "weights.pt", weights_only=True)
    return {name: tensor.nan_to_num().tolist() for name, tensor in state.items()}


def run(sample=None, seed=1, show=True, scripts=SCRIPTS):
    """[(script, file, damage, how the promise was broken)], and how many cells were tried."""
    folder = Path(tempfile.mkdtemp(prefix="damage-"))
    try:
        matrix, rng = Matrix(folder), random.Random(seed)
        cells = [(script, path, damage) for script in scripts for path, damage in itertools.product(
            READS[script], DAMAGES)]
        cells = rng.sample(cells, sample) if sample else cells
        broken = []
        for k, (script, path, damage) in enumerate(cells):
            if problem := matrix.cell(script, path, damage, rng):
                broken.append((script, path, damage, problem))
                if show:
                    print(f"{script:9} {path:50} {damage:18} {problem}", flush=True)
            if show and sys.stderr.isatty():
                print(f"\r{k + 1} of {len(cells)}", end="", file=sys.stderr)
        return broken, len(cells)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--script", choices=SCRIPTS, nargs="+", default=list(SCRIPTS))
    args = parser.parse_args()
    broken, count = run(args.sample, args.seed, scripts=args.script)
    print(f"{count} cells, {len(broken)} broken promises")
    sys.exit(bool(broken))
