"""However a batch is split, over ranks or into micro-batches, every method's run is the same run, up to rounding."""
import os

import pytest
import torch
from conftest import ROOT, script
from test_parallel import log_of
from train_all_methods import COMBINED

from engine import checkpoint
from recipes import METHODS

SPLITS = {"two ranks": (2, 0), "micro-batches": (1, 5), "two ranks, micro-batches": (2, 5), "three ranks": (3, 0)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every method's run by each of SPLITS, and by one process without micro-batches."""
    folder, env = tmp_path_factory.mktemp("methods"), {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for split, (ranks, micro_batch) in {"whole": (1, 0), **SPLITS}.items():
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        script(*launch, "tests/train_all_methods.py", folder / split, micro_batch, env=env)
    return folder


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", [*METHODS, *COMBINED])
def test_a_split_batch_gives_the_run_of_the_whole_batch(trained, name, split):
    """After two epochs: weights to nine digits, every column of the log to seven."""
    whole, parts = trained / "whole" / name, trained / split / name
    a, b = checkpoint.load_state(whole / "weights.pt"), checkpoint.load_state(parts / "weights.pt")
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[key], b[key], rtol=1e-9, atol=1e-10, equal_nan=True) for key in a)
    for ours, theirs in zip(log_of(whole), log_of(parts), strict=True):
        for column in set(ours) - {"seconds", "images_per_second"}:
            assert float(theirs[column]) == pytest.approx(float(ours[column]), rel=1e-7, abs=1e-10), column
