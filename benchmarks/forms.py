"""Check that the fast forms of the training step and of evaluation agree with the plain form on a device."""
from dataclasses import replace

import numpy as np
import torch

from benchmarks.workload import Case, Workload, run_of
from data.datasets import CATALOG
from data.loaders import ResidentImages
from engine import devices
from engine.build import build_model
from engine.inference import forward
from engine.train_step import ExecutionOptions
from models.fuse_conv_bn import fuse_conv_bn

STEPS = 8  # a recorded step is warmed up by three, checked by one, and replayed by the others
UPDATE_TOLERANCE = 0.1  # of the length of the eager form's update: libraries may choose other kernels
LOSS_TOLERANCE = 0.02  # between bfloat16 and float32
LOGITS_TOLERANCE = 1e-3  # of the largest logit, between two devices in float32
CASES = {case.title: case for case in (
    Case("ResNet34", "cifar10", "resnet34", "dismax", (4, 1), (16, 1)),
    Case("DenseNet-BC-100", "cifar10", "densenetbc100", "dismax_fpr", (4, 1), (16, 1)),
    Case("WideResNet-28-10", "cifar10", "wideresnet2810", "isomaxplus", (2, 1), (4, 1)),
    Case("5 LeNets, SDDE", "mnist", "lenet", "gradcam", (16, 1), (128, 1)),
    Case("5 LeNets, DICE", "mnist", "lenet", "dice", (128, 1), (128, 1)),
    Case("5 ResNet18s, ADP", "cifar10", "resnet18_32x32", "adp", (4, 1), (16, 1)),
)}


def check_step(case, device, compiled=False, batch=None):
    """Train some steps in every form, from the same weights on the same batches. Yields a dict per form.

    A recorded or compiled form must make the update of the eager form in the same number format, to UPDATE_TOLERANCE;
    bfloat16 must have the loss of float32, to LOSS_TOLERANCE. `wrong` says what is not so.
    """
    batch = batch or case.size(device, quick=True)[0]
    usual = Workload(case, device, batch, 1).options
    plain = train_steps(case, device, batch, ExecutionOptions())
    yield {"form": "eager, float32", **form_facts(plain)}
    eager = plain
    if usual.bf16:
        eager = train_steps(case, device, batch, replace(usual, graphs=False))
        difference = abs(eager["loss"] - plain["loss"]) / abs(plain["loss"])
        yield {"form": "eager, bfloat16", **form_facts(eager), "loss_differs_by": difference, "wrong": said(
            f"{case.title} in bfloat16", difference, LOSS_TOLERANCE, "of the loss in float32")}
    if compiled:
        compiled_step = train_steps(case, device, batch, ExecutionOptions(compiled=True))
        yield beside_eager(case, "compiled, float32", compiled_step, plain)
        if usual.graphs:
            yield beside_eager(case, "compiled and recorded, float32", train_steps(
                case, device, batch, ExecutionOptions(compiled=True, graphs=True)), plain)
    elif usual.graphs:
        recorded = train_steps(case, device, batch, ExecutionOptions(graphs=True))
        yield beside_eager(case, "recorded, float32", recorded, plain)
        if usual.bf16:
            yield beside_eager(case, "recorded, bfloat16", train_steps(case, device, batch, usual), eager)


def train_steps(case, device, batch, options):
    """What STEPS steps made of a network: {loss, update, status, bytes}, `update` a vector in float64 on the CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    workload = Workload(case, device, batch, STEPS, options)
    before = parameters(workload)
    torch.manual_seed(1)  # mixing draws from it
    workload.train()
    devices.synchronize(device)
    return {"loss": workload.step.sums[0].item() / (STEPS * batch),
            "update": parameters(workload) - before, "status": workload.step.graph_status, "options": options,
            "bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None}


def parameters(workload):
    return torch.cat([p.detach().flatten().cpu().double() for p in workload.training_loss.parameters()])


def form_facts(trained):
    return {"loss": trained["loss"], "steps": trained["status"], "bytes": trained["bytes"], "wrong": ""}


def beside_eager(case, form, trained, eager):
    """The dict of a form, beside the eager one."""
    difference = ((trained["update"] - eager["update"]).norm() / eager["update"].norm()).item()
    wrong = said(f"{case.title}, {form}", difference, UPDATE_TOLERANCE, "of the eager update")
    if not wrong and trained["options"].graphs and trained["status"] != "graphed":
        wrong = f"{case.title}, {form}: {trained['status']}"
    return {"form": form, **form_facts(trained), "update_differs_by": difference, "wrong": wrong}


def said(what, difference, tolerance, of):
    """"" unless the difference is larger than the tolerance; a NaN is."""
    return "" if difference <= tolerance else f"{what} differs by {difference:.2g} {of}, allowed are {tolerance}"


def check_evaluation(device, model="resnet34", count=64):
    """Logits of a network on the device and on the CPU, in float32 without TF32; and how far bfloat16 is from them."""
    run, catalog = run_of("cifar10", model, "softmax"), CATALOG["cifar10"]
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    devices.turn_off_tf32()

    def logits(where, bf16=False):
        torch.manual_seed(0)
        network = fuse_conv_bn(build_model(run, catalog.classes)).to(where, memory_format=torch.channels_last)
        data = ResidentImages(images, np.zeros(count, np.int64), where, 32, (run.recipe.mean, run.recipe.std))
        return forward(network, data, "", bf16).logits

    expected, found, half = logits(torch.device("cpu")), logits(device), logits(device, bf16=True)
    size = np.abs(expected).max()
    differences = {"differs_by": float(np.abs(found - expected).max() / size),
                   "bfloat16_differs_by": float(np.abs(half - expected).max() / size)}
    return {"form": f"evaluation, {model}, float32 on the device and on the CPU", **differences, "wrong": said(
        "evaluation in float32", differences["differs_by"], LOGITS_TOLERANCE, "of the largest logit")}
