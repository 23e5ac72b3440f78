"""One step of SGD, in the fastest form that the device supports. A flag of train.py turns each form off; without them
the step is eager and in float32. The recipe is the same in every form."""
from dataclasses import asdict, dataclass

import torch

from engine import batch_parts, devices, distributed
from engine.cuda_graph import CUDAGraphStep, Snapshot, disagreement, version_is_safe
from losses.diversity.second_order import SecondOrderDiversityLoss
from recipes import DIVERSITIES
from utils.io import UserError

WARMUP_STEPS = 3  # before the recording: libraries choose their algorithms and reserve memory in their first calls


@dataclass(frozen=True)
class ExecutionOptions:
    """bf16: convolutions and products in bfloat16, heads, losses and BN statistics in float32. graphs: the step is
    recorded as a CUDA graph and replayed, so that Python and launches cost nothing. compiled: by torch.compile.
    why_eager: why there is no graph, "" where there may be one."""

    bf16: bool = False
    graphs: bool = False
    compiled: bool = False
    why_eager: str = ""

    def record(self):
        return asdict(self)


def execution_options(device, run, bf16=None, graphs=None, compiled=None):
    """The requested options; None selects what is faster on the device. UserError if an option is not available."""
    accumulates = run.recipe.micro_batch and run.recipe.micro_batch < run.recipe.batch_size
    is_dice = run.method.diversity != "none" and DIVERSITIES[run.method.diversity].discriminator
    why_not = ("CUDA graphs need a CUDA device" if device.type != "cuda" else
               "not with several ranks" if distributed.is_distributed() else
               "not with --micro-batch" if accumulates else "")
    if graphs and why_not:
        raise UserError(f"--graphs: {why_not}")
    if compiled and (distributed.is_distributed() or is_dice):
        raise UserError("--compile: neither with several ranks nor for DICE, whose weight changes every epoch")
    if graphs is None and not why_not and not version_is_safe():
        why_not = f"PyTorch {torch.__version__} does not recover from a capture that fails; --graphs tries it"
    if graphs is False:
        why_not = why_not or "--no-graphs"
    small = run.model == "lenet"  # bfloat16 gains nothing on its narrow layers
    pays = devices.multiplies_bfloat16(device) and not (small and device.type == "cpu")
    return ExecutionOptions(bf16=pays if bf16 is None else bf16, graphs=not why_not, compiled=bool(compiled),
                            why_eager=why_not)


class TrainStep:
    """Steps of one run. `sums`, on the device, adds up the metrics, times their images; nothing waits for it.

    Args:
        training_loss, optimizer: as they will be used; a checkpoint's state must be in them already.
        discriminator: DICE's DiscriminatorTrainer, or None.
        record: makes the recorded step; tests put another in its place.

    `graph_status` says "graphed", or why steps run eagerly.
    """

    def __init__(self, training_loss, optimizer, discriminator, recipe, options, device, record=CUDAGraphStep):
        self.training_loss, self.optimizer, self.discriminator = training_loss, optimizer, discriminator
        self.recipe, self.options, self.device, self.record = recipe, options, device, record
        self.names = [*training_loss.names, *(discriminator.names if discriminator else ())]
        self.sums = torch.zeros(len(self.names), device=device)
        self.loss = distributed.wrap_ddp(compile_loss(training_loss) if options.compiled else training_loss, device)
        self.graph, self.is_checked, self.warmup_steps, self.last_shapes = None, False, 0, None
        self.graph_error = "" if options.graphs else options.why_eager or "not asked for"
        if options.graphs:  # a recording reads numbers only once, tensors at every replay
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
            training_loss.weights = {name: torch.tensor(float(weight), device=device)
                                     for name, weight in training_loss.weights.items()}
            if discriminator:
                discriminator.prepare_recording()

    @property
    def graph_status(self):
        return f"eager: {self.graph_error}" if self.graph_error else "graphed" if self.graph else "eager: too few steps"

    def __call__(self, batch, lr, size):
        """Step on a batch of engine.batches, this rank's part of `size` images."""
        for group in self.optimizer.param_groups:
            if self.options.graphs:
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        if self.options.graphs:
            self.graphed_step(self.preprocess(*batch))
        else:
            self.eager_step(batch, size)

    def set_weight(self, name, value):
        """The factor of an auxiliary loss, from the next step on."""
        if self.options.graphs:
            self.training_loss.weights[name].fill_(value)
        else:
            self.training_loss.weights[name] = value

    def preprocess(self, inputs, targets, *aux):
        """A batch as the network gets it: mixed by its criterion where that mixes, channels innermost in memory."""
        inputs, targets = self.training_loss.preprocess(inputs, targets)
        return channels_last(inputs), targets, *aux

    def eager_step(self, batch, size):
        """One step, its gradients accumulated over micro-batches where the recipe says so.

        It is the step of the whole batch of all ranks, up to rounding, however the batch is split.
        """
        parts = batch_parts.count_of_parts(size, self.recipe)
        if parts == 1 and not distributed.is_distributed():
            return self.whole_step(*self.preprocess(*batch))
        self.zero_grad()
        found = batch_parts.parts_of(self.training_loss, batch, size, self.recipe, self.device)
        for k, (inputs, *others) in enumerate(found):
            with distributed.no_sync(self.loss, is_last=k == parts - 1):
                self.backward((channels_last(inputs), *others), size)
        self.update()

    def whole_step(self, *batch):
        self.zero_grad()
        self.backward(batch, batch[1].shape[-1])
        self.update()

    def zero_grad(self):
        self.optimizer.zero_grad()
        if self.discriminator:
            self.discriminator.zero_grad()

    def backward(self, batch, size):
        """Add the gradients of a batch, or of a part of a batch of `size` images, and its metrics."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
            loss = self.loss(*batch)
        ranks, own = distributed.rank_and_world_size()[1], len(self.training_loss.names)
        (loss if ranks == 1 else loss * ranks).backward()  # DDP averages over the ranks: times their number, the sum
        self.sums[:own] += self.training_loss.metrics * size
        if self.discriminator and batch[1].shape[-1]:
            self.sums[own:] += self.discriminator.backward(
                self.training_loss.aux_features, self.training_loss.aux_labels, batch[1].shape[-1] / size) * size

    def update(self):
        if self.discriminator:
            self.discriminator.update()
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.training_loss.parameters(), self.recipe.clip)
        self.optimizer.step()

    # ---- as a CUDA graph ----

    def graphed_step(self, batch):
        """Step by replaying; the first steps, and batches of another shape (an epoch's last one), eagerly.

        The first replay is checked against the eager step from the same state. If they differ, or if the step cannot be
        recorded, the run continues eagerly, and `graph_status` says why.
        """
        if self.graph and self.graph.accepts(batch):
            if self.is_checked:
                return self.replay(batch)
            return self.checked_replay(batch)
        self.whole_step(*batch)
        self.warmup_steps += 1
        shapes = [each is not None and each.shape for each in batch]
        is_usual, self.last_shapes = shapes == self.last_shapes, shapes  # not an epoch's last, smaller batch
        if self.warmup_steps >= WARMUP_STEPS and is_usual and not self.graph and not self.graph_error:
            try:
                self.graph = self.record(self.whole_step, batch, self.device)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.graph_error = f"the step could not be recorded ({first_line(error)})"
                if not version_is_safe():
                    raise UserError(f"{self.graph_error}, and PyTorch {torch.__version__} does not recover from that. "
                                    "Continue with the same command and --no-graphs") from error

    def replay(self, batch):
        try:
            self.graph.replay(batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the state on the device is unknown
            raise UserError(f"the recorded step failed ({first_line(error)}). The last checkpoint is whole: continue "
                            "with the same command and --no-graphs") from error

    def checked_replay(self, batch):
        tensors = dict(self.training_loss.model.state_dict(keep_vars=True)) | {"metrics": self.sums}
        for k, state in enumerate(self.optimizer.state.values()):
            tensors |= {f"{key} {k}": value for key, value in state.items() if torch.is_tensor(value)}
        if self.discriminator:
            tensors |= self.discriminator.tensors()
        rng, before = devices.rng_state(self.device), Snapshot(tensors)
        self.whole_step(*batch)
        eager, after = Snapshot(tensors), devices.rng_state(self.device)
        before.restore()
        devices.restore_rng_state(rng, self.device)
        self.replay(batch)
        if difference := disagreement(before, eager, tensors):
            self.graph_error, self.graph = f"a replay differed from the step ({difference})", None
            eager.restore()
            devices.restore_rng_state(after, self.device)
        self.is_checked = True
        del before, eager
        self.zero_grad()
        devices.release_memory(self.device)  # an eager step's and its gradients', as a recording has its own


def first_line(error):
    return (str(error) or type(error).__name__).splitlines()[0]


def compile_loss(training_loss, backend="inductor"):
    """The whole loss as one function, or an error: a compiled network alone has no second derivatives."""
    if can_compile_gradients():
        torch._dynamo.config.trace_autograd_ops = True  # the gradients inside GradCAM's loss
    elif any(isinstance(loss, SecondOrderDiversityLoss) for loss in training_loss.aux_losses.values()):
        raise UserError(f"--compile: PyTorch {torch.__version__} cannot compile the gradients inside a diversity loss. "
                        "Leave out --compile, or use a newer PyTorch")
    return torch.compile(training_loss, fullgraph=True, backend=backend)


def can_compile_gradients():
    return hasattr(torch._dynamo.config, "trace_autograd_ops")


def channels_last(images):
    """The images with the channels innermost in memory; (N, B, 3, H, W) or (B, 3, H, W), the shape stays.

    Grayscale images, whose channels are one and the same memory, are left so.
    """
    if images.stride(-3) == 0:
        return images
    if images.dim() == 4:
        return images.contiguous(memory_format=torch.channels_last)
    return images.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, images.shape[:2])
