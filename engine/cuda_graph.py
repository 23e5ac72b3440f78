"""A training step as a CUDA graph, and the check that a replay agrees with the step."""
import torch

# Versions before this one leave CUDA's allocator in the capture after a capture has failed (pytorch/pytorch#180395),
# so that a run could not continue. There steps run eagerly, unless graphs are asked for.
FIRST_SAFE_VERSION = (2, 13)
# of the change that the step makes: cuDNN may choose other kernels in a capture, and bfloat16 rounds
GRAPH_TOLERANCE = 0.05


class CUDAGraphStep:
    """A function of tensors (or None) of fixed shapes, recorded on the device's current stream. Recording runs nothing.

    RuntimeError when something in the function cannot be recorded.
    """

    def __init__(self, function, batch, device):
        self.static = [new if new is None else clone_memory(new) for new in batch]
        self.graph = torch.cuda.CUDAGraph()
        # "thread_local": data loaders' threads may go on using CUDA meanwhile
        with torch.cuda.device(device), torch.cuda.graph(
                self.graph, stream=torch.cuda.current_stream(device), capture_error_mode="thread_local"):
            function(*self.static)

    def accepts(self, batch):
        """Whether a batch has the recorded shapes."""
        return all(a is b if a is None or b is None else a.shape == b.shape for a, b in zip(self.static, batch))

    def replay(self, batch):
        for static, new in zip(self.static, batch):
            if static is not None:
                in_memory(static).copy_(in_memory(new))
        self.graph.replay()


def version_is_safe():
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) >= FIRST_SAFE_VERSION


def in_memory(tensor):
    """What of a tensor lies in memory: of grayscale images (…, 3, H, W), whose channels are one, (…, 1, H, W)."""
    return tensor.narrow(-3, 0, 1) if tensor.dim() > 2 and tensor.stride(-3) == 0 else tensor


def clone_memory(tensor):
    """A copy with the same strides."""
    return in_memory(tensor).clone().expand_as(tensor)


# ---- the check ----

class Snapshot:
    """Copies of everything that a step changes: name → tensor, changed in place by a step."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.values = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def restore(self):
        """Put the values back, into the same memory: a recorded step knows addresses."""
        with torch.no_grad():
            for name, value in self.values.items():
                self.tensors[name].copy_(value)


def distance(a, b):
    """Euclidean distance in float64; NaN unless NaNs stand at the same places."""
    difference = a.detach().double() - b.detach().double()
    return difference.masked_fill(a.isnan() & b.isnan(), 0).norm().item()


def disagreement(before, eager, replayed):
    """"" when two steps from the same state made the same change, else where they differ.

    Each tensor's difference must be within GRAPH_TOLERANCE of its change. Changes that are all rounding, such as those
    of a bias before batch normalization, are compared with a thousandth of the change of all matrices and kernels.

    Args:
        before, eager: Snapshots.
        replayed: name → tensor.
    """
    changes = {name: distance(before.values[name], eager.values[name]) for name in before.values}
    floor = 1e-3 * sum(change**2 for name, change in changes.items() if before.values[name].dim() > 1) ** 0.5
    for name, change in changes.items():
        difference = distance(eager.values[name], replayed[name])
        if not difference <= GRAPH_TOLERANCE * change + GRAPH_TOLERANCE * floor:  # a NaN differs
            return f"{name} differs by {difference:.3g}, the step changes it by {change:.3g}"
    return ""
