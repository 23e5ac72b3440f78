"""Training as in train.py, on random images, whose content does not affect the time."""
import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.roofline import cost_of
from data.datasets import CATALOG
from data.loaders import ResidentImages
from engine import devices
from engine.batches import batches_of
from engine.build import build_model, build_training_loss
from engine.discriminator import discriminator_of
from engine.train_step import TrainStep, execution_options
from recipes import method_of, recipe_of
from utils.run_dir import Run

LR = 1e-3  # labels are random: a published learning rate might diverge


@dataclass(frozen=True)
class Case:
    """What is trained. `small` and `large`: images a batch and batches a round on a CPU, in a quick bench and in a full
    one; a GPU takes the recipe's batches. `target`: device type → least ratio to the baseline."""

    title: str
    dataset: str
    model: str
    method: str
    small: tuple
    large: tuple
    target: dict = field(default_factory=dict)
    with_data: bool = True  # False: the step alone, again and again on one batch
    bf16: bool | None = None  # None: as train.py does by itself
    compiled: bool | None = None

    def size(self, device, quick):
        """(images a batch, batches a round)."""
        if device.type == "cuda":
            return run_of(self.dataset, self.model, self.method).recipe.batch_size, 50 if quick else 300
        return self.small if quick else self.large


def run_of(dataset, model, name, **changes):
    """The Run of a method by its published recipe, with some fields of the recipe changed."""
    base, method = method_of(name)
    recipe = recipe_of(dataset, base, method, model).changed(**changes)
    return Run(Path(), dataset, model, name, 1, method, recipe)


class Workload:
    """A case on a device. `train` does `steps` steps; `cost` is the StepCost of an image, counted in an eager step.

    Args:
        batch: images a batch, of each member.
        options: ExecutionOptions, instead of those of the case.
    """

    def __init__(self, case, device, batch, steps, options=None):
        self.case, self.device, self.batch, self.steps = case, device, batch, steps
        self.run = run_of(case.dataset, case.model, case.method, batch_size=batch)
        self.recipe, self.members = self.run.recipe, self.run.method.members
        self.options = options or execution_options(  # graphs also where an old PyTorch has them off by default
            device, self.run, case.bf16, graphs=device.type == "cuda" or None, compiled=case.compiled)
        self.number_format = "bfloat16" if self.options.bf16 else conv_format(device)
        catalog, rng = CATALOG[case.dataset], np.random.default_rng(0)
        channels = 1 if catalog.size == 28 else 3
        self.images = rng.integers(0, 256, (batch * steps, catalog.size, catalog.size, channels), dtype=np.uint8)
        self.labels = rng.integers(0, catalog.classes, len(self.images))
        self.data = ResidentImages(
            self.images, self.labels, device, catalog.size, (self.recipe.mean, self.recipe.std))
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        torch.backends.cudnn.benchmark = True  # as train.py does
        torch.manual_seed(0)
        self.model = build_model(self.run, catalog.classes).to(device, memory_format=torch.channels_last).train()
        self.training_loss = build_training_loss(self.model, self.run)
        self.optimizer = torch.optim.SGD(  # as train.py's
            self.model.parameters(), LR, self.recipe.momentum, weight_decay=self.recipe.weight_decay, nesterov=True,
            fused=True)
        self.discriminator = discriminator_of(self.training_loss.aux_losses.get("diversity"), self.recipe)
        self.epochs = iter(range(1, 10**6))
        self.one_batch = None if case.with_data else next(self.batches())
        self._cost = self._step = None

    @property
    def cost(self):
        """Counted before the first step only: later the optimizer belongs to a recording."""
        if self._cost is None:
            assert self._step is None, "count before training"
            with self.on_stream():
                options = replace(self.options, graphs=False, compiled=False)
                step = TrainStep(self.training_loss, self.optimizer, self.discriminator, self.recipe, options,
                                 self.device)
                batch = next(self.batches())
                self._cost = cost_of(lambda: step(batch, LR, self.batch), self.batch * self.members)
        return self._cost

    @property
    def step(self):
        if self._step is None:
            self._step = TrainStep(
                self.training_loss, self.optimizer, self.discriminator, self.recipe, self.options, self.device)
        return self._step

    def batches(self, epoch=1, size=None):
        recipe = self.recipe if size is None else self.recipe.changed(batch_size=size)
        return batches_of(self.data, None, replace(self.run, recipe=recipe), epoch, 0)

    def train(self):
        """Train on `steps` batches; returns the number of images, over all members."""
        with self.on_stream():
            batches = self.batches(next(self.epochs)) if self.case.with_data else [self.one_batch] * self.steps
            for batch in batches:
                self.step(batch, LR, self.batch)
        return self.steps * self.batch * self.members

    @contextlib.contextmanager
    def on_stream(self):
        """On a GPU one stream of our own, as in train.py: CUDA graphs are not recorded on the default one."""
        if self.stream is None:
            yield
            return
        devices.synchronize(self.device)
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield


def conv_format(device):
    """What convolutions of float32 tensors multiply in: on a GPU TF32, PyTorch's default."""
    return "tf32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"
