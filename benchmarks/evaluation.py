"""From a test set to scores: as evaluate.py does it, against a DataLoader in batches of 100 and the plain network."""
import numpy as np
import torch

from benchmarks import plain
from benchmarks.machine import flops_of
from benchmarks.timing import summary, take_turns
from data.datasets import CATALOG
from data.loaders import ResidentImages
from engine.build import build_model, members_of
from engine.inference import forward
from engine.training_loss import add_member_dim
from metrics.scores import SCORES
from models.fuse_conv_bn import fuse_conv_bn

BATCH = 100
ORDINARY = "DataLoader, NCHW, B = 100"
EVERY_TIME = "the same, a pass for each score"
# title → data set, network, method, images on a CPU, quick and not
CASES = {
    "ResNet34": ("cifar10", "resnet34", "dismax", 50, 500),
    "DenseNet-BC-100": ("cifar10", "densenetbc100", "dismax", 100, 500),
    "WideResNet-28-10": ("cifar10", "wideresnet2810", "dismax", 20, 200),
    "5 ResNet18s": ("cifar10", "resnet18_32x32", "de", 20, 200),
    "LeNet, MNIST's size": ("mnist", "lenet", "dismax", 1000, 10_000),
}
PUBLISHED = ("MMLES", "MPS")  # the scores that DisMax's detect.py writes, one pass over the images for each


def run(device, quick):
    for title, (dataset, model, method, few, many) in CASES.items():
        count = (few if quick else many) if device.type == "cpu" else 10_000
        ways, flops = made(dataset, model, method, count, device)
        rates = take_turns(ways, 1 if quick else 5, device)
        against = [ORDINARY] + [EVERY_TIME] * (EVERY_TIME in ways)
        for name in against:
            what = f"evaluation, {title}" + (", two scores" if name == EVERY_TIME else "")
            yield {"what": what, "unit": "images/s", "against": name, "target": None, "flops": flops, "bf16": False,
                   **summary(rates, "ours", name)}


def made(dataset, model, method, count, device):
    """name → function that scores all images and says how many; and ours' FLOPs of one image."""
    run, catalog, rng = plain.run_of(dataset, model, method), CATALOG[dataset], np.random.default_rng(0)
    recipe = run.recipe
    images = rng.integers(0, 256, (count, catalog.size, catalog.size, 1 if catalog.size == 28 else 3), dtype=np.uint8)
    labels = rng.integers(0, catalog.classes, count)
    torch.manual_seed(0)
    network = build_model(run, catalog.classes)
    members = [plain.plain(member).eval().to(device) for member in members_of(network)]
    fast = fuse_conv_bn(network).to(device, memory_format=torch.channels_last)
    resident = ResidentImages(images, labels, device, catalog.size, (recipe.mean, recipe.std))
    pictures = plain.loader(plain.Pictures(images, labels, recipe, training=False), BATCH, device, shuffle=False)

    def ours():
        """Every score of one pass."""
        mean = torch.from_numpy(forward(fast, resident, "")[0]).mean(0)
        return {name: score(mean).numpy() for name, score in SCORES.items()}

    def ordinary(score):
        """One score of one pass, with the published softmax and its logarithm."""
        found = []
        with torch.no_grad():
            for batch, _ in pictures:
                found += published_score(members, batch.to(device), score).tolist()
        return np.array(found)

    few = next(resident.eval_batches(4))[0], torch.stack([pictures.dataset[k][0] for k in range(4)]).to(device)
    with torch.no_grad():
        scores = SCORES["MMLES"](add_member_dim(fast(few[0])).mean(0)), published_score(members, few[1], "MMLES")
        flops = flops_of(lambda: fast(few[0])) / 4
    tolerance = 1e-4 if device.type == "cpu" else 1e-2  # GPUs convolve in TF32
    assert torch.allclose(*scores, tolerance, tolerance), f"two different scores: {scores}"

    def way(*functions):
        def whole():
            for function in functions:
                function()
            return count
        return whole

    ways = {"ours": way(ours), ORDINARY: way(lambda: ordinary("MMLES"))}
    if model == "lenet":  # of larger networks it is known to take twice as long
        ways[EVERY_TIME] = way(*(lambda score=score: ordinary(score) for score in PUBLISHED))
    return ways, flops


def published_score(members, images, score):
    """With softmax and its logarithm one after the other."""
    z = sum(member(images) for member in members) / len(members)
    q = torch.softmax(z, 1)
    return q.amax(1) if score == "MPS" else z.amax(1) + z.mean(1) + (q * torch.log(q)).sum(1)
