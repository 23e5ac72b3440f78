"""Prepared digits and a finished run or two, made once for all tests that look at them."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def script(*words, cwd=ROOT, check=True, **options):
    """Run one of our scripts as a user does; returns the finished process, its two outputs as text."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


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
