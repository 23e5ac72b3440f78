"""Several runs on one device at once, each in its own process, as `RUNS_PER_GPU=5 make -j 5` starts them.

  python benchmarks/processes.py --case ResNet34 --count 5 --seconds 10      prints images and seconds of each process

Every process trains the same case for a fixed time, see benchmarks/side_by_side.py. On a GPU they are started by
run_scripts/on_free_gpu.sh, hence with NVIDIA MPS where its daemon can be started. On a CPU each has one thread.
"""
import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

import utils.threads  # noqa: F401, I001  before torch: OpenMP reads its settings when it is loaded

import torch

from benchmarks.side_by_side import side_by_side
from benchmarks.timing import summary
from benchmarks.workload import Case, Workload
from engine import devices

ON_FREE_GPU = str(Path(__file__).resolve().parents[1] / "run_scripts/on_free_gpu.sh")
OF_ROOFLINE, OF_MATRIX_RATE = {"of_roofline": 0.6}, {"of_matrix_rate": 0.4}
CASES = {case.title: case for case in (
    Case("ResNet34", "cifar10", "resnet34", "dismax", (4, 1), (16, 1)),
    Case("ResNet34, --compile", "cifar10", "resnet34", "dismax", (4, 1), (16, 1), compiled=True),
    Case("DenseNet-BC-100", "cifar10", "densenetbc100", "dismax", (4, 1), (16, 1)),
    Case("WideResNet-28-10", "cifar10", "wideresnet2810", "dismax", (4, 1), (4, 1)),
    Case("5 LeNets, SDDE", "mnist", "lenet", "gradcam", (128, 1), (128, 4)),
    Case("LeNet, MNIST's size", "mnist", "lenet", "dismax", (128, 4), (128, 20)),
    Case("ResNet-20", "cifar10", "resnet20", "dismax", (32, 1), (128, 1)),
)}
# device type → title → numbers of processes
PLANS = {
    "cuda": {"ResNet34": (1, 2, 5, 10), "ResNet34, --compile": (1, 5), "DenseNet-BC-100": (1, 5),
             "WideResNet-28-10": (1, 2, 5, 10), "5 LeNets, SDDE": (1, 5, 10)},
    "cpu": {"LeNet, MNIST's size": (1, 2), "ResNet-20": (1, 2)},
}
FULL_SECONDS, QUICK_SECONDS = 10, 3
GPU_STEPS = 20  # between two looks at the clock
QUICK = {"ResNet34": (1, 5, 10), "WideResNet-28-10": (1, 5), "LeNet, MNIST's size": (1, 2)}
TARGETS = {("ResNet34", 5): OF_ROOFLINE, ("ResNet34, --compile", 5): OF_ROOFLINE, **dict.fromkeys(
    [("WideResNet-28-10", count) for count in (1, 2, 5, 10)], OF_MATRIX_RATE)}
ONE_RUN = "one run"


def run(machine, device, quick):
    for title, counts in PLANS["cuda" if device.type == "cuda" else "cpu"].items():
        if not quick or title in QUICK:
            yield from case_rows(title, QUICK[title] if quick else counts, machine, device, quick)


def case_rows(title, counts, machine, device, quick):
    """Rows of one case, each as soon as it is known. A number of processes that fails is a row that says why."""
    case, rates, failed, on_gpu = CASES[title], {}, set(), device.type == "cuda"
    batch, steps = case.size(device, quick)
    workload = Workload(case, device, batch, 1)
    cost, number_format = workload.cost, workload.number_format
    del workload
    if on_gpu:
        steps = GPU_STEPS
        torch.cuda.empty_cache()
    rounds = 1 if quick else 3
    for number in range(rounds):
        for count in [count for count in counts if count not in failed]:
            row = {"what": f"{count} runs side by side, {title}, B = {batch}", "unit": "images/s",
                   "threads": None if on_gpu else 1, "target": TARGETS.get((title, count)) if on_gpu else None}
            try:
                found = in_processes(title, count, device, QUICK_SECONDS if quick else FULL_SECONDS, batch, steps)
            except RuntimeError as error:
                failed.add(count)
                yield {**row, "not_measured": str(error)}
                continue
            rates.setdefault(count, []).append(found["images_per_second"])
            if number < rounds - 1 or not (on_gpu or count > 1):
                continue
            row |= {"mps": found["mps"], **beside_one(rates, count)}
            if on_gpu:
                row |= machine.shares(row["values"]["ours"], cost, number_format)
                sharing = ", by MPS" if found["mps"] else ", in turns"
                row["what"] = row["what"].replace(" side by side", f" side by side{sharing * (count > 1)}")
            yield row


def beside_one(rates, count):
    """Part of a row: images/s of all processes together, beside one process alone."""
    if count > 1 and rates.get(1):
        return summary({"ours": rates[count], ONE_RUN: rates[1]}, ONE_RUN)
    return {"values": {"ours": statistics.median(rates[count])}, "rounds": len(rates[count])}


def in_processes(title, count, device, seconds, batch, steps):
    """What `main` prints for so many processes, started as Make starts runs.

    RuntimeError, with the reason, when one of them fails.
    """
    words = [sys.executable, str(Path(__file__)), "--case", title, "--count", str(count), "--device", device.type,
             "--seconds", str(seconds), "--batch", str(batch), "--steps", str(steps)]
    env = dict(os.environ)
    if device.type == "cuda":
        words.insert(0, ON_FREE_GPU)
        env |= {"CUDA_VISIBLE_DEVICES": visible_name(device), "RUNS_PER_GPU": str(count)}
    else:
        env["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line and not line.startswith("on_free_gpu.sh:")]
        raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def visible_name(device):
    """What CUDA_VISIBLE_DEVICES calls a GPU."""
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return given.split(",")[device.index or 0]
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), required=True, help="network to train")
    parser.add_argument("--count", type=int, default=2, help="number of processes (default: 2)")
    parser.add_argument("--seconds", type=float, default=10, help="training time of each process (default: 10)")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--batch", type=int, help="images per batch (default: as in a quick bench)")
    parser.add_argument("--steps", type=int, help="steps between two readings of the clock")
    args = parser.parse_args()
    case, device = CASES[args.case], torch.device(args.device)
    batch, steps = case.size(device, quick=True)
    make = functools.partial(make_training, case, args.device, args.batch or batch, args.steps or steps)
    try:
        found = side_by_side(make, args.count, args.seconds)
    except RuntimeError as error:
        sys.exit(f"processes.py: {error}")
    print(json.dumps({"images_per_second": sum(images / seconds for images, seconds in found),
                      "processes": found, "mps": device.type == "cuda" and mps_is_on()}))


def make_training(case, device, batch, steps):
    """(function that trains on some images and says how many, function that waits for the device)."""
    device = devices.choose(device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    workload = Workload(case, device, batch, steps)
    return workload.train, functools.partial(devices.synchronize, device)


def mps_is_on():
    """Whether an NVIDIA MPS daemon answers."""
    try:
        return subprocess.run(["nvidia-cuda-mps-control"], input="get_server_list\n", text=True, timeout=30,
                              capture_output=True).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    main()
