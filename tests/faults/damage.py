"""Damage every file of a run and of a prepared set in every way, and see what each script makes of it.

  python tests/faults/damage.py                   the whole matrix; prints what broke a promise, and counts
  python tests/faults/damage.py --sample 40       a part of it

A promise is kept when the script ends with the results of the undamaged run, or with a sentence that names the file and
an exit status that is not 0. A traceback, another result without a word, and a pickle that was executed break it.
"""
import argparse
import itertools
import pickle
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make tests/ and our packages importable
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import forked

ROOT = Path(__file__).resolve().parents[2]
RUN, OTHER = "results/digits/lenet/softmax/seed1", "results/digits/lenet/isomax/seed1"
STOPPED = "results/digits/lenet/dismax/seed1"  # has a checkpoint
TRAIN = "train.py --dataset digits --model lenet --epochs 2 --data-dir data --results-dir results --device cpu --method"
SCRIPTS = {
    "train": f"{TRAIN} softmax", "continue": f"{TRAIN} dismax --checkpoint-seconds 0",
    "evaluate": f"evaluate.py {RUN} --data-dir data --device cpu",
    "analyze": "analyze.py --results-dir results", "report": "analyze.py --results-dir results --report",
    "detect": f"detect.py {RUN} photo.png --device cpu",
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
    "report": [f"{RUN}/{name}" for name in ("logits/digits.npz", "log.csv")],
    "detect": [f"{RUN}/{name}" for name in ("config.json", "weights.pt", "calibration.json")] + ["photo.png"],
}


class Executed:
    """A pickle that leaves a file where it is loaded."""

    def __reduce__(self):
        return exec, ("open('executed', 'w').close()",)


def flip(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1:]


DAMAGES = {
    "empty": lambda content, rng: b"",
    "first byte only": lambda content, rng: content[:1],
    "cut": lambda content, rng: content[: len(content) // 2],
    "last byte lost": lambda content, rng: content[:-1],
    "zeros inside": lambda content, rng: content[: len(content) // 3] + b"\0" * 64 + content[len(content) // 3 + 64:],
    "a bit flipped": flip,
    "doubled": lambda content, rng: content * 2,
    "a list": lambda content, rng: b"[1, 2]",
    "text": lambda content, rng: "no file of ours, \xfcmlaut".encode("latin-1"),
    "a pickle": lambda content, rng: pickle.dumps(Executed()),
    "a pickle in a zip": lambda content, rng: zipped_pickle(),
    "28 TB announced": lambda content, rng: zipped_array((1 << 30, 28 << 10)),
    "an array of objects": lambda content, rng: zipped_pickled_array(),
    "NaN": lambda content, rng: re.sub(rb"\d+\.\d+", b"NaN", content) if content.isascii() else nan_state(content),
    "a folder": None, "missing": None, "the other run's": None, "a link to itself": None, "spaces": lambda c, r: b" \n",
    "nested": lambda content, rng: b"[" * 100_000,
}


def zipped_pickle():
    """What torch.save writes of an object that is no tensor."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(Executed(), buffer)
    return buffer.getvalue()


def zipped_array(shape):
    """An .npz file whose header says so much."""
    import io
    import zipfile

    import numpy as np

    buffer, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("images", "labels", "logits", "positions", "source", "unreadable"):
            archive.writestr(f"{name}.npy", header.getvalue() + b"12")
    return buffer.getvalue()


def zipped_pickled_array():
    import io

    import numpy as np

    buffer = io.BytesIO()
    objects = np.array([Executed()], dtype=object)
    np.savez(buffer, **dict.fromkeys(("images", "labels", "logits", "positions", "source", "unreadable"), objects))
    return buffer.getvalue()


def nan_state(content):
    """A state dict's first tensor becomes NaN; other files stay as they are."""
    import io

    import torch

    try:
        state = torch.load(io.BytesIO(content), weights_only=True)
        next(tensor for tensor in state.values() if torch.is_tensor(tensor)).fill_(torch.nan)
    except Exception:
        return content
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class Matrix:
    """The undamaged folder, and one copy of it for each cell."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.whole = self.folder / "whole"
        self.whole.mkdir()
        self.run("data/prepare.py --for digits --data-dir data", self.whole)
        for method in ("softmax", "isomax"):
            self.run(f"{TRAIN} {method}", self.whole)
        self.run(f"evaluate.py {RUN} {OTHER} --data-dir data --device cpu", self.whole)
        self.stopped_run()
        from PIL import Image

        Image.new("RGB", (40, 30), (200, 90, 20)).save(self.whole / "photo.png")
        self.expected = {}

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
        words = [str(folder / word) if word.split("/")[0] in ("data", "results", "photo.png") and ".py" not in word
                 else word for word in words.split()]
        return forked.run(words, ROOT, timeout=300)

    def cell(self, script, path, damage, rng):
        """"" when the promise is kept, else how it was broken."""
        folder = self.copy()
        try:
            target = folder / path
            content = target.read_bytes()
            if DAMAGES[damage] is None:
                target.unlink()
            if damage == "a folder":
                target.mkdir()
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
            said = done.stderr.strip()
            return "" if said and len(said) < 1500 else f"SILENT exit with status {done.returncode}"
        if script == "evaluate" and "not prepared: " in done.stdout:
            return ""  # an OOD set is named and left out
        try:
            if result_of(script, folder, done.stdout) == self.undamaged(script):
                return ""
        except Exception as error:
            return f"NO RESULT, and not a word: {error!r}"[:150]
        if script in ("analyze", "report") and re.search("Left out: ", done.stdout):
            return ""  # said under the table
        return "ANOTHER RESULT, and not a word"


def result_of(script, folder, stdout):
    """What a script is for: tables, metrics, weights, answers."""
    if script in ("analyze", "report"):
        return {path.name: path.read_bytes() for path in sorted((folder / "results/tables").glob("*.md"))}
    if script == "evaluate":
        return (folder / RUN / "metrics.csv").read_bytes()
    if script == "detect":
        return stdout.replace(str(folder), "")
    import torch

    run = folder / (RUN if script == "train" else STOPPED)
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
