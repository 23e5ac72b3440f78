"""One process or several: `torchrun --nproc_per_node=N train.py …` starts N, each with its part of every batch.

With one process every function here is free of cost and of torch.distributed. Process 0 is the one that writes.
"""
import contextlib
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def start():
    """Join the processes that torchrun started, if it did. Collectives go by NCCL on GPUs and by gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def several():
    return dist.is_available() and dist.is_initialized()


def shard():
    """(k, n): this is process k of n."""
    return (dist.get_rank(), dist.get_world_size()) if several() else (0, 1)


def is_main():
    return shard()[0] == 0


def local_device(device):
    """The GPU of this process when a device without a number was chosen for several, else the device."""
    if several() and device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)  # for what NCCL allocates by itself
    return device


def summed(tensor):
    """The sum over all processes, in place."""
    if several():
        dist.all_reduce(tensor)
    return tensor


def any_of(number):
    """The largest of everybody's small integers, on every process."""
    if not several():
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def from_main(value):
    """Process 0's value on every process."""
    if several():
        box = [value]
        dist.broadcast_object_list(box)
        value = box[0]
    return value


def gathered(value):
    """The list of all processes' values on process 0, None on the others."""
    if not several():
        return [value]
    values = [None] * shard()[1] if is_main() else None
    dist.gather_object(value, values)
    return values


def who():
    """"" for one process, else which one this is, for messages."""
    return f", process {shard()[0]}" if several() else ""


@contextlib.contextmanager
def failing_together(error_type):
    """A block whose failure with `error_type` on any process ends all of them with that message."""
    message = ""
    try:
        yield
    except error_type as error:
        message = str(error)
    for said in everybodys(message):
        if said:
            raise error_type(said)


def everybodys(value):
    """The list of all processes' values, on every process."""
    if not several():
        return [value]
    values = [None] * shard()[1]
    dist.all_gather_object(values, value)
    return values


def averaging(objective, device):
    """The objective so that gradients are averaged over the processes in the backward pass."""
    if not several():
        return objective
    return DistributedDataParallel(objective, device_ids=[device] if device.type == "cuda" else None)


def without_averaging(module, but_last):
    """For the backward passes of an accumulated step but its last."""
    return contextlib.nullcontext() if but_last or not several() else module.no_sync()


def command():
    """How this program was started."""
    return f"torchrun --nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}" if several() else "python"


def synchronised(model, device):
    """The model with batch statistics over all processes' images, so that how many processes there are changes nothing.

    Statistics of a process's own part alone would make the run depend on the number of processes, and B = 256 over 8
    GPUs is a BN batch of 32 already. Parameters and state-dict keys stay what they are.
    """
    if not several():
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        for child in module.children():
            if type(child) is nn.BatchNorm2d:
                child.__class__ = CpuSyncBatchNorm  # the same parameters, buffers and settings; another forward
    return model


class _Total(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of everybody's gradients."""

    @staticmethod
    def forward(ctx, tensor):
        return summed(tensor.clone())

    @staticmethod
    def backward(ctx, grad):
        return summed(grad.clone())


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """nn.SyncBatchNorm refuses CPU tensors; this is its training forward by differentiable all-reduces."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        channels = x.shape[1]
        count = x.new_full((1,), x.numel() / channels)
        totals = _Total.apply(torch.cat([x.sum((0, 2, 3)), count]))  # (C + 1)
        n = totals[-1].detach()
        mean = totals[:-1] / n
        centred = x - mean.view(1, -1, 1, 1)
        variance = _Total.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
