"""The commands around the scripts: make, and the shell scripts of the releases."""
import os
import re
import subprocess
import sys

import forked
import pytest
from conftest import ROOT


def make(*words, cwd=ROOT, **environment):
    return subprocess.run(["make", *words], cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})


def test_make_runs_what_is_missing_and_nothing_twice(data_dir, tmp_path):
    """The real Makefile: one shortened run; nothing the second time; evaluation only, once a set has changed."""
    words = ["runs", "DATASET=digits", "MODELS=lenet", "LOSSES=isomax", "SEEDS=1", "EPOCHS=1", f"PY={forked.python()}",
             f"DATA={data_dir}", f"RESULTS={tmp_path}", "DEVICE=cpu", "-j2"]
    first = make(*words)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "digits/lenet/isomax/seed1"
    assert (run / "metrics.csv").exists() and "1 epochs in" in first.stdout
    again = make(*words)
    assert again.returncode == 0 and "epochs" not in again.stdout and " metrics" not in again.stdout
    (data_dir / "digits/manifest.json").touch()
    after = make(*words)
    assert after.returncode == 0 and " metrics" in after.stdout and "1 epochs in" not in after.stdout


def test_a_run_that_fails_does_not_keep_the_others_from_being_evaluated(tmp_path):
    """Python is stood in for by a script that cannot train the first of two runs."""
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/bash
echo "$1 $*" | grep -o '^[^ ]*\\|softmax\\|isomax' | tr '\\n' ' ' >> {tmp_path}/asked
run={tmp_path}/results/digits/lenet/isomax/seed1
case "$*" in
  train.py*softmax*) exit 1 ;;
  train.py*) mkdir -p $run; touch $run/weights.pt ;;
  *) touch $run/metrics.csv ;;
esac
""")
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "runs", "DATASET=digits", "MODELS=lenet", "LOSSES=softmax isomax", "SEEDS=1", "DEVICE=cpu",
         f"PY={python}", f"RESULTS={tmp_path}/results", f"DATA={tmp_path}/data"], cwd=ROOT, capture_output=True,
        text=True, env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")})
    assert done.returncode != 0, "one is missing"
    assert "evaluate.py isomax" in (tmp_path / "asked").read_text(), done.stderr


def test_the_published_commands_work_from_anywhere(tmp_path):
    """What each would do (make -n): its data set, network, losses and seeds, called from elsewhere; and one of them in
    every way."""
    networks = ("densenetbc100", "resnet34", "wideresnet2810")
    names = {f"run_{dataset}_{model}.sh" for dataset in ("cifar10", "cifar100") for model in networks}
    names |= {"run_imagenet1k_resnet18.sh"}
    for name in names:
        _, dataset, model = name.removesuffix(".sh").split("_")
        seeds = 1 if dataset == "imagenet1k" else 5
        ways = [(ROOT / name, tmp_path), (f"./{name}", ROOT), (ROOT / "run_scripts" / name, tmp_path)]
        assert (ROOT / name).resolve() == ROOT / "run_scripts" / name
        for path, cwd in ways if model == "resnet18" else ways[:1]:
            done = subprocess.run([path, "-n", f"PY={sys.executable}", "RESULTS=/nonexistent"], cwd=cwd,
                                  capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count(f"train.py --dataset {dataset} --model {model}") == 5 * seeds, name
            assert f"analyze.py --dataset {dataset}" in done.stdout
    done = subprocess.run([ROOT / "analyze.sh", "--help"], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PY": sys.executable})
    assert done.returncode == 0 and "--results-dir" in done.stdout


def test_a_command_without_the_packages_says_how_to_get_them(tmp_path):
    """No traceback of an import: it is the first command that some type."""
    bare = tmp_path / "bare/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare.parents[1]], check=True)
    for name in ("analyze.sh", "run_scripts/search.sh"):
        done = subprocess.run([ROOT / name], capture_output=True, text=True, env={**os.environ, "PY": str(bare)})
        assert done.returncode == 1 and "`make prepare-data` creates an environment" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("method, dataset, line", [
    ("de", "mnist", "mnist --model lenet --method de"),
    ("nlc", "cifar10", "cifar10 --model resnet18_32x32 --method ncl"),
    ("gradcam", "imagenet", "imagenet1k --model resnet50 --method gradcam"),
    ("gradcam-oe", "imagenet200", "imagenet200 --model resnet50 --method gradcam_oe"),
])
def test_sddes_commands_take_the_published_names(tmp_path, method, dataset, line):
    done = subprocess.run([ROOT / "run_scripts/sdde.sh", method, dataset, "-n", f"PY={sys.executable}",
                           "RESULTS=/nonexistent"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train.py ") == done.stdout.count(f"train.py --dataset {line}") == 5, "seeds 1 to 5"


def test_sddes_command_refuses_other_names():
    for words, message in ((("cam", "mnist"), "unknown method cam"), (("de", "svhn"), "unknown data set svhn")):
        done = subprocess.run([ROOT / "run_scripts/sdde.sh", *words], capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr


def test_a_shortened_try_never_stands_in_for_the_real_run():
    done = make("-n", "runs", "DATASET=cifar10", "MODELS=resnet34", "LOSSES=softmax", "SEEDS=1", "EPOCHS=1",
                f"PY={sys.executable}")
    assert "--results-dir results/epochs1" in done.stdout and "--epochs 1" in done.stdout


def test_make_help_lists_every_target():
    """What is .PHONY is a target for people, but for the two that other targets and scripts call; each is explained."""
    text = (ROOT / "Makefile").read_text()
    blocks = re.search(r"^BLOCKS +:= \$\(addprefix (reproduce-),(.*)\)$", text, re.M)
    named = {blocks[1] + name for name in blocks[2].split()}
    declared = {target for line in re.findall(r"^\.PHONY:(.*)$", text, re.M) for target in line.split()} | named
    listed = dict(re.findall(r"^make (\S+) +(.*)$", make("help").stdout, re.M))
    assert set(listed) == declared - {"runs", "blocks", "$(BLOCKS)"}
    assert {"demo", "test", "reproduce-imagenet200", "report", "tables"} <= set(listed) and all(listed.values())
    assert max(map(len, make("help").stdout.splitlines())) <= 100


@pytest.mark.parametrize("typed", ["SEEDS=abc", "DATASET=nosuch", "METHODS=nosuch"])
def test_a_grid_without_runs_fails_and_says_so(tmp_path, typed):
    done = make(
        "runs", f"PY={sys.executable}", f"PYTHON={sys.executable}", f"RESULTS={tmp_path}", "DATASET=digits", typed)
    assert done.returncode == 2 and "There are no such runs" in done.stderr, done.stderr


def test_a_block_without_runs_prepares_no_data(tmp_path):
    done = make("reproduce-cifar10", "MODELS=nosuch", f"PY={sys.executable}", f"PYTHON={sys.executable}",
                f"RESULTS={tmp_path}", f"DATA={tmp_path}")
    assert done.returncode == 2 and "there are no such runs on cifar10" in done.stderr
    assert "http" not in done.stdout and not list(tmp_path.iterdir())
