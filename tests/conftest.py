"""Prepared digits and a finished run or two, made once for all tests that look at them; official files in miniature;
runs with made-up metrics."""
import csv
import io
import tarfile
import zipfile
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from zlib import crc32

import forked
import pytest
import torch

from data.datasets import CATALOG
from data.loaders import TrainLoader
from data.sources import download
from data.sources.plan import files_of
from data.sources.registry import SOURCES
from engine import checkpoint
from recipes import method_of, name_of, recipe_of
from utils import run_dir
from utils.run_dir import Run

ROOT = Path(__file__).resolve().parents[1]


def script(*words, cwd=ROOT, check=True, **options):
    """Run one of our scripts as a user does; returns the finished process, its two outputs as text."""
    done = forked.run([str(word) for word in words], cwd, **options)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def printed(folder, *words):
    return script("analyze.py", "--results-dir", folder, *words).stdout


def run_of(results_dir, loss="dismax_fpr", seed=1):
    return results_dir / f"digits/lenet/{loss}/seed{seed}"


def log_of(run):
    with open(run / "log.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    script("data/prepare.py", "--for", "digits", "--data-dir", folder)
    return folder


@pytest.fixture(scope="session")
def results_dir(tmp_path_factory, data_dir):
    """Two losses × two seeds on digits, shortened to three epochs, trained and evaluated."""
    folder = tmp_path_factory.mktemp("results")
    for loss in ("softmax", "dismax_fpr"):
        for seed in (1, 2):
            script("train.py", "--dataset", "digits", "--model", "lenet", "--loss", loss, "--seed", seed, "--epochs", 3,
                   "--data-dir", data_dir, "--results-dir", folder, "--device", "cpu")
    script("evaluate.py", *sorted(folder.glob("digits/lenet/*/seed*")), "--data-dir", data_dir, "--device", "cpu")
    return folder


def run_like(name, model="lenet", dataset="digits", choices=None, **recipe):
    """The Run of a method on a data set, with some choices of the method and fields of the recipe changed."""
    base, method = method_of(name)
    method = method.changed(**choices or {})
    changed = recipe_of(dataset, base, method, model).changed(**recipe)
    return Run(Path(), dataset, model, name_of(base, method), 1, method, changed)


def train_batches(images, batch_size, seed, epoch, padding, flip, start=0, members=1, per_class=0, rank=(0, 1)):
    """A TrainLoader's batches of an epoch."""
    recipe = SimpleNamespace(batch_size=batch_size, padding=padding, flip=flip, per_class=per_class)
    return TrainLoader(images, recipe, seed, members, rank).epoch(epoch, start)


def made_up_run(results_dir, dataset, model, method, seed, rows, overrides=None, log=None, **config):
    """The three files of an evaluated run that analyze.py reads, with metrics of our choice. Returns its folder.

    Args:
        rows: (benchmark, dataset, ood_group, checkpoint, score, metric, value) and sometimes a note.
        log: a dict an epoch; by default 300 epochs of one accuracy. config: entries of config.json.
    """
    run = run_dir.run_folder(results_dir, dataset, model, method, seed)
    seconds = crc32(str(run).encode()) / 1e9  # no two runs ever took the same time
    log = log or [{"epoch": epoch, "selection_acc": 0.5, "seconds": seconds} for epoch in range(1, 301)]
    try:
        members = method_of(method)[1].members
    except ValueError:  # a method of nobody
        members = 1
    run_dir.write_json(run / "config.json", {
        "run": {"dataset": dataset, "model": model, "method": method, "seed": seed}, "method": {"members": members},
        "recipe": {"epochs": len(log)}, "overrides": overrides or {}, "parameters": 1, "selection_split": "validation",
        "last_accuracy": log[-1]["selection_acc"], "best_accuracy": log[0]["selection_acc"], "best_epoch": 1,
        "train_seconds": 50, "wall_clock_seconds": 60,
        "sessions": [{"device": "made up", "torch": "0", "commit": "0"}], **config})
    run_dir.write_log(run, log)
    if rows:  # no two runs ever had the same metrics
        rows = [*rows, ("", dataset, "id", "last", "", "made_up", seconds)]
    run_dir.write_metrics(run, rows)
    return run


@pytest.fixture(autouse=True)
def no_internet(monkeypatch):
    """Publishers are not asked by tests; a file's own address may lead to loopback."""
    hosts = {urlsplit(file.url).netloc for name in CATALOG for file in files_of(name)}
    monkeypatch.setattr(download, "_unreachable", dict.fromkeys(hosts, "tests do not use the internet"))


def tar_of(contents, mode="w:gz"):
    """The bytes of a tar archive of {path: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for path, content in contents.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(contents):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def put(folder, contents, *paths):
    for path in paths or contents:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(contents[path])


@pytest.fixture
def official(monkeypatch):
    """Put bytes in the place of a set's official files: the registry's checksums become theirs. Returns path → bytes.

    files: split → the bytes of its parts; archive: the bytes of its archive, by default a tar of the parts.
    """
    def become(name, files=None, archive=None, **changes):
        source, contents = SOURCES[name], {}
        parts = {}
        for split, ours in (files or {}).items():
            parts[split] = [replace(part, md5=md5(content).hexdigest(), raw_md5="")
                            for part, content in zip(source.parts[split], ours)]
            contents |= {part.path: content for part, content in zip(parts[split], ours)}
        packed = source.archive
        if packed:
            contents[packed.path] = archive or tar_of(contents)
            packed = replace(packed, md5=md5(contents[packed.path]).hexdigest(), size=len(contents[packed.path]),
                             url="http://127.0.0.1:9/nothing")
        monkeypatch.setitem(SOURCES, name, replace(source, archive=packed, parts=parts or source.parts))
        monkeypatch.setitem(CATALOG, name, replace(CATALOG[name], **changes))
        return contents
    return become


def same_states(a, b):
    """Bit for bit, of two files; a NaN is like a NaN."""
    a, b = checkpoint.load_state(a), checkpoint.load_state(b)
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(), b[k].nan_to_num()) for k in a)
