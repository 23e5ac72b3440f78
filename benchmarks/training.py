"""Training with its input: what train.py does in its loop, against the ordinary way, on the same images."""
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import plain
from benchmarks.machine import flops_of
from benchmarks.timing import summary, take_turns
from data.datasets import CATALOG
from data.loaders import ResidentImages
from engine import devices
from engine.batches import batches_of
from engine.build import build_model, build_training_loss, members_of
from engine.train_step import TrainStep, execution_options

LR = 1e-3  # labels are random: a published learning rate might diverge
ORDINARY = "DataLoader, float32, NCHW, .item()"


class Case(NamedTuple):
    title: str
    dataset: str
    model: str
    method: str
    small: tuple  # images a batch and batches a round on a CPU, quick
    large: tuple  # the same when there is time; a GPU takes the recipe's batches
    targets: dict  # device type → ratio
    fed: bool = True  # False: the step alone, again and again on one batch
    bf16: bool | None = None  # None: as train.py does by itself


CIFAR_ON_CPU = 1.3
CASES = [
    Case("ResNet34", "cifar10", "resnet34", "dismax", (16, 1), (64, 2), {"cpu": CIFAR_ON_CPU, "cuda": 10}),
    Case("DenseNet-BC-100", "cifar10", "densenetbc100", "dismax", (16, 1), (64, 2), {"cpu": CIFAR_ON_CPU, "cuda": 6}),
    Case("WideResNet-28-10", "cifar10", "wideresnet2810", "dismax", (4, 1), (64, 1), {"cpu": CIFAR_ON_CPU, "cuda": 4}),
    Case("LeNet, MNIST's size", "mnist", "lenet", "dismax", (128, 20), (128, 100), {"cpu": 3}),
    Case("ResNet34, --bf16", "cifar10", "resnet34", "dismax", (16, 1), (64, 2), {}, bf16=True),
    Case("5 LeNets, deep ensemble", "mnist", "lenet", "de", (128, 3), (128, 16), {"cpu": 2.5}),
    Case("5 LeNets, deep ensemble: step alone", "mnist", "lenet", "de", (128, 3), (128, 16), {"cpu": 1.5}, fed=False),
    Case("5 LeNets, SDDE", "mnist", "lenet", "gradcam", (128, 3), (128, 16), {"cpu": 2.5}),
    Case("5 LeNets, SDDE: step alone", "mnist", "lenet", "gradcam", (128, 3), (128, 16), {"cpu": 2.5}, fed=False),
    Case("5 ResNet18s, deep ensemble", "cifar10", "resnet18_32x32", "de", (4, 1), (32, 1), {"cpu": CIFAR_ON_CPU}),
    Case("5 ResNet18s, SDDE", "cifar10", "resnet18_32x32", "gradcam", (4, 1), (32, 1), {"cpu": CIFAR_ON_CPU}),
]


def run(device, quick):
    for case in CASES:
        if case.bf16 and not (device.type == "cpu" and devices.multiplies_bfloat16(device)):
            yield {"what": f"training, {case.title}", "not_measured": "needs a CPU with AMX (a GPU uses it anyway)"}
            continue
        batch, steps = size_of(case, device, quick)
        made = Made(case, device, batch, steps)
        rates = take_turns({"ours": made.ours, ORDINARY: made.ordinary}, 1 if quick else 3, device)
        yield {"what": f"training, {case.title}, B = {batch}", "unit": "images/s", "against": ORDINARY,
               "target": case.targets.get(device.type), "flops": made.flops, "bf16": made.options.bf16,
               "options": made.options.record(), **summary(rates, "ours", ORDINARY)}
        made.close()


def size_of(case, device, quick):
    if device.type == "cuda":
        return plain.run_of(case.dataset, case.model, case.method).recipe.batch_size, 50 if quick else 300
    return case.small if quick else case.large


class Made:
    """A case on a device: `ours` and `ordinary`, functions that train on so many batches and say on how many images.

    Both start from the same weights, and are asserted to compute the same loss.
    `flops` are ours of one image, forward and backward.
    """

    def __init__(self, case, device, batch, steps):
        self.case, self.device, self.batch, self.count = case, device, batch, steps
        self.run = plain.run_of(case.dataset, case.model, case.method, batch_size=batch)
        self.recipe = self.run.recipe
        self.options = execution_options(device, self.run, case.bf16)
        catalog, rng = CATALOG[case.dataset], np.random.default_rng(0)
        channels = 1 if catalog.size == 28 else 3
        images = rng.integers(0, 256, (batch * steps, catalog.size, catalog.size, channels), dtype=np.uint8)
        labels = rng.integers(0, catalog.classes, len(images))  # what is in them changes no time
        self.data = ResidentImages(images, labels, device, catalog.size, (self.recipe.mean, self.recipe.std))

        torch.manual_seed(0)
        model = build_model(self.run, catalog.classes).to(device).train()
        self.members = torch.nn.ModuleList(plain.plain(member) for member in members_of(model))
        model.to(memory_format=torch.channels_last)
        self.training_loss = build_training_loss(model, self.run)
        self.compare()
        optimizer = torch.optim.SGD(  # as train.py's
            model.parameters(), LR, self.recipe.momentum, weight_decay=self.recipe.weight_decay, nesterov=True,
            fused=True)
        self.train_step = TrainStep(self.training_loss, optimizer, None, self.recipe, self.options, device)
        self.plain_optimizer = torch.optim.SGD(
            self.members.parameters(), LR, self.recipe.momentum, weight_decay=self.recipe.weight_decay, nesterov=True)
        pictures = plain.Pictures(images, labels, self.recipe, resized=len(self.members) > 1)
        self.loaders = [plain.loader(pictures, batch, device, side_by_side=len(self.members)) for _ in self.members]
        self.numbers = iter(range(1, 10**6))  # of epochs
        self.same = next(self.batches()) if not case.fed else None
        self.chance = np.random.default_rng(0)

    def compare(self):
        """The two losses of one batch; what they ask for is counted, and their gradients are thrown away."""
        batch = next(self.batches(min(4, self.batch), 0))
        losses = []

        def whole():
            inputs, targets = self.training_loss.preprocess(*batch[:2])
            losses.append(self.training_loss(inputs, targets, *batch[2:]))
            losses[0].backward()

        self.flops = flops_of(whole) / batch[1].numel()
        losses.append(self.plain_loss(*batch)[0])
        self.training_loss.zero_grad()
        ours, theirs = (loss.item() for loss in losses)
        tolerance = 1e-4 if self.device.type == "cpu" else 1e-2  # GPUs convolve in TF32
        assert abs(ours - theirs) < tolerance * max(1, abs(theirs)), f"two different losses: {ours} and {theirs}"

    def batches(self, size=None, epoch=1):
        recipe = self.recipe if size is None else self.recipe.changed(batch_size=size)
        return batches_of(self.data, None, replace(self.run, recipe=recipe), epoch, 0)

    # ---- ours ----

    def ours(self):
        with devices.side_stream(self.device):
            for batch in self.batches(epoch=next(self.numbers)) if self.case.fed else [self.same] * self.count:
                self.train_step(batch, LR, self.batch)
        return self.count * self.batch * len(self.members)

    # ---- the ordinary way ----

    def plain_loss(self, inputs, targets, aux=None, aux_labels=None):
        if targets.dim() == 1:  # a single network's batch
            inputs, targets = inputs[None], targets[None]
        inputs = inputs.contiguous()
        if aux is None:
            return plain.loss_of(self.members, inputs, targets)
        return plain.sdde_loss_of(
            self.members, inputs, targets, aux.contiguous(), aux_labels, self.recipe.diversity_weight)

    def ordinary(self):
        total = correct = 0
        for inputs, targets in self.pictures() if self.case.fed else [self.same[:2]] * self.count:
            aux = ()
            if self.run.method.diversity != "none":
                one = self.chance.integers(len(self.members))
                aux = inputs[one], targets[one]
            loss, logits = self.plain_loss(inputs, targets, *aux)
            self.plain_optimizer.zero_grad()
            loss.backward()
            self.plain_optimizer.step()
            total += loss.item() * len(targets)
            correct += sum((z.argmax(1) == y).sum().item() for z, y in zip(logits, targets.view(len(logits), -1)))
        return self.count * self.batch * len(self.members)

    def pictures(self):
        for batches in zip(*self.loaders):
            yield tuple(torch.stack(parts).to(self.device) for parts in zip(*batches))

    def close(self):
        del self.loaders  # ends their workers
