"""One process or several: `torchrun --nproc_per_node=N train.py …` starts N ranks, each with a part of every batch.

With one process every function here is free of cost and of torch.distributed. Rank 0, the main one, writes the files.
"""
import contextlib
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def start():
    """Join the processes that torchrun started, if it did. Collectives use NCCL on GPUs and gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def is_distributed():
    return dist.is_available() and dist.is_initialized()


def rank_and_world_size():
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def is_main():
    return rank_and_world_size()[0] == 0


def rank_suffix():
    """"" for one process, else this one's rank, for messages."""
    return f", rank {rank_and_world_size()[0]}" if is_distributed() else ""


def launcher():
    """How this program was started, for messages."""
    return f"torchrun --nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}" if is_distributed() else "python"


def local_device(device):
    """The GPU of this rank when a device without a number was chosen for several ranks, else the device."""
    if is_distributed() and device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)  # for what NCCL allocates by itself
    return device


# ---- collectives ----

def all_reduce_sum(tensor):
    """The sum over all ranks, in place."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(number):
    """The largest of all ranks' small integers, on every rank."""
    if not is_distributed():
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def broadcast_from_main(value):
    """Rank 0's value on every rank."""
    if is_distributed():
        box = [value]
        dist.broadcast_object_list(box)
        value = box[0]
    return value


def gather_to_main(value):
    """The list of all ranks' values on rank 0, None on the others."""
    if not is_distributed():
        return [value]
    values = [None] * rank_and_world_size()[1] if is_main() else None
    dist.gather_object(value, values)
    return values


def all_gather_object(value):
    """The list of all ranks' values, on every rank."""
    if not is_distributed():
        return [value]
    values = [None] * rank_and_world_size()[1]
    dist.all_gather_object(values, value)
    return values


def all_gather_rows(tensor, counts):
    """The rows of all ranks one after another, on every rank: (n, …) → (Σ counts, …).

    Args:
        counts: how many rows each rank has.
    """
    if not is_distributed():
        return tensor
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])  # collectives want equal sizes
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


@contextlib.contextmanager
def raise_on_all_ranks(error_type):
    """A block whose failure with `error_type` on any rank ends all of them with that message."""
    message = ""
    try:
        yield
    except error_type as error:
        message = str(error)
    for text in all_gather_object(message):
        if text:
            raise error_type(text)


# ---- gradients and batch statistics ----

def wrap_ddp(module, device):
    """The module so that gradients are averaged over the ranks in the backward pass."""
    if not is_distributed():
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def no_sync(module, is_last):
    """For the backward passes of an accumulated step: gradients are averaged in the last one only."""
    return contextlib.nullcontext() if is_last or not is_distributed() else module.no_sync()


def convert_sync_batchnorm(model, device):
    """The model with batch statistics over all ranks' images, so that the number of ranks changes nothing.

    Statistics of a rank's own part alone would make the run depend on the number of ranks, and B = 256 over 8 GPUs is a
    BN batch of 32 already. Parameters and state-dict keys stay what they are.
    """
    if not is_distributed():
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        for child in module.children():
            if type(child) is nn.BatchNorm2d:
                child.__class__ = CpuSyncBatchNorm  # the same parameters, buffers and settings; another forward
    return model


class AllReduceSum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx, tensor):
        return all_reduce_sum(tensor.clone())

    @staticmethod
    def backward(ctx, grad):
        return all_reduce_sum(grad.clone())


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """nn.SyncBatchNorm refuses CPU tensors; this is its training forward by differentiable all-reduces."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        channels = x.shape[1]
        count = x.new_full((1,), x.numel() / channels)
        totals = AllReduceSum.apply(torch.cat([x.sum((0, 2, 3)), count]))  # (C + 1)
        n = totals[-1].detach()
        mean = totals[:-1] / n
        centred = x - mean.view(1, -1, 1, 1)
        variance = AllReduceSum.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
