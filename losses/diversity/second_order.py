"""The base class of losses on gradients, which need second derivatives of the network and samples that do not mix."""
from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import DiversityLoss

CAUSES = (
    "Known causes: a network compiled by torch.compile (compile network and loss together as one function, or neither) "
    "and fused attention kernels, flash or memory-efficient (use torch.nn.attention.sdpa_kernel(SDPBackend.MATH); for "
    'Hugging Face models attn_implementation="eager"; in timm timm.layers.set_fused_attn(False)).'
)


class SecondOrderDiversityLoss(DiversityLoss):
    """A loss computed from gradients, which training differentiates again.

    The first call tries the second derivative, so a network without one gets a clear message here instead of PyTorch's
    error in the backward pass. It also warns if BatchNorm mixes the samples.
    """

    _tried = False

    def gradients(self, output: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """∂output/∂input for each input, differentiable; None if the output does not depend on it."""
        try:
            return list(torch.autograd.grad(output, list(inputs), create_graph=True, allow_unused=True))
        except RuntimeError as error:
            raise self.explained(error) from error

    def tried(self, value: Tensor, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
        """The value. On the first call: RuntimeError, with the cause, if it has no gradient; a UserWarning if BatchNorm
        in training mode lies between the inputs and the output."""
        if self._tried or torch.compiler.is_compiling():
            return value
        if _mixing_between(output, inputs):
            warnings.warn(f"{type(self).__name__}: a BatchNorm in training mode mixes the samples of the batch, so a "
                          "sample's gradients hold parts of the others'. Put the BatchNorms into eval mode for this "
                          "forward pass, as published", stacklevel=4)
        if value.requires_grad:
            try:
                torch.autograd.grad(value, list(inputs), retain_graph=True, allow_unused=True)
            except RuntimeError as error:
                raise self.explained(error) from error
        self._tried = True
        return value

    def explained(self, error: RuntimeError) -> RuntimeError:
        said = str(error).splitlines()[0]
        if not any(words in said for words in ("double backward", "donated buffers", "not implemented")):
            return error
        return RuntimeError(f"{type(self).__name__} needs second derivatives of the network, but a part of it has "
                            f"none: {said}. {CAUSES}")


def _mixing_between(output: Tensor, inputs: Sequence[Tensor]) -> bool:
    """Whether a BatchNorm in training mode lies on the way from the output back to the inputs."""
    seen = {tensor.grad_fn for tensor in inputs}
    nodes = [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        if "SyncBatchNorm" in name or "BatchNorm" in name and getattr(node, "_saved_training", False):
            return True
        nodes.extend(parent for parent, _ in node.next_functions)
    return False
