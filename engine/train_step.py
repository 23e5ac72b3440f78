"""One step of SGD, in the fastest form that the device supports. Each form is off by a flag of train.py; without them
all it is plain float32, eager. The recipe is the same in every form."""
from dataclasses import dataclass

import torch

from engine import distributed
from engine.cuda_graph import Recording
from recipes import DICE
from utils.io import UserError

EAGER_STEPS = 3  # before the recording: libraries pick their algorithms and reserve memory in their first calls


@dataclass(frozen=True)
class Speed:
    """bf16: convolutions and products in bfloat16, heads, losses and BN statistics in float32. graphs: the step is
    recorded as a CUDA graph and replayed, so that Python and launches cost nothing. compiled: by torch.compile."""

    bf16: bool
    graphs: bool
    compiled: bool


def speed_of(device, method, recipe, bf16=None, graphs=None, compiled=None):
    """The Speed asked for, None meaning what is known to pay on the device. UserError when it cannot be had."""
    on_gpu = device.type == "cuda"
    accumulates = recipe.micro_batch and recipe.micro_batch < recipe.batch_size
    against_graphs = ("they need a CUDA device" if not on_gpu else "not with several processes" if distributed.several()
                      else "not with --micro-batch" if accumulates
                      else "DICE looks at its batches on the CPU" if method.diversity in DICE else "")
    if graphs and against_graphs:
        raise UserError(f"--graphs: {against_graphs}")
    if compiled and (distributed.several() or method.diversity in DICE):
        raise UserError("--compile: neither with several processes nor for DICE, which looks at its batches on the CPU")
    return Speed(bf16=on_gpu and torch.cuda.is_bf16_supported() if bf16 is None else bf16,
                 graphs=not against_graphs if graphs is None else graphs, compiled=bool(compiled))


class Stepper:
    """Steps of one run. `sums`, on the device, adds up what they report, times their images; nothing waits for it.

    Args:
        objective, optimizer: as they will be used; a checkpoint's state must be in them already.
        adversary: DICE's Adversary, or None.

    `unrecorded` says why steps are not replayed although they should be, "" if they are.
    """

    def __init__(self, objective, optimizer, adversary, recipe, speed, device):
        self.objective, self.optimizer, self.adversary, self.recipe = objective, optimizer, adversary, recipe
        self.speed, self.device = speed, device
        self.names = [*objective.names, *(adversary.names if adversary else ())]
        self.sums = torch.zeros(len(self.names), device=device)
        self.loss_of = distributed.averaging(compiled(objective) if speed.compiled else objective, device)
        self.seen, self.recording, self.unrecorded = 0, None, ""
        if speed.graphs:  # a recording reads numbers only once, tensors at every replay
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)

    def __call__(self, batch, lr, size):
        """Step on a batch of epoch.batches_of, this process's part of `size` images."""
        for group in self.optimizer.param_groups:
            if self.speed.graphs:
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        if self.speed.graphs:
            return self.recorded(*self.prepared(*batch))
        processes = distributed.shard()[1]
        parts = -(-size // (processes * self.recipe.micro_batch)) if self.recipe.micro_batch else 1
        self.optimizer.zero_grad()
        for k in range(parts):
            inputs, targets, *shown = batch
            part = inputs.tensor_split(parts, -4)[k], targets.tensor_split(parts, -1)[k], *(
                each if each is None else each.tensor_split(parts)[k] for each in shown)
            with distributed.without_averaging(self.loss_of, but_last=k == parts - 1):
                # averaged over processes: times their number
                self.backward(self.prepared(*part), part[1].shape[-1] * processes / size)
        self.update()

    def prepared(self, inputs, targets, *shown):
        """A batch as the network gets it: mixed by its criterion where that mixes, channels innermost in memory."""
        inputs, targets = self.objective.preprocessed(inputs, targets)
        return channels_last(inputs), targets, *shown

    def backward(self, batch, share):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.speed.bf16):
            loss = self.loss_of(*batch)
        (loss * share).backward()
        count, own = batch[1].shape[-1], len(self.objective.names)
        self.sums[:own] += self.objective.report * count
        if self.adversary:
            self.sums[own:] += self.adversary.step(self.objective.features, self.objective.labels) * count

    def update(self):
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.clip)
        self.optimizer.step()

    # ---- as a CUDA graph ----

    def recorded(self, *batch):
        """Step by replaying; the first steps, and batches of another shape (an epoch's last one), eagerly."""
        if self.recording and self.recording.fits(batch):
            return self.recording.replay(batch)
        self.whole(*batch)
        self.seen += 1
        if self.seen == EAGER_STEPS:
            try:
                self.recording = Recording(self.whole, batch, self.device)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # something in the step cannot be recorded: as slow as without, and no worse
                self.unrecorded = str(error).splitlines()[0]

    def whole(self, *batch):
        self.optimizer.zero_grad()
        self.backward(batch, 1)
        self.update()


def compiled(objective, backend="inductor"):
    """The whole loss as one function, or an error: a compiled network alone has no second derivatives."""
    if hasattr(torch._dynamo.config, "trace_autograd_ops"):
        torch._dynamo.config.trace_autograd_ops = True  # the gradients inside GradCAM's loss
    return torch.compile(objective, fullgraph=True, backend=backend)


def channels_last(images):
    """The images with the channels innermost in memory; (N, B, 3, H, W) or (B, 3, H, W), the shape stays.

    Grey images, whose channels are one and the same memory, are left so.
    """
    if images.stride(-3) == 0:
        return images
    if images.dim() == 4:
        return images.contiguous(memory_format=torch.channels_last)
    return images.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, images.shape[:2])
