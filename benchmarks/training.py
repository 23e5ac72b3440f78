"""Training with its input: the loop of train.py, compared with the baseline on the same images."""
import numpy as np
import torch

from benchmarks import baseline
from benchmarks.timing import alternate, summary
from benchmarks.workload import LR, Case, Workload
from engine import devices
from engine.build import members_of

BASELINE = "DataLoader, float32, NCHW, .item()"
CIFAR = {"cpu": 1.3, "cuda": 10}
CASES = [
    Case("ResNet34", "cifar10", "resnet34", "dismax", (16, 1), (64, 2), CIFAR),
    Case("DenseNet-BC-100", "cifar10", "densenetbc100", "dismax", (16, 1), (64, 2), CIFAR),
    Case("WideResNet-28-10", "cifar10", "wideresnet2810", "dismax", (4, 1), (64, 1), CIFAR),
    Case("ResNet-20", "cifar10", "resnet20", "dismax", (64, 1), (128, 4), CIFAR),
    Case("LeNet, MNIST's size", "mnist", "lenet", "dismax", (128, 20), (128, 100), {"cpu": 3}),
    Case("5 LeNets, deep ensemble", "mnist", "lenet", "de", (128, 3), (128, 16), {"cpu": 2.5}),
    Case("5 LeNets, deep ensemble: step alone", "mnist", "lenet", "de", (128, 3), (128, 16), {"cpu": 1.5},
         with_data=False),
    Case("5 LeNets, SDDE", "mnist", "lenet", "gradcam", (128, 3), (128, 16), {"cpu": 2.5}),
    Case("5 LeNets, SDDE: step alone", "mnist", "lenet", "gradcam", (128, 3), (128, 16), {"cpu": 2.5},
         with_data=False),
    Case("5 ResNet18s, deep ensemble", "cifar10", "resnet18_32x32", "de", (4, 1), (32, 1), CIFAR),
    Case("5 ResNet18s, SDDE", "cifar10", "resnet18_32x32", "gradcam", (4, 1), (32, 1), CIFAR),
]
QUICK_ON_GPU = ("ResNet34", "WideResNet-28-10", "5 LeNets, SDDE", "5 ResNet18s, SDDE")


def run(machine, device, quick):
    for case in CASES:
        if quick and device.type == "cuda" and case.title not in QUICK_ON_GPU:
            continue
        batch, steps = case.size(device, quick)
        ours = Workload(case, device, batch, steps)
        theirs = BaselineTraining(ours)
        cost = ours.cost
        rates = alternate({"ours": ours.train, BASELINE: theirs.train}, 1 if quick else 3, device)
        found = summary(rates, BASELINE)
        yield {"what": f"training, {case.title}, B = {batch}", "unit": "images/s",
               "target": {"ratio": case.target.get(device.type)}, "options": ours.options.record(),
               "steps": ours.step.graph_status, **found,
               **machine.shares(found["values"]["ours"], cost, ours.number_format)}
        theirs.close()
        del ours, theirs
        devices.release_memory(device)


class BaselineTraining:
    """The same case as one would write it down first (benchmarks/baseline.py), from the same weights.

    AssertionError when it does not compute the same loss as the Workload.
    """

    def __init__(self, workload):
        self.workload, self.device, recipe = workload, workload.device, workload.recipe
        self.members = torch.nn.ModuleList(baseline.network_like(each) for each in members_of(workload.model))
        self.check_loss()
        self.optimizer = torch.optim.SGD(
            self.members.parameters(), LR, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True)
        images = baseline.PILImages(workload.images, workload.labels, recipe, resized=len(self.members) > 1)
        self.loaders = [baseline.loader(images, workload.batch, self.device, side_by_side=len(self.members))
                        for _ in self.members]
        self.rng = np.random.default_rng(0)

    def check_loss(self):
        ours, batch = self.workload.training_loss, next(self.workload.batches(0, min(4, self.workload.batch)))
        loss = ours(*ours.preprocess(*batch[:2]), *batch[2:]).item()
        expected = self.loss(*batch)[0].item()
        tolerance = 1e-4 if self.device.type == "cpu" else 1e-2  # GPUs convolve in TF32
        assert abs(loss - expected) < tolerance * max(1, abs(expected)), f"two different losses: {loss} and {expected}"

    def loss(self, inputs, targets, aux_images=None, aux_labels=None):
        if targets.dim() == 1:  # a single network's batch
            inputs, targets = inputs[None], targets[None]
        inputs = inputs.contiguous()
        if aux_images is None:
            return baseline.loss_of(self.members, inputs, targets)
        return baseline.sdde_loss_of(self.members, inputs, targets, aux_images.contiguous(), aux_labels,
                                     self.workload.recipe.diversity_weight)

    def train(self):
        steps, total, correct = self.workload.steps, 0, 0
        with_data, diversity = self.workload.case.with_data, self.workload.run.method.diversity
        for inputs, targets in self.batches() if with_data else [self.workload.one_batch[:2]] * steps:
            aux = ()
            if diversity != "none":
                one = self.rng.integers(len(self.members))
                aux = inputs[one], targets[one]
            loss, logits = self.loss(inputs, targets, *aux)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(targets)
            correct += sum((z.argmax(1) == y).sum().item() for z, y in zip(logits, targets.view(len(logits), -1)))
        return steps * self.workload.batch * len(self.members)

    def batches(self):
        for batches in zip(*self.loaders):
            yield tuple(torch.stack(parts).to(self.device) for parts in zip(*batches))

    def close(self):
        del self.loaders  # ends their workers
