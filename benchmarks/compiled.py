"""The training step with --compile, against the same step without it. On a GPU both are replayed as CUDA graphs."""
import time
from dataclasses import replace

from benchmarks.timing import alternate, summary
from benchmarks.workload import Case, Workload
from engine.devices import synchronize

BASELINE = "without --compile"
PAYS = 1.3  # from this ratio on --compile would become the default
CASES = [
    Case("ResNet34", "cifar10", "resnet34", "dismax", (16, 1), (64, 1), with_data=False),
    Case("ResNet-20", "cifar10", "resnet20", "dismax", (32, 1), (128, 1), with_data=False),
    Case("DenseNet-BC-100", "cifar10", "densenetbc100", "dismax", (16, 1), (64, 1), with_data=False),
]
GPU_CASES = [
    *CASES,
    Case("WideResNet-28-10", "cifar10", "wideresnet2810", "dismax", (4, 1), (16, 1), with_data=False),
    Case("5 ResNet18s, SDDE", "cifar10", "resnet18_32x32", "gradcam", (4, 1), (16, 1), with_data=False),
]


def run(machine, device, quick):
    for case in GPU_CASES[: 1 if quick else None] if device.type == "cuda" else CASES:
        row = {"what": f"training step with --compile, {case.title}", "unit": "images/s"}
        if quick and device.type == "cpu":
            yield {**row, "not_measured": "compiling takes a minute or more each: only without QUICK"}
            continue
        batch, steps = case.size(device, quick)
        plain, fused = (Workload(replace(case, compiled=compiled), device, batch, steps) for compiled in (False, True))
        cost, started = fused.cost, time.perf_counter()
        try:
            fused.train()
            synchronize(device)
        except Exception as error:  # torch._dynamo and its compilers raise many kinds
            yield {**row, "not_measured": (str(error) or type(error).__name__).splitlines()[0]}
            continue
        seconds = time.perf_counter() - started
        found = summary(alternate({"ours": fused.train, BASELINE: plain.train}, 3 if quick else 7, device), BASELINE)
        yield {**row, "what": f"{row['what']}, B = {batch}", "target": {"ratio": PAYS}, **found,
               "first_call_seconds": seconds, "steps": fused.step.graph_status,
               **machine.shares(found["values"]["ours"], cost, fused.number_format)}
