"""The training step with and without --compile, and in bfloat16 and float32. Faster options become the default.

On a GPU all of them are replayed as CUDA graphs.
"""
import time
from dataclasses import replace

from benchmarks.timing import alternate, summary
from benchmarks.workload import Case, Workload
from engine import devices

PAYS = 1.3  # from this ratio on an option is the default on such a device
# option → (fields of a Case with it, and without it; what the baseline is called)
OPTIONS = {"--bf16": ({"bf16": True}, {"bf16": False}, "float32"),
           "--compile": ({"compiled": True}, {"compiled": False}, "without --compile")}
CASES = [
    Case("ResNet34", "cifar10", "resnet34", "dismax", (16, 1), (64, 1), with_data=False),
    Case("ResNet-20", "cifar10", "resnet20", "dismax", (32, 1), (128, 1), with_data=False),
    Case("DenseNet-BC-100", "cifar10", "densenetbc100", "dismax", (16, 1), (64, 1), with_data=False),
]
SMALLEST = Case("ResNet-20", "cifar10", "resnet20", "dismax", (8, 1), (8, 1), with_data=False)
LARGE_CASES = [
    Case("WideResNet-28-10", "cifar10", "wideresnet2810", "dismax", (4, 1), (16, 1), with_data=False),
    Case("5 ResNet18s, SDDE", "cifar10", "resnet18_32x32", "gradcam", (4, 1), (16, 1), with_data=False),
]


def run(machine, device, quick):
    for option in OPTIONS:
        for case in cases_of(option, device, quick):
            row = {"what": f"training step with {option}, {case.title}", "unit": "images/s"}
            if quick and option == "--compile" and device.type == "cpu":
                yield {**row, "not_measured": "compiling takes a minute or more each: only without QUICK"}
                continue
            yield {**row, **with_and_without(option, case, machine, device, quick, row["what"])}


def cases_of(option, device, quick):
    """Where bfloat16 is emulated, the smallest case, which takes seconds there, says why it is off."""
    if option == "--bf16" and not devices.multiplies_bfloat16(device):
        return [SMALLEST]
    return CASES[:1] if quick and device.type == "cuda" else [*CASES, *LARGE_CASES] if device.type == "cuda" else CASES


def with_and_without(option, case, machine, device, quick, what):
    """The other part of a row: how fast the step is with an option and without."""
    on, off, baseline = OPTIONS[option]
    batch, steps = case.size(device, quick)
    devices.release_memory(device)  # of the case before
    try:
        fast, plain = (Workload(replace(case, **choice), device, batch, steps) for choice in (on, off))
        cost, started = fast.cost, time.perf_counter()
        fast.train()
        devices.synchronize(device)
        seconds = time.perf_counter() - started
        rates = alternate({"ours": fast.train, baseline: plain.train}, 3 if quick else 7, device)
    except Exception as error:  # torch._dynamo and its compilers raise many kinds
        return {"not_measured": (str(error) or type(error).__name__).splitlines()[0]}
    found = summary(rates, baseline)
    return {"what": f"{what}, B = {batch}", "target": {"ratio": PAYS}, **found, "first_call_seconds": seconds,
            "steps": fast.step.graph_status, **machine.shares(found["values"]["ours"], cost, rate_of(fast, machine))}


def rate_of(workload, machine):
    """The number format whose matrix rate a step is compared with: float32's where bfloat16 is emulated."""
    return workload.number_format if workload.number_format in machine.rates else "float32"
