"""The cost of a step: floating-point operations and bytes of memory traffic, counted in its graph."""
import math
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

ALLOCATES_ONLY = ("empty", "new_empty", "_unsafe_view", "_local_scalar_dense")  # no memory is read or written
OVERWRITES = ("copy_", "zero_", "fill_")  # what they change is not read


class StepCost(NamedTuple):
    """Of one image: FLOPs of matrix products and convolutions, and bytes that the operators read and write."""

    flops: float
    bytes: float

    @property
    def intensity(self):
        """FLOP/byte."""
        return self.flops / self.bytes


class TrafficCounter(TorchDispatchMode):
    """Within this block `bytes` adds up the sizes of what every ATen operator, forward and backward, reads and writes.

    Each operator reads each of its inputs once and writes each of its outputs once, also those that it changes in
    place; views are free. A dimension of stride 0 lies in memory once. It is what operators that are not fused must
    move at least: a kernel for batch normalisation reads its input twice, and caches may save some of it.
    """

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        name = function.overloadpacket.__name__
        if function.namespace == "aten" and not function.is_view and not name.startswith(ALLOCATES_ONLY):
            changed, out = changed_by(function, args, kwargs)
            read = tensors_in((args, kwargs))
            for tensor in changed if name in OVERWRITES else out:
                read.pop(id(tensor), None)
            written = tensors_in((output, changed, out))
            self.bytes += sum(size_in_memory(tensor) for part in (read, written) for tensor in part.values())
        return output


def changed_by(function, args, kwargs):
    """(arguments that an operator changes in place, those that it only writes to: `out=`), by its schema."""
    changed, out = [], []
    for place, argument in enumerate(function._schema.arguments):
        is_changed = argument.alias_info and argument.alias_info.is_write
        if is_changed and argument.name != "grads":  # a fused optimizer changes gradients only with a GradScaler
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            (out if argument.is_out else changed).extend(tensors_in(value).values())
    return changed, out


def tensors_in(tree):
    """id → tensor, the distinct ones of nested lists, tuples and dicts."""
    return {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}


def size_in_memory(tensor):
    return math.prod(n for n, stride in zip(tensor.shape, tensor.stride()) if stride) * tensor.element_size()


def cost_of(step, images):
    """The StepCost of a function that does one step on so many images."""
    with FlopCounterMode(display=False) as flops, TrafficCounter() as traffic:
        step()
    return StepCost(flops.get_total_flops() / images, traffic.bytes / images)
