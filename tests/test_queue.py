"""The queue makes missing runs, one after the other, copies their records, and can be stopped and started twice."""
import json
import shutil
import subprocess
import time

import forked
import pytest
from conftest import ROOT

from run_scripts.run_queue import QUEUE, read_queue, state_table
from utils.io import UserError
from utils.lock import locked

LINES = """# two methods, and a changed recipe
digits lenet softmax isomax 1-2 cpu short: --epochs 1
digits lenet softmax 1-1 cpu flip: --epochs 1 --flip
digits lenet dismax 1-1 gpu
"""


@pytest.fixture
def queue(tmp_path):
    (tmp_path / "queue.txt").write_text(LINES)
    return tmp_path / "queue.txt"


def start(queue, data_dir, *more):
    (queue.parent / "results").mkdir(exist_ok=True)
    return forked.start(["run_scripts/run_queue.py", "--queue", queue, "--results", queue.parent / "results",
                         "--data-dir", data_dir, *more], ROOT)


def said_by(process):
    assert process.poll(600) is not None, process.output()
    return process.output()


def test_the_queue_of_this_repository_can_be_read():
    jobs = [job for _, part in read_queue(QUEUE) for job in part]
    assert len(set(jobs)) == len(jobs) and {job.dataset for job in jobs} >= {"mnist", "cifar10", "imagenet1k"}


def test_a_line_that_cannot_be_read_is_shown(tmp_path):
    (tmp_path / "queue").write_text("mnist lenet de 1 cpu\n")
    with pytest.raises(UserError, match="cannot be read: 'mnist lenet de 1 cpu'"):
        read_queue(tmp_path / "queue")


def test_missing_runs_are_made_in_order_and_two_queues_share_them(queue, data_dir):
    """One is stopped on the way; what it was at continues. Rows that need a GPU are left."""
    results, reference = queue.parent / "results", queue.parent / "results/reference"
    first = start(queue, data_dir, "--jobs", 1)
    while not (reference / "short/digits/lenet/softmax/seed1/metrics.csv").exists():
        time.sleep(0.1)
        assert first.poll() is None, first.output()
    first.kill()
    first.wait()
    while subprocess.run(["pkill", "-KILL", "-f", f"results-dir {results}"]).returncode == 0:
        time.sleep(0.1)
    with locked(results / "short/digits/lenet/isomax/seed1", wait=True):
        pass  # what it was at has ended
    both = [start(queue, data_dir, "--jobs", 1) for _ in range(2)]
    said = [said_by(process) for process in both]
    assert all(process.returncode == 0 for process in both), said
    done = sorted(str(path.parent.relative_to(reference)) for path in reference.rglob("metrics.csv"))
    assert done == ["flip/digits/lenet/softmax/seed1", *(
        f"short/digits/lenet/{method}/seed{seed}" for method in ("isomax", "softmax") for seed in (1, 2))]
    for run in done:
        assert sorted(path.name for path in (reference / run).iterdir()) == ["config.json", "log.csv", "metrics.csv"]
    changed = json.loads((reference / done[0] / "config.json").read_text())
    assert changed["recipe"]["flip"] is True and changed["overrides"]["flip"] == {"published": False, "used": True}
    table = state_table(read_queue(queue), reference)
    assert [line.split("|")[-2].strip() for line in table.splitlines()[2:]] == ["all", "all", "0 of 1"]
    again = start(queue, data_dir)
    assert said_by(again).count("begins") == 0 and again.returncode == 0


def test_a_run_that_fails_does_not_stop_the_others(queue, data_dir):
    results = queue.parent / "results"
    broken = results / "digits/lenet/softmax/seed1"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    queue.write_text("digits lenet softmax 1-1 cpu\ndigits lenet isomax 1-1 cpu short: --epochs 1\n")
    process = start(queue, data_dir, "--jobs", 1)
    said = said_by(process)
    assert process.returncode == 1 and "these runs failed" in said
    assert "digits/lenet/softmax/seed1: exit status 1" in said
    assert (results / "reference/short/digits/lenet/isomax/seed1/metrics.csv").exists()
    assert "config.json is damaged" in (results / "queue.log").read_text()
    shutil.rmtree(broken)
