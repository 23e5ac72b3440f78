"""Benches of several processes, compiled steps and whole commands; and where their results are put."""
import functools
import json
import os
import signal
import subprocess
import sys
import types

import pytest
import torch
from conftest import ROOT, script
from test_benchmarks import CPU, MACHINE
from test_devices_shared import MPS, TWO_GPUS, with_commands  # noqa: F401  a fixture

from benchmarks import commands, processes, report, run, step_options, training
from benchmarks.side_by_side import side_by_side
from benchmarks.workload import Case, Workload, run_of
from utils import run_dir
from utils.io import UserError

ENVIRONMENT = {"commit": "0123456789abcdef", "uncommitted_changes": False, "torch": "2.14"}


# ---- several processes ----

# what a process makes, of the standard library alone, so that it starts at once
TEN_IMAGES = functools.partial(tuple, (functools.partial(int, 10), int))
FAILING = functools.partial(int, "no memory")
KILLED = functools.partial(signal.raise_signal, signal.SIGKILL)


def test_processes_are_timed_side_by_side():
    found = side_by_side(TEN_IMAGES, 2, 0.3)
    assert len(found) == 2
    for images, seconds in found:
        assert images >= 10 and images % 10 == 0 and 0.3 <= seconds < 10


@pytest.mark.parametrize(("make", "reason"), [
    (FAILING, "process . of 2 failed: invalid literal.*'no memory'"), (KILLED, "process . of 2 failed: it was killed")])
def test_a_process_that_fails_stops_the_others_and_is_named(make, reason):
    with pytest.raises(RuntimeError, match=reason):
        side_by_side(make, 2, 60)


def test_two_runs_side_by_side_on_a_cpu():
    """The code that a GPU runs, with two processes of one thread."""
    found = processes.in_processes("LeNet, MNIST's size", 2, CPU, 0.2, 16, 1)
    assert len(found["processes"]) == 2 and found["mps"] is False
    assert found["images_per_second"] == pytest.approx(sum(images / seconds for images, seconds in found["processes"]))
    assert all(images >= 16 and images % 16 == 0 for images, _ in found["processes"])


def test_rows_of_a_cpu_say_what_a_second_run_adds(monkeypatch):
    monkeypatch.setattr(processes, "in_processes", lambda title, count, *rest: {
        "images_per_second": {1: 100, 2: 150}[count], "mps": False})
    row, = processes.case_rows("LeNet, MNIST's size", (1, 2), MACHINE, CPU, False)
    assert row["what"] == "2 runs side by side, LeNet, MNIST's size, B = 128"
    assert row["ratio"] == 1.5 and row["rounds"] == 3 and row["baseline"] == "one run" and row["threads"] == 1


def test_processes_on_a_gpu_get_mps_where_it_can_be_started(with_commands, monkeypatch, tmp_path):  # noqa: F811
    """Python and the daemon are stood in for. Each number of processes is one command with so many slots; one that
    fails is a row that says why."""
    env = with_commands(nvidia_smi=TWO_GPUS, nvidia_cuda_mps_control=MPS, python=f"""
for word in "$@"; do [ "$last" = --count ] && count=$word; last=$word; done
echo "$count $RUNS_PER_GPU $CUDA_VISIBLE_DEVICES" >> {tmp_path}/asked
[ $count = 10 ] && echo "processes.py: process 7 of 10 failed: CUDA out of memory" >&2 && exit 1
mps=$([ -e $TMPDIR/mps-runs ] && echo true || echo false)
echo '{{"images_per_second": '$((count * 100))', "processes": [], "mps": '$mps'}}'
""")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setattr(processes, "visible_name", lambda device: "GPU-two")
    workload = Workload(processes.CASES["ResNet-20"], CPU, 2, 1)
    monkeypatch.setattr(processes, "Workload", lambda *arguments: workload)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    rows = list(processes.case_rows("ResNet34", (1, 2, 5, 10), MACHINE, torch.device("cuda"), True))
    assert (tmp_path / "asked").read_text().split("\n")[:4] == [f"{n} {n} GPU-two" for n in (1, 2, 5, 10)]
    assert (tmp_path / "mps").read_text().split() == ["start", "[]", "quit"] * 3
    assert [row["values"]["ours"] for row in rows[:3]] == [100, 200, 500] and rows[2]["ratio"] == 5
    assert rows[0]["what"].startswith("1 runs side by side, R") and "by MPS" in rows[2]["what"]
    assert rows[2]["target"] == {"of_roofline": 0.6} and rows[2]["of_roofline"] > 0
    assert rows[3]["not_measured"] == "processes.py: process 7 of 10 failed: CUDA out of memory"


# ---- compiled steps, and commands ----

LENET = Case("LeNet, MNIST's size", "mnist", "lenet", "dismax", (8, 1), (8, 1))


def test_what_cannot_be_compiled_is_a_row_that_says_why(monkeypatch):
    class NoCompiler(Workload):
        def train(self):
            if self.options.compiled:
                raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nand more")
            return super().train()
    monkeypatch.setattr(step_options, "Workload", NoCompiler)
    monkeypatch.setattr(step_options, "CASES", [LENET])
    monkeypatch.setattr(step_options, "SMALLEST", LENET)
    with_bf16, compiled = step_options.run(MACHINE, CPU, False)
    assert compiled["not_measured"] == "InvalidCxxCompiler: no working C++ compiler found"
    assert with_bf16["what"] == "training step with --bf16, LeNet, MNIST's size, B = 8" and with_bf16["ratio"] > 0
    assert with_bf16["baseline"] == "float32" and with_bf16["target"] == {"ratio": 1.3}
    *_, compiled = step_options.run(MACHINE, CPU, True)
    assert compiled["not_measured"].endswith("only without QUICK")


@pytest.mark.parametrize(("native", "expected"), [(False, [LENET.title]), (True, [LENET.title, "ResNet-20"])])
def test_where_bfloat16_is_emulated_one_row_says_why_it_is_off(monkeypatch, native, expected):
    monkeypatch.setattr(step_options, "SMALLEST", LENET)
    monkeypatch.setattr(step_options, "CASES", [LENET, processes.CASES["ResNet-20"]])
    monkeypatch.setattr(step_options.devices, "multiplies_bfloat16", lambda device: native)
    assert [case.title for case in step_options.cases_of("--bf16", CPU, True)] == expected
    assert len(step_options.cases_of("--compile", CPU, True)) == 2


def test_analyze_reads_runs_that_were_made_up(tmp_path):
    """Copies of two real runs under every method's name, with times of their own: analyze.py lists them all."""
    commands.copy_runs(commands.TEMPLATES, tmp_path, 15)
    script("analyze.py", "--results-dir", tmp_path)
    assert len((tmp_path / "tables/runs.csv").read_text().splitlines()) == 1 + 15


def test_a_command_that_fails_is_not_timed():
    assert commands.seconds_of([sys.executable, "-c", ""]) > 0
    with pytest.raises(RuntimeError, match="no such run"):
        commands.seconds_of([sys.executable, "-c", "import sys; sys.exit('no such run')"])


def test_rows_of_a_command_that_is_repeated():
    row = commands.row("make demo again", [2, 4, 3], 12)
    assert (row["values"], row["ratio"], row["ratio_min"], row["ratio_max"]) == (
        {"ours": 3, commands.FIRST: 12}, 4, 3, 6)
    assert "baseline" not in commands.row("analyze.py", [1])


# ---- what is written ----

def a_row(**changes):
    row = {"what": "a step", "unit": "images/s", "baseline": "theirs", "values": {"ours": 1234.5, "theirs": 4.321},
           "ratio": 2, "ratio_min": 1, "ratio_max": 3, "target": {"ratio": 1.5}, "of_matrix_rate": 0.456, **changes}
    return report.complete(row, row.pop("bench", "head"), MACHINE, ENVIRONMENT)


def test_every_row_says_baseline_threads_device_and_commit(monkeypatch):
    monkeypatch.setattr(report, "load_average", lambda: 0.5)
    assert report.cells(a_row()) == ["a step", "1,234 images/s", "4.32 images/s, theirs", "2× (1–3)", "≥ 1.5×",
                                     "46%", "", "some chip, 2 threads, 0123456"]
    assert report.cells(a_row(threads=1))[-1] == "some chip, 1 thread, 0123456"
    assert report.cells(a_row(not_measured="needs a GPU"))[1] == "not measured: needs a GPU"
    row = a_row(baseline=None, ratio=None)
    assert report.cells(row)[2:4] == ["none", ""] and row["baseline"] is None
    assert {"bench", "device", "threads", "commit", "torch", "load", "baseline"} <= row.keys()
    changed = report.complete(a_row(), "head", MACHINE, {**ENVIRONMENT, "uncommitted_changes": True})
    assert changed["commit"] == "0123456"  # a row that has been measured keeps its own
    assert report.complete({}, "head", MACHINE, {**ENVIRONMENT, "uncommitted_changes": True})["commit"] == (
        "0123456 with changes")
    monkeypatch.setattr(report, "load_average", lambda: 100.2)
    assert report.cells(a_row())[-1].endswith("beside other work: load 100")


@pytest.mark.parametrize(("target", "words"), [
    ({"ratio": 1.5}, "≥ 1.5×"), ({"ratio": 2.5}, "≥ 2.5×, missed"), ({"ratio": None}, ""), ({}, ""),
    ({"of_matrix_rate": 0.4}, "≥ 40% of the matrix rate"), ({"of_roofline": 0.6}, "≥ 60% of the roofline, missed")])
def test_a_target_that_is_missed_is_shown_so(target, words):
    assert report.target(a_row(target=target, of_roofline=0.3)) == words


def test_rows_measured_again_take_the_place_of_the_old_ones(tmp_path):
    path = tmp_path / "chip.md"
    for bench, what in (("scoring", "metrics"), ("head", "a head"), ("scoring", "metrics again")):
        report.merge(path, [a_row(bench=bench, what=what)], list(run.BENCHES), MACHINE, ENVIRONMENT)
    rows = json.loads((tmp_path / "chip.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["a head", "metrics again"]
    assert path.read_text().count("\n| ") == 2 + 1 and "## " not in path.read_text()


@pytest.mark.parametrize("quick", ["1", ""])
def test_quick_results_never_land_in_a_tracked_folder(tmp_path, monkeypatch, capsys, quick):
    bench = types.SimpleNamespace(run=lambda machine, device, quick: [{"what": "a step", "not_measured": "a test"}])
    monkeypatch.setattr(run, "BENCHES", {"head": bench})
    monkeypatch.setattr(run, "measure", lambda device: MACHINE)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setenv("QUICK", quick)
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr(sys, "argv", ["run.py"])
    run.main()
    folder = "results/bench" if quick else "benchmarks/results"
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        f"{folder}/cpu-some-chip-2-threads.{suffix}" for suffix in ("json", "md")]
    assert f"Written to {tmp_path / folder}" in capsys.readouterr().out
    ignored = subprocess.run(["git", "check-ignore", "-q", f"{folder}/anything.json"], cwd=ROOT).returncode == 0
    assert ignored == bool(quick)


def test_committed_results_say_where_each_row_was_measured():
    files = sorted((ROOT / "benchmarks/results").iterdir())
    assert files and not [path for path in files if "quick" in path.name]
    for path in files:
        if path.suffix == ".json":
            content = run_dir.read_json(path)
            checked = [row for part in content.get("parts", ()) if part["part"].startswith("bench")
                       for row in part.get("lines", ())]  # of make gpu-check
            rows = checked or content["rows"]
            for row in rows:
                assert row["device"] and row["threads"] and row["commit"] and "baseline" in row, row["what"]
            assert checked or report.table(content["rows"], "github") in path.with_suffix(".md").read_text()


def test_an_unknown_bench_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "speed"])
    with pytest.raises(UserError, match="there is no bench 'speed': choose from input, head"):
        run.main()


def test_a_case_takes_the_recipes_batch_on_a_gpu():
    case = training.CASES[0]
    assert case.size(torch.device("cuda"), False)[0] == run_of("cifar10", "resnet34", "dismax").recipe.batch_size
    assert case.size(CPU, True) == case.small


# ---- threads ----

@pytest.mark.parametrize(("given", "policy", "threads"), [
    ({}, "PASSIVE", "None"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", "None"),
    ({"MAKEFLAGS": " -j10000 --jobserver-auth=3,4"}, "PASSIVE", "1"), ({"MAKEFLAGS": "-j1"}, "PASSIVE", "all"),
    ({"MAKEFLAGS": "-j0"}, "PASSIVE", "None"),
    ({"MAKEFLAGS": "k -- SEEDS=1"}, "PASSIVE", "None"),
    ({"MAKEFLAGS": "-j10000", "OMP_NUM_THREADS": "3"}, "PASSIVE", "3")])
def test_threads_wait_without_spinning_and_jobs_share_the_cores(monkeypatch, given, policy, threads):
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", "import utils.threads, os; print(os.environ['OMP_WAIT_POLICY'], "
                           "os.environ.get('OMP_NUM_THREADS'))"], cwd=ROOT, env={**os.environ, **given},
                          capture_output=True, text=True, check=True)
    everything = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    assert done.stdout.split() == [policy, everything if threads == "all" else threads]


@pytest.mark.parametrize("path", ["train.py", "evaluate.py", "detect.py", "benchmarks/run.py",
                                  "benchmarks/processes.py", "benchmarks/gpu_check.py"])
def test_every_script_sets_threads_before_torch_is_loaded(path):
    lines = (ROOT / path).read_text().splitlines()
    names = [line.split()[1] for line in lines if line.startswith(("import ", "from "))]
    ours = {"utils.threads", *(name for name in names if name.split(".")[0] in (
        "torch", "torchvision", "data", "engine", "losses", "metrics", "models", "benchmarks"))}
    assert next(name for name in names if name in ours) == "utils.threads"
