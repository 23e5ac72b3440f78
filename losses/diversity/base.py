"""What a diversity loss is given, checked; and in which precision it computes."""
import contextlib

import torch


def in_float32(tensor):
    """The tensor itself in float32 or float64, a float32 copy of a half or bfloat16 one."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@contextlib.contextmanager
def full_precision(tensor):
    """A block without autocast on the tensor's device; some, as "meta", have none anyway."""
    device = tensor.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else contextlib.nullcontext():
        yield


def member_logits(loss, logits):
    """(N, B, L) logits in full precision. ValueError when they are missing or of another shape, or when B is 0."""
    if logits is None:
        raise ValueError(f"{loss} needs logits=, the members' logits (N, B, L)")
    if isinstance(logits, (list, tuple)):
        logits = torch.stack(list(logits))
    if logits.dim() != 3 or not logits.numel():
        raise ValueError(f"{loss} needs logits of every member, (N, B, L) and not empty, got {tuple(logits.shape)}")
    return in_float32(logits)


def class_labels(loss, labels, logits):
    """(B) int64 labels. ValueError when they are missing, of another length or kind, or (where looking costs nothing,
    on a CPU) no class of the logits."""
    if labels is None:
        raise ValueError(f"{loss} needs labels=, (B) classes")
    if labels.shape != logits.shape[1:2]:
        raise ValueError(f"{loss} needs one label a sample, ({logits.shape[1]},), for all members alike, "
                         f"got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{loss} needs labels that are class numbers, got {labels.dtype}")
    looking_is_free = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if looking_is_free and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[2]:
        raise ValueError(f"{loss} needs labels in [0, {logits.shape[2]}), "
                         f"got {int(labels.min())} to {int(labels.max())}")
    return labels.long()


def choice(what, value, known):
    """The value. ValueError, naming the known ones, when it is not among them."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}: choose from {', '.join(known)}")
    return value


def of_label(values, labels):
    """values[n, b, labels[b]]: (N, B, L) → (N, B)."""
    return values.gather(2, labels.expand(len(values), -1)[..., None]).squeeze(2)


def without_label(values, labels):
    """values without the entry of the label: (N, B, L) → (N, B, L−1)."""
    n, b, classes = values.shape
    others = torch.arange(classes - 1, device=values.device).expand(b, -1)  # (B, L−1)
    others = others + (others >= labels[:, None])
    return values.gather(2, others.expand(n, -1, -1))
