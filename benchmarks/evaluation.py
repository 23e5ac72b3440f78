"""From a test set to scores: evaluate.py, compared with a DataLoader in batches of 100 and the plain network."""
import numpy as np
import torch

from benchmarks import baseline
from benchmarks.roofline import cost_of
from benchmarks.timing import alternate, summary
from benchmarks.workload import conv_format, run_of
from data.datasets import CATALOG
from data.loaders import ResidentImages
from engine import devices
from engine.build import build_model, members_of
from engine.inference import forward
from engine.train_step import channels_last
from engine.training_loss import add_member_dim
from losses.calibration import SCORES
from models.fuse_conv_bn import fuse_conv_bn

BATCH = 100
BASELINE = "DataLoader, NCHW, B = 100"
PASS_PER_SCORE = "the same, a pass for each score"
# title → data set, network, method, images on a CPU, quick and not
CASES = {
    "ResNet34": ("cifar10", "resnet34", "dismax", 50, 500),
    "DenseNet-BC-100": ("cifar10", "densenetbc100", "dismax", 100, 500),
    "WideResNet-28-10": ("cifar10", "wideresnet2810", "dismax", 20, 200),
    "5 ResNet18s": ("cifar10", "resnet18_32x32", "de", 20, 200),
    "LeNet, MNIST's size": ("mnist", "lenet", "dismax", 1000, 10_000),
}
PUBLISHED_PASSES = ("MMLES", "MPS")  # the scores that DisMax's detect.py writes, one pass over the images for each


def run(machine, device, quick):
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    devices.turn_off_tf32()  # as evaluate.py does
    try:
        yield from case_rows(machine, device, quick)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


def case_rows(machine, device, quick):
    for title, (dataset, model, method, few, many) in CASES.items():
        count = (few if quick else many) if device.type == "cpu" else 10_000
        functions, cost = fns(dataset, model, method, count, device)
        rates = alternate(functions, 1 if quick else 5, device)
        for name in [each for each in functions if each != "ours"]:
            found = summary(rates, name)
            yield {"what": f"evaluation, {title}" + (", two scores" if name == PASS_PER_SCORE else ""),
                   "unit": "images/s", **found,
                   **machine.shares(found["values"]["ours"], cost, conv_format(device))}


def fns(dataset, model, method, count, device):
    """name → function that scores all images and says how many; and the StepCost of ours, of one image."""
    run, catalog, rng = run_of(dataset, model, method), CATALOG[dataset], np.random.default_rng(0)
    recipe = run.recipe
    images = rng.integers(0, 256, (count, catalog.size, catalog.size, 1 if catalog.size == 28 else 3), dtype=np.uint8)
    labels = rng.integers(0, catalog.classes, count)
    torch.manual_seed(0)
    network = build_model(run, catalog.classes)
    members = [baseline.network_like(member).eval().to(device) for member in members_of(network)]
    fast = fuse_conv_bn(network).to(device, memory_format=torch.channels_last)
    resident = ResidentImages(images, labels, device, catalog.size, (recipe.mean, recipe.std))
    loader = baseline.loader(
        baseline.PILImages(images, labels, recipe, training=False), BATCH, device, shuffle=False)

    def ours():
        """Every score of one pass."""
        mean = torch.from_numpy(forward(fast, resident, "").logits).mean(0)
        return {name: score(mean).numpy() for name, score in SCORES.items()}

    def one_score(score):
        """One score of one pass, with the published softmax and its logarithm."""
        found = []
        with torch.no_grad():
            for batch, _ in loader:
                found += published_score(members, batch.to(device), score).tolist()
        return np.array(found)

    batch = next(resident.eval_batches())[0]
    same = torch.stack([loader.dataset[k][0] for k in range(4)]).to(device)
    with torch.inference_mode():
        scores = SCORES["MMLES"](add_member_dim(fast(batch[:4])).mean(0)), published_score(members, same, "MMLES")
        cost = cost_of(lambda: fast(channels_last(batch)), len(batch))
    assert torch.allclose(*scores, 1e-4, 1e-4), f"two different scores: {scores}"

    def whole(*functions):
        def fn():
            for function in functions:
                function()
            return count
        return fn

    functions = {"ours": whole(ours), BASELINE: whole(lambda: one_score("MMLES"))}
    if model == "lenet":  # of larger networks it is known to take twice as long
        functions[PASS_PER_SCORE] = whole(*(lambda score=score: one_score(score) for score in PUBLISHED_PASSES))
    return functions, cost


def published_score(members, images, score):
    """With softmax and its logarithm one after the other."""
    z = sum(member(images) for member in members) / len(members)
    q = torch.softmax(z, 1)
    return q.amax(1) if score == "MPS" else z.amax(1) + z.mean(1) + (q * torch.log(q)).sum(1)
