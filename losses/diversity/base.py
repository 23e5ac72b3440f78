"""The base class of the diversity losses: their arguments, checks and precision."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Members = Tensor | Sequence[Tensor]  # of N members: one tensor (N, B, …), or a list of N


class DiversityLoss:
    """A loss of the outputs of N members, to be minimized: `loss(images=, labels=, logits=, features=, feature_maps=)`.

    Each subclass lists in `needs` the arguments that it uses, and `value(**those)` computes the loss from them, checked
    and in float32 or float64. The other arguments can be left out, so all losses can be called in the same way.
    """

    needs: tuple[str, ...] = ()
    value: Callable[..., Tensor]

    def __call__(
        self, images: Tensor | None = None, labels: Tensor | None = None, logits: Members | None = None,
        features: Sequence[Tensor] | None = None, feature_maps: Members | None = None,
    ) -> Tensor:
        """The loss, a scalar connected to the graph.

        Args:
            images: (N, B, …), the same tensor that the members were given, requiring gradients.
            labels: (B) classes of any integer type, the same for all members.
            logits: (N, B, L), or a list of N (B, L). Not empty.
            features: list of N (B, D). Not empty.
            feature_maps: list of N (B, C, H, W), or one tensor (N, B, C, H, W), from which the logits were computed.

        ValueError if an argument that the loss needs is missing or has another shape. TypeError for a subclass
        without `value`, or with neither logits nor features in `needs`.
        """
        if not {"logits", "features"} & set(self.needs) or not hasattr(self, "value"):
            raise TypeError(f"{type(self).__name__} must define `needs`, the names of the arguments that it uses (with "
                            "logits or features among them), and `value`, a method that computes the loss from them")
        given: dict[str, Any] = {"images": images, "labels": labels, "logits": logits, "features": features,
                                 "feature_maps": feature_maps}
        checked = {name: given[name] for name in self.needs}
        if "logits" in checked:
            checked["logits"] = self.checked_logits(logits)
        if "features" in checked:
            checked["features"] = self.checked_features(features)
        if "labels" in checked and "logits" in checked:
            checked["labels"] = self.checked_labels(labels, *checked["logits"].shape[1:])
        elif "labels" in checked:
            checked["labels"] = self.checked_length(labels, len(checked["features"][0]))
        with full_precision(checked.get("logits", checked.get("features", [None])[0])):
            return self.value(**checked)

    def needs_error(self, what: str) -> ValueError:
        return ValueError(f"{type(self).__name__} needs {what}")

    def checked_logits(self, logits: Members | None) -> Tensor:
        if logits is None:
            raise self.needs_error("logits=, the members' logits (N, B, L)")
        if not isinstance(logits, Tensor):
            logits = torch.stack(list(logits))
        if logits.dim() != 3 or not logits.numel():
            raise self.needs_error(f"logits of every member, (N, B, L) and not empty, got {tuple(logits.shape)}")
        return in_float32(logits)

    def checked_features(self, features: Sequence[Tensor] | None) -> list[Tensor]:
        if features is None or not len(features):
            raise self.needs_error("features=, a list of N (B, D)")
        if len({tuple(f.shape) for f in features}) > 1:
            raise self.needs_error("features of one shape (B, D) for every member, got "
                                   f"{', '.join(str(tuple(f.shape)) for f in features)}")
        if not features[0].numel():
            raise self.needs_error(f"features of at least one sample, got {tuple(features[0].shape)}")
        return [in_float32(f) for f in features]

    def checked_length(self, labels: Tensor | None, size: int) -> Tensor:
        if labels is None:
            raise self.needs_error("labels=, (B) classes")
        if labels.shape != (size,):
            raise self.needs_error(f"one label per sample, ({size},), for all members alike, got {tuple(labels.shape)}")
        return labels

    def checked_labels(self, labels: Tensor | None, size: int, classes: int) -> Tensor:
        """(B) int64. That they are classes of the logits is looked at where looking costs nothing, on a CPU."""
        labels = self.checked_length(labels, size)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise self.needs_error(f"labels that are class numbers, got {labels.dtype}")
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = int(labels.min()), int(labels.max())
            if not 0 <= low <= high < classes:
                raise self.needs_error(f"labels in [0, {classes}), got {low} to {high}")
        return labels.long()


def in_float32(tensor: Tensor) -> Tensor:
    """The tensor itself in float32 or float64, a float32 copy of a half or bfloat16 one."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A block without autocast on the tensor's device; a "meta" tensor, which has no values, knows no autocast."""
    device = tensor.device.type  # is_autocast_available and generators cannot be compiled by every PyTorch since 2.6
    return contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def choice(what: str, value: T, known: Iterable[T]) -> T:
    """The value. ValueError, naming the known ones, when it is not among them."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}: choose from {', '.join(map(str, known))}")
    return value


def of_label(values: Tensor, labels: Tensor) -> Tensor:
    """values[n, b, labels[b]]: (N, B, L) → (N, B)."""
    return values.gather(2, labels.expand(len(values), -1)[..., None]).squeeze(2)


def without_label(values: Tensor, labels: Tensor) -> Tensor:
    """values without the entry of the label: (N, B, L) → (N, B, L−1)."""
    n, b, classes = values.shape
    others = torch.arange(classes - 1, device=values.device).expand(b, -1)  # (B, L−1)
    others = others + (others >= labels[:, None])
    return values.gather(2, others.expand(n, -1, -1))
