"""make gpu-check: what it compares, and what it says of parts that fail. On a CPU stand-ins take the GPU's place."""
import functools
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_benchmarks import CPU
from test_cuda_graph import StandIn, corrupted
from test_devices_shared import MPS, with_commands  # noqa: F401

from benchmarks import forms, gpu_check, report, workload
from engine import devices, train_step
from engine.train_step import ExecutionOptions, TrainStep, compile_loss
from utils.io import UserError

LENET = workload.Case("LeNet", "digits", "lenet", "dismax_fpr", (8, 1), (8, 1))


# ---- what is compared ----

def forms_of(monkeypatch, record=StandIn, usual=ExecutionOptions(bf16=True, graphs=True), **options):  # noqa: B008
    monkeypatch.setattr(workload, "execution_options", lambda *arguments, **named: usual)
    monkeypatch.setattr(workload, "TrainStep", functools.partial(TrainStep, record=record))
    return {found.pop("form"): found for found in forms.check_step(LENET, CPU, batch=16, **options)}


def test_all_forms_of_a_step_make_the_same_update(monkeypatch):
    """A recorded step, which on a CPU is the step itself, makes the eager one's bits; bfloat16 is near float32."""
    found = forms_of(monkeypatch)
    assert list(found) == ["eager, float32", "eager, bfloat16", "recorded, float32", "recorded, bfloat16"]
    assert not any(form["wrong"] for form in found.values())
    assert found["recorded, float32"]["update_differs_by"] == found["recorded, bfloat16"]["update_differs_by"] == 0
    assert found["recorded, bfloat16"]["steps"] == "graphed"
    assert 0 < found["eager, bfloat16"]["loss_differs_by"] < 0.02


def test_a_recording_that_is_given_up_is_a_fault(monkeypatch):
    found = forms_of(monkeypatch, corrupted(lambda step: step.training_loss.model.fc.bias.add_(1)))
    wrong = found["recorded, float32"]["wrong"]
    assert "recorded, float32: eager: a replay differed from the step (fc.bias differs" in wrong
    assert not found["eager, bfloat16"]["wrong"]


def test_a_recording_that_errs_after_its_check_is_found(monkeypatch):
    class Late(StandIn):
        def replay(self, batch):
            super().replay(batch)
            if self.replays > 1:
                with torch.no_grad():
                    self.function.__self__.training_loss.model.fc.weight.add_(0.01)
    found = forms_of(monkeypatch, Late)["recorded, float32"]
    assert found["steps"] == "graphed"
    assert re.match(r"LeNet, recorded, float32 differs by \S+ of the eager update, allowed are 0.1", found["wrong"])


@pytest.mark.parametrize("factor", [1, 1.5, float("nan")])
def test_a_compiled_loss_that_is_another_is_found(monkeypatch, factor):
    def compiled(training_loss):
        found = compile_loss(training_loss, "aot_eager")
        return lambda *batch: factor * found(*batch)
    monkeypatch.setattr(train_step, "compile_loss", compiled)
    found = forms_of(monkeypatch, compiled=True)
    assert list(found)[-2:] == ["compiled, float32", "compiled and recorded, float32"]
    assert [bool(form["wrong"]) for form in found.values()] == [False, False, *[factor != 1] * 2]
    assert found["compiled and recorded, float32"]["steps"] == "graphed"


def test_a_cpu_is_checked_in_the_form_that_it_has(monkeypatch):
    form, = forms.check_step(LENET, CPU, batch=8)
    assert form["steps"].startswith("eager") and form["bytes"] is None and form["loss"] > 0


def test_evaluation_is_compared_with_the_cpus(monkeypatch):
    monkeypatch.setattr(devices, "turn_off_tf32", lambda: None)  # the process's state stays
    found = forms.check_evaluation(CPU, "resnet20", 4)
    assert found["differs_by"] == 0 and not found["wrong"] and 1e-4 < found["bfloat16_differs_by"] < 0.1
    calls = iter((1, 1.01, 1))

    def scaled(*arguments, forward=forms.forward):
        outputs = forward(*arguments)
        outputs.logits[:] *= next(calls)
        return outputs
    monkeypatch.setattr(forms, "forward", scaled)
    assert forms.check_evaluation(CPU, "resnet20", 4)["wrong"].startswith("evaluation in float32 differs by 0.01 of")


def test_steps_are_compared_without_tf32(monkeypatch):
    order = []
    monkeypatch.setattr(devices, "turn_off_tf32", lambda: order.append("no TF32"))
    monkeypatch.setattr(forms, "check_step", lambda case, device, compiled: order.append((case.title, compiled)) or [])
    for part in ("step: 5 LeNets, DICE", "step with --compile: ResNet34"):
        assert list(gpu_check.results_of(part, CPU)) == []
    assert order == ["no TF32", ("5 LeNets, DICE", False), "no TF32", ("ResNet34", True)]


def test_every_test_that_needs_a_gpu_runs():
    files, expression = gpu_check.TESTS[:-2], gpu_check.TESTS[-1].split(" or ")
    skipped = {}
    for path in (ROOT / "tests").glob("test_*.py"):
        text = path.read_text()
        names = re.findall(r'@(?:on_a_gpu|pytest\.mark\.skipif\([^\n]*"needs a GPU"\))\n(?:@.*\n)*def (\w+)', text)
        skipped |= dict.fromkeys(names, f"tests/{path.name}")
    assert len(skipped) >= 4 and set(skipped.values()) == set(files)
    assert all(any(word in name for word in expression) for name in skipped)


# ---- what is said ----

def test_without_a_gpu_one_sentence_is_said(monkeypatch):
    monkeypatch.setattr(devices, "default_device", lambda: CPU)
    monkeypatch.delenv("DEVICE", raising=False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    with pytest.raises(UserError, match="there is no GPU here that PyTorch .* can use, so nothing was checked"):
        gpu_check.main()


def checked(monkeypatch, tmp_path, parts, seconds=600):
    """(exit status, what the file says) of some parts whose results are given."""
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "run_part", lambda name, limit, device: {
        "part": name, "seconds": 1, "lines": [], **parts[name]})
    status = gpu_check.run_parts(CPU, dict.fromkeys(parts, 60), seconds)
    path, = (tmp_path / "results").glob("gpu-check-*.json")
    return status, json.loads(path.read_text())


def test_the_file_says_what_was_checked_and_on_what(monkeypatch, tmp_path, capsys):
    row = {"what": "a step", "bench": "head", "device": "some chip", "threads": 2, "commit": "0123456", "unit": "x/s",
           "not_measured": "a test"}
    status, content = checked(monkeypatch, tmp_path, {
        "tests": {"status": "ok", "reason": "9 passed"}, "bench: head": {"status": "ok", "reason": "", "lines": [row]}})
    assert status == 0 and [part["part"] for part in content["parts"]] == ["tests", "bench: head"]
    assert {"commit", "torch", "device", "multiplies_bfloat16"} <= content.keys()
    said = capsys.readouterr().out
    assert "ok           tests: 9 passed" in said and "a step" in said and "measured:" in said
    assert "0 of 2 parts failed" in said and "Please send results/gpu-check-" in said


def test_a_part_that_fails_is_named_and_the_others_still_run(monkeypatch, tmp_path, capsys):
    status, content = checked(monkeypatch, tmp_path, {
        "evaluation": {"status": "failed", "reason": "it differs"}, "tests": {"status": "ok", "reason": ""}})
    assert status == 1 and content["parts"][1]["status"] == "ok"
    assert "1 of 2 parts failed: evaluation" in capsys.readouterr().out


def test_the_same_command_goes_on_where_the_time_ended(monkeypatch, tmp_path, capsys):
    good, bad = {"status": "ok", "reason": ""}, {"status": "failed", "reason": "it differs"}
    checked(monkeypatch, tmp_path, {"tests": good, "evaluation": bad})
    status, content = checked(monkeypatch, tmp_path, {"tests": bad, "evaluation": good, "bench: head": good})
    assert status == 0 and {part["part"]: part["status"] for part in content["parts"]} == {
        "tests": "ok", "evaluation": "ok", "bench: head": "ok"}  # the tests were not repeated
    assert "1 parts are in results/gpu-check-" in capsys.readouterr().out
    monkeypatch.setattr(gpu_check, "environment", lambda: {"commit": "another"})
    assert checked(monkeypatch, tmp_path, {"tests": bad})[0] == 1


def test_parts_that_are_not_timed_run_at_once_and_are_told_in_order(monkeypatch, tmp_path):
    """Four parts, three at a time; benches one at a time. More never run at once than there are cores for."""
    now, most, lock = [], {}, threading.Lock()

    def run_part(name, limit, device):
        with lock:
            now.append(name)
            most[name.split()[0]] = max(len(now), most.get(name.split()[0], 0))
        time.sleep(0.3 if name.endswith("1") else 0.2)
        with lock:
            now.remove(name)
        return {"part": name, "status": "ok", "reason": "", "lines": []}
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "run_part", run_part)
    monkeypatch.setattr(gpu_check, "free_memory", lambda device: 40e9)
    monkeypatch.setattr(gpu_check, "cores", lambda: 16)
    names = [f"step {k}" for k in range(1, 5)] + ["bench: 1", "bench: 2"]
    gpu_check.run_parts(CPU, dict.fromkeys(names, 60), 600)
    path, = (tmp_path / "results").glob("gpu-check-*.json")
    assert [part["part"] for part in json.loads(path.read_text())["parts"]] == names
    assert most == {"step": 3, "bench:": 1}
    assert [gpu_check.at_once(memory) for memory in (0, 8e9, 12e9, 85e9, 1e13)] == [1, 1, 1, 7, 8]


def test_ctrl_c_ends_all_parts_that_run(monkeypatch, tmp_path):
    as_python(monkeypatch, tmp_path, f"echo $$ >> {tmp_path}/parts; exec sleep 60")
    started = time.monotonic()

    def interrupt():
        while not (tmp_path / "parts").exists() or len((tmp_path / "parts").read_text().split()) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            list(gpu_check.results_in_order(["a", "b", "c"], dict.fromkeys("abc", 50), time.monotonic() + 50, 2, CPU))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 30
    assert not any(is_running(int(pid)) for pid in (tmp_path / "parts").read_text().split())


def test_what_there_is_no_time_for_is_named(monkeypatch, tmp_path, capsys):
    status, content = checked(monkeypatch, tmp_path, {"tests": {"status": "ok", "reason": ""}}, seconds=1)
    assert status == 0 and content["parts"][0]["status"] == "not checked"
    assert "Not checked for lack of time: tests" in capsys.readouterr().out


# ---- a part as a process ----

def as_python(monkeypatch, tmp_path, script):
    """Have a shell script take Python's place in a part."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(("script", "status", "reason"), [
    ("""echo warming up; echo '{"form": "eager", "wrong": ""}'""", "ok", ""),
    ("""echo '{"form": "eager", "wrong": "it differs"}'""", "failed", "it differs"),
    ("echo Traceback >&2; echo 'RuntimeError: illegal memory access' >&2; exit 1", "failed",
     "RuntimeError: illegal memory access"),
    ("kill -SEGV $$", "failed", "exit status -11"),
])
def test_what_becomes_of_a_part(monkeypatch, tmp_path, script, status, reason):
    as_python(monkeypatch, tmp_path, script)
    part = gpu_check.run_part("evaluation", 60, CPU)
    assert (part["status"], part["reason"]) == (status, reason)
    assert part["lines"] == ([] if "form" not in script else [json.loads(script.split("echo ")[-1].strip("'"))])


def test_failing_tests_are_a_part_that_failed(monkeypatch, tmp_path):
    as_python(monkeypatch, tmp_path, "echo F.; echo 'FAILED tests/test_fast.py::test_a'; "
              "echo '1 failed, 1 passed in 2 s'; exit 1")
    part = gpu_check.run_part("tests", 60, CPU)
    assert (part["status"], part["reason"]) == ("failed", "1 failed, 1 passed in 2 s")
    assert part["lines"] == [{"pytest": "FAILED tests/test_fast.py::test_a"}, {"pytest": part["reason"]}]


def test_the_tests_see_the_chosen_gpu_only(monkeypatch, tmp_path):
    as_python(monkeypatch, tmp_path, 'echo "$CUDA_VISIBLE_DEVICES"')
    monkeypatch.setattr(gpu_check.processes, "visible_name", lambda device: f"GPU-{device.index}")
    assert gpu_check.run_part("tests", 60, torch.device("cuda:1"))["reason"] == "GPU-1"


def test_a_part_that_hangs_and_runs_several_processes_stops_mps(monkeypatch, tmp_path, with_commands):  # noqa: F811
    env = with_commands(nvidia_cuda_mps_control=MPS)
    for name, value in {**env, "CUDA_VISIBLE_DEVICES": "0", "RUNS_PER_GPU": "2"}.items():
        monkeypatch.setenv(name, value)
    as_python(monkeypatch, tmp_path, f"{ROOT}/run_scripts/on_free_gpu.sh sleep 60")
    assert gpu_check.run_part("evaluation", 2, CPU)["status"] == "not checked"
    assert (tmp_path / "mps").read_text().split() == ["start", "[]", "quit"]


def test_a_part_that_hangs_is_ended_with_all_that_it_started(monkeypatch, tmp_path):
    """What it has printed by then is kept."""
    as_python(monkeypatch, tmp_path, f"""echo '{{"form": "eager"}}'; sleep 60 & echo $! > {tmp_path}/child; wait""")
    started = time.monotonic()
    part = gpu_check.run_part("evaluation", 1, CPU)
    assert time.monotonic() - started < 30
    assert part["status"] == "not checked" and part["reason"] == "not done after 1 s"
    assert part["lines"] == [{"form": "eager"}]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid):
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_parts_are_named_and_fit_ten_minutes_in_order():
    assert {name.partition(": ")[0] for name in gpu_check.PARTS} == {
        "step", "step with --compile", "evaluation", "tests", "bench"}
    benches = {name.partition(": ")[2] for name in gpu_check.PARTS if name.startswith("bench")}
    assert benches <= set(gpu_check.run.BENCHES)
    assert list(gpu_check.PARTS)[-1].startswith("bench") and gpu_check.SECONDS == 600


def test_a_bench_as_a_part(monkeypatch):
    """Its rows are complete: where, with what and with which commit."""
    monkeypatch.setattr(gpu_check.machine, "measure", lambda device: gpu_check.machine.Machine(
        "cpu", "some chip", 1, {"float32": 1e12}, 1e10))
    monkeypatch.setitem(gpu_check.run.BENCHES, "head", type("bench", (), {
        "run": staticmethod(lambda machine, device, quick: [{"what": f"a step, quick {quick}"}])}))
    row, = gpu_check.results_of("bench: head", CPU)
    assert row["what"] == "a step, quick True" and {"commit", "threads", "device", "baseline"} <= row.keys()
    assert report.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
