"""Make and the scripts hand devices out; GPUs and Slurm are stood in for by scripts of their names."""
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

PY = f"PY={sys.executable}"
BLOCK = ["DATASET=cifar10", "MODELS=resnet34", "LOSSES=isomax", "SEEDS=1 2", PY]


@pytest.fixture
def with_commands(tmp_path):
    """name=script, … → an environment in which those commands exist."""
    def make(**commands):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in commands.items():
            path = folder / name.replace("_", "-")
            path.write_text("#!/bin/sh\n" + text)
            path.chmod(0o755)
        env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("MAKE")}
        return {**env, "PATH": f"{folder}:{env['PATH']}", "TMPDIR": str(tmp_path)}
    return make


TWO_GPUS = 'case $1 in -L) echo "GPU 0: one"; echo "GPU 1: two" ;; *) echo GPU-one; echo GPU-two ;; esac\n'


@pytest.mark.parametrize(("words", "shared"), [(["DEVICE=cpu"], False), (["PROCESSES=2"], False), ([], True)])
def test_each_seed_is_its_own_command(with_commands, words, shared):
    """On a GPU each goes through the script that hands out slots; on the CPU and over several GPUs it does not."""
    done = subprocess.run(["make", "-n", "runs", *BLOCK, *words], cwd=ROOT, env=with_commands(nvidia_smi=TWO_GPUS),
                          capture_output=True, text=True, check=True)
    trained = [line.split() for line in done.stdout.splitlines() if "train.py" in line]
    assert [line[line.index("--seed") + 1] for line in trained] == ["1", "2"]
    assert ("on_free_gpu.sh" in done.stdout) == shared


def test_jobs_wait_for_a_gpu_of_their_own(with_commands, tmp_path):
    """Four jobs of half a second on two GPUs: each GPU has one at a time, both are used."""
    env = with_commands(nvidia_smi=TWO_GPUS)
    job = 'echo "$CUDA_VISIBLE_DEVICES $(date +%s.%N)"; sleep 0.5; date +%s.%N'
    jobs = [subprocess.Popen(["run_scripts/on_free_gpu.sh", "sh", "-c", job], cwd=ROOT, env=env, text=True,
                             stdout=subprocess.PIPE) for _ in range(4)]
    used = {}
    for process in jobs:
        gpu, begin, end = process.communicate(timeout=60)[0].split()
        used.setdefault(gpu, []).append((float(begin), float(end)))
    assert set(used) == {"GPU-one", "GPU-two"}
    for times in used.values():
        times.sort()
        assert all(end <= begin for (_, end), (begin, _) in zip(times, times[1:]))


@pytest.mark.parametrize(("visible", "given"), [("3", "3"), ("", "")])
def test_only_visible_gpus_are_handed_out(with_commands, visible, given):
    env = {**with_commands(nvidia_smi=TWO_GPUS), "CUDA_VISIBLE_DEVICES": visible}
    command = ["run_scripts/on_free_gpu.sh", "sh", "-c", 'echo "[$CUDA_VISIBLE_DEVICES]"']
    assert subprocess.check_output(command, cwd=ROOT, env=env, text=True) == f"[{given}]\n"


CARDS = """case $1 in *index,uuid,name*) echo "0, GPU-one-1, NVIDIA H100"; echo "1, GPU-two-2, NVIDIA %s" ;; esac\n"""


@pytest.mark.parametrize(("cards", "held", "asked", "given", "more"), [
    (CARDS % "H100", "0", "GPU-one-1,1", "1", {}), (CARDS % "H100", "GPU-one-1", "00,GPU-two-2", "GPU-two-2", {}),
    (CARDS % "H100", "GPU-tw", "1,0", "0", {}), (CARDS % "H100", "GPU-", "1", "1", {}),  # of two cards: of none
    (CARDS % "T4", "0", "GPU-one-1,1", "GPU-one-1", {}),  # whose CUDA puts the faster one first
    (CARDS % "T4", "0", "GPU-one-1,1", "1", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
    (CARDS % "H100", "MIG-one/7/0", "MIG-one/7/0,0", "0", {}), ("echo no driver; exit 9\n", "0", "0,1", "1", {}),
    ("echo no driver; exit 9\n", "GPU-one-1", "GPU-one-1,GPU-two-2", "GPU-two-2", {}), (None, "0", "0,1", "1", {})])
def test_a_card_is_handed_out_once_whatever_it_is_called(with_commands, cards, held, asked, given, more):
    """A number, a UUID and its beginning are one card. One of two cards is held under a name, and the other one is
    given, under the name that it was asked for."""
    env = {**with_commands(**({"nvidia_smi": cards} if cards else {})), **more}
    command = ["run_scripts/on_free_gpu.sh", "sh", "-c"]
    holder = subprocess.Popen([*command, "echo here; exec sleep 60"], cwd=ROOT, env={
        **env, "CUDA_VISIBLE_DEVICES": held}, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"here\n"
        other = [*command, 'echo "$CUDA_VISIBLE_DEVICES"'], {**env, "CUDA_VISIBLE_DEVICES": asked}
        assert subprocess.check_output(other[0], env=other[1], cwd=ROOT, text=True, timeout=30) == f"{given}\n"
    finally:
        holder.kill()
        holder.communicate()


def test_no_job_waits_where_all_gpus_are_hidden(with_commands):
    env = {**with_commands(nvidia_smi=TWO_GPUS), "CUDA_VISIBLE_DEVICES": "-1"}
    holder = subprocess.Popen(["run_scripts/on_free_gpu.sh", "sh", "-c", "echo here; exec sleep 60"], cwd=ROOT, env=env,
                              stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"here\n"
        command = ["run_scripts/on_free_gpu.sh", "sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES"']
        assert subprocess.check_output(command, cwd=ROOT, env=env, text=True, timeout=30) == "-1\n"
    finally:
        holder.kill()
        holder.communicate()


def test_a_killed_job_gives_its_gpu_back(with_commands):
    env = {**with_commands(), "CUDA_VISIBLE_DEVICES": "0"}
    holder = subprocess.Popen(["run_scripts/on_free_gpu.sh", "sleep", "60"], cwd=ROOT, env=env)
    time.sleep(0.3)
    waiting = subprocess.Popen(["run_scripts/on_free_gpu.sh", "true"], cwd=ROOT, env=env)
    time.sleep(0.5)
    assert waiting.poll() is None
    holder.kill()
    holder.wait()
    assert waiting.wait(timeout=30) == 0


MPS = """asked=$([ "$1" = -d ] || cat)  # stands in for the daemon's control program
case $1$asked in
  -d) echo start "[$CUDA_VISIBLE_DEVICES]" >> $TMPDIR/mps; touch $TMPDIR/mps-runs
      while [ -e $TMPDIR/mps-runs ]; do sleep 0.05; done & ;;  # with all files that the caller has open
  quit) echo quit >> $TMPDIR/mps; rm $TMPDIR/mps-runs ;;
  *) [ -e $TMPDIR/mps-runs ] ;;
esac
"""


def test_several_runs_share_a_gpu_and_mps_ends_with_the_last(with_commands, tmp_path):
    """Two slots on one GPU: of three jobs two run at once; MPS is started once, said in one line, and stopped."""
    env = {**with_commands(nvidia_cuda_mps_control=MPS), "CUDA_VISIBLE_DEVICES": "0", "RUNS_PER_GPU": "2"}
    job = 'date +%s.%N; sleep 0.7; date +%s.%N'
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen(["run_scripts/on_free_gpu.sh", "sh", "-c", job], cwd=ROOT, env=env, **pipes)
            for _ in range(3)]
    results = [process.communicate(timeout=60) for process in jobs]
    times = sorted(tuple(map(float, out.split())) for out, _ in results)
    assert times[1][0] < times[0][1], "two at once"
    assert times[2][0] >= min(times[0][1], times[1][1]), "the third waits for a slot"
    said = "".join(err for _, err in results)
    assert said.count("started NVIDIA MPS for 2 runs on each GPU") == 1 and said.count("stopped NVIDIA MPS") == 1
    assert (tmp_path / "mps").read_text().split() == ["start", "[]", "quit"]


@pytest.mark.parametrize(("more", "expected"), [
    ({}, "{}/gpus-of-{}/mps"), ({"SLURM_JOB_ID": "77"}, "{}/gpus-of-{}-77/mps"),
    ({"CUDA_MPS_PIPE_DIRECTORY": "/somewhere"}, "/somewhere")])
def test_mps_is_the_jobs_own(with_commands, tmp_path, more, expected):
    """Another user's daemon, or another Slurm job's, is of no use: daemon, command and end have one folder, the job's.
    Names of sockets are short, so a long name is replaced."""
    env = {**with_commands(nvidia_cuda_mps_control=f'echo "$CUDA_MPS_PIPE_DIRECTORY" >> {tmp_path}/asked\n{MPS}'),
           "CUDA_VISIBLE_DEVICES": "0", "RUNS_PER_GPU": "2", **more}
    for folder in (tmp_path / "t", tmp_path / ("long" * 30)):
        folder.mkdir()
        (tmp_path / "asked").unlink(missing_ok=True)
        command = ["run_scripts/on_free_gpu.sh", "sh", "-c", 'echo "$CUDA_MPS_PIPE_DIRECTORY"']
        used = subprocess.run(command, cwd=ROOT, env={**env, "TMPDIR": str(folder)}, text=True, timeout=60, check=True,
                              stdin=subprocess.DEVNULL, capture_output=True).stdout.strip()
        asked = (tmp_path / "asked").read_text().split()
        assert set(asked) == {used} and len(asked) >= 3
        name = expected.format(folder, os.getuid())
        assert used == (name if len(name) <= 80 else used) and len(used) <= 80
        assert used.endswith(more.get("SLURM_JOB_ID", "")) or "mps" in used


def test_a_daemon_that_takes_its_time_to_end_is_waited_for(with_commands, tmp_path):
    """A daemon cannot be started beside one that is ending, so a second command would do without."""
    slow = MPS.replace("rm $TMPDIR/mps-runs", "(sleep 1.5; rm $TMPDIR/mps-runs) > /dev/null 2>&1 7>&- 8>&- &")
    env = {**with_commands(nvidia_cuda_mps_control=slow), "CUDA_VISIBLE_DEVICES": "0", "RUNS_PER_GPU": "2"}
    for _ in range(2):
        subprocess.run(["run_scripts/on_free_gpu.sh", "true"], cwd=ROOT, env=env, check=True, timeout=60,
                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert (tmp_path / "mps").read_text().split() == ["start", "[]", "quit"] * 2


def test_an_mps_that_does_not_answer_is_not_waited_for(with_commands):
    """Its control program hangs, at the start or when it is asked to quit."""
    for hangs in ("-d", "quit"):
        control = f'asked=$([ "$1" = -d ] || cat)\n[ "$1$asked" = "{hangs}" ] && exec sleep 600\n[ "$1" = -d ]\n'
        env = with_commands(nvidia_cuda_mps_control=control, timeout='shift; exec /usr/bin/timeout 1 "$@"\n')
        done = subprocess.run(["run_scripts/on_free_gpu.sh", "echo", "done"], cwd=ROOT, text=True, capture_output=True,
                              env={**env, "CUDA_VISIBLE_DEVICES": "0", "RUNS_PER_GPU": "2"}, timeout=60)
        assert done.stdout == "done\n" and done.returncode == 0


def test_a_failed_or_killed_run_frees_its_slot_and_keeps_its_status(with_commands):
    env = {**with_commands(), "CUDA_VISIBLE_DEVICES": "0", "RUNS_PER_GPU": "2"}
    command = ["run_scripts/on_free_gpu.sh"]
    for _ in range(3):  # more than there are slots
        done = subprocess.run([*command, "sh", "-c", "exit 7"], cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
        assert done.returncode == 7
    holders = [subprocess.Popen([*command, "sh", "-c", "echo here; exec sleep 60"], cwd=ROOT, env=env,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert all(holder.stdout.readline() == b"here\n" for holder in holders)
    waiting = subprocess.Popen([*command, "true"], cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    time.sleep(1)
    assert waiting.poll() is None
    holders[0].terminate()  # passed on to the command
    assert holders[0].wait(timeout=60) == 128 + 15
    assert waiting.wait(timeout=60) == 0
    holders[1].terminate()
    holders[1].wait(timeout=60)


def test_slurms_own_choice_of_a_gpu_is_kept(with_commands):
    """Two tasks on one node both call their GPU 0: neither waits for the other."""
    env = {**with_commands(), "CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": "77"}
    holder = subprocess.Popen(["run_scripts/on_free_gpu.sh", "sleep", "60"], cwd=ROOT, env=env)
    try:
        other = {**env, "SLURM_JOB_ID": "78"}
        command = ["run_scripts/on_free_gpu.sh", "sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES"']
        assert subprocess.check_output(command, cwd=ROOT, env=other, text=True, timeout=60) == "0\n"
    finally:
        holder.kill()
        holder.wait()


def test_several_gpus_of_one_slurm_job_are_shared_out(with_commands):
    env = {**with_commands(), "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_ID": "77"}
    job = ["run_scripts/on_free_gpu.sh", "sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES"; sleep 1']
    jobs = [subprocess.Popen(job, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    assert sorted(process.communicate(timeout=60)[0] for process in jobs) == ["0\n", "1\n"]


def test_a_complaint_of_nvidia_smi_is_no_gpu(with_commands):
    env = with_commands(nvidia_smi='echo "NVIDIA-SMI has failed because it could not talk to the driver."; exit 9\n')
    command = ["run_scripts/on_free_gpu.sh", "sh", "-c", 'echo "[$CUDA_VISIBLE_DEVICES]"']
    assert subprocess.check_output(command, cwd=ROOT, env=env, text=True) == "[]\n"


def test_a_slurm_array_does_what_make_does(with_commands, tmp_path):
    """sbatch is stood in for by running the tasks of the array one after the other, from a copy, as Slurm does; Python
    by a script that notes what it was asked for."""
    env = with_commands(some_python=f'echo "$SLURM_ARRAY_TASK_ID $@" >> {tmp_path}/done\n', sbatch=f"""
echo "$@" > {tmp_path}/asked
for word in "$@"; do case $word in --array=*) array=${{word#*=}} ;; esac; done
while [ "${{1#--}}" != "$1" ]; do shift; done
cp "$1" {tmp_path}/copy; shift
cd /
for task in $(seq $(echo $array | tr - ' ')); do SLURM_ARRAY_TASK_ID=$task {tmp_path}/copy "$@" || exit; done
""")
    words = ["digits", "MODELS=lenet", "LOSSES=softmax isomax", "SEEDS=1 2", "RESULTS=elsewhere", "DEVICE=cpu",
             f"PY={tmp_path}/bin/some-python"]
    subprocess.run([ROOT / "run_scripts/slurm.sh", *words], cwd=tmp_path, env=env, check=True, stdout=subprocess.PIPE)
    assert "--array=1-2 --gpus=1 --job-name=digits" in (tmp_path / "asked").read_text()
    found = [line.split() for line in (tmp_path / "done").read_text().splitlines()]
    trained = [(line[0], line[line.index("--method") + 1], line[line.index("--seed") + 1]) for line in found
               if line[1] == "train.py"]
    assert trained == [("1", "softmax", "1"), ("1", "softmax", "2"), ("2", "isomax", "1"), ("2", "isomax", "2")]
    evaluated = [line[2] for line in found if line[1] == "evaluate.py"]
    assert evaluated == [f"elsewhere/digits/lenet/{loss}/seed{seed}" for _, loss, seed in trained]


def test_an_array_of_nothing_is_refused(with_commands):
    done = subprocess.run([ROOT / "run_scripts/slurm.sh", "nothing", PY], env=with_commands(sbatch="exit 9\n"),
                          capture_output=True, text=True)
    assert done.returncode == 1 and "nothing to run for nothing" in done.stderr
