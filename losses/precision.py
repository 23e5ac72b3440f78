"""In which precision heads, losses and scores compute, and when the values of a tensor may be looked at."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_HALVES = (torch.float16, torch.bfloat16)
_PLAIN_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))


def in_float32(tensor: Tensor) -> Tensor:
    """The tensor itself in float32 or float64, a float32 copy of a half or bfloat16 one."""
    return tensor.float() if tensor.dtype in _HALVES else tensor


def in_full_precision(function: Callable[..., Tensor], features: Tensor, *others: Any) -> Tensor:
    """function(features, *others) in float32, or float64 if the features are, with autocast off on their device.

    The first of the others is a parameter of the head; only if its type is another one are all tensors converted.
    """
    features = in_float32(features)
    if others and others[0].dtype != features.dtype:
        others = tuple(other.to(features.dtype) if isinstance(other, Tensor) else other for other in others)
    if torch._C._is_any_autocast_enabled():
        device = features.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return function(features, *others)
    return function(features, *others)


def is_eager(*tensors: Tensor) -> bool:
    """Whether the code runs on plain tensors now, so that an autograd function of one's own can be used.

    False while a graph is made (torch.compile, torch.export, torch.jit.trace, make_fx), inside torch.func's transforms
    and forward-mode differentiation, and for tensor subclasses (fake, functional and distributed tensors).
    """
    if torch.compiler.is_compiling() or is_traced() or is_transformed() or forward_ad._current_level >= 0:
        return False
    if torch._C._len_torch_dispatch_stack():  # make_fx records plain tensors, fake-tensor mode turns them into others
        return False
    return _PLAIN_TYPES.issuperset(map(type, tensors))


def is_traced() -> bool:
    """Whether torch.jit.trace is recording."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing


def is_transformed() -> bool:
    """Whether this is inside torch.func's vmap, grad, jvp …"""
    return torch._C._are_functorch_transforms_active()


def values_are_at_hand(tensor: Tensor) -> bool:
    """Whether Python may read the tensor's values at no cost: eager and on a CPU. A GPU would have to be waited for."""
    return tensor.is_cpu and is_eager(tensor)
