"""Parts of a batch, over the ranks and in micro-batches, whose losses add up to that of the whole batch.

What looks at several images of a batch does so before it is split: DisMax's fractional probability regularisation mixes
over the whole batch of all ranks. DICE compares images of a class, so its batches are split between classes.
"""
import contextlib

import torch

from data.sampling import rank_slice
from engine import devices, distributed
from engine.cuda_graph import in_memory


def count_of_parts(size, recipe):
    """Micro-batches of each rank for a batch of `size` images over all ranks."""
    if not recipe.micro_batch:
        return 1
    unit = recipe.per_class or 1
    return -(-size // (unit * distributed.rank_and_world_size()[1] * max(recipe.micro_batch // unit, 1)))


def parts_of(training_loss, batch, size, recipe, device):
    """Yields the arguments of TrainingLoss.forward for each micro-batch of this rank; see there.

    Args:
        batch: this rank's (inputs, targets, aux_images, aux_labels) of engine.batches.
        size: images of the batch over all ranks.
    """
    inputs, targets, aux_images, aux_labels = batch
    parts, unit = count_of_parts(size, recipe), recipe.per_class or 1
    inputs, targets, split = preprocessed(training_loss, inputs, targets, size, unit, parts, device)
    aux_size = size
    if aux_images is not None and aux_labels is None:  # outliers, of which there are more or fewer
        aux_size = int(distributed.all_reduce_sum(torch.tensor(len(aux_images))))
    for k in range(parts):
        own = rank_slice(targets.shape[-1], (k, parts), unit)
        aux = own if aux_images is None or aux_labels is not None else rank_slice(len(aux_images), (k, parts))
        yield (rows(inputs, -4, own), rows(targets, -1, own), *(x if x is None else x[aux] for x in batch[2:]),
               split and [rows(split[0], -2, own), rows(split[1], -1, own), rows(split[2], -1, own)],
               (own.stop - own.start) / size, (aux.stop - aux.start) / aux_size)


def rows(tensor, dim, part):
    return tensor.narrow(dim, part.start, part.stop - part.start)


def preprocessed(training_loss, inputs, targets, size, unit, parts, device):
    """This rank's preprocessed inputs and targets; and their rows of TrainingLoss.split_targets, or None where nothing
    is mixed and the batch may be split as it is."""
    rank, ranks = distributed.rank_and_world_size()
    if ranks * parts == 1 or not (training_loss.mixes or unit > 1 and training_loss.reorders):
        return *training_loss.preprocess(inputs, targets), None
    slices = [rank_slice(size, (k, ranks), unit) for k in range(ranks)]
    if ranks > 1:
        counts, channels = [part.stop - part.start for part in slices], inputs.shape[-3]
        inputs = gathered(in_memory(inputs), -4, counts).expand(*[-1] * (inputs.dim() - 3), channels, -1, -1)
        targets = gathered(targets, -1, counts)
    with rng_of_main_rank(device):
        inputs, targets = training_loss.preprocess(inputs, targets)
    split = training_loss.split_targets(targets) if training_loss.mixes else None
    # class by class again where DICE compares images of a class; members share such batches
    order = targets.argsort(stable=True) if unit > 1 else torch.arange(size, device=targets.device)
    own = order[slices[rank]]
    return inputs.index_select(-4, own), targets.index_select(-1, own), split and [
        tensor.index_select(dim, own) for tensor, dim in zip(split, (-2, -1, -1))]


def gathered(tensor, dim, counts):
    """All ranks' rows along a dimension, on every rank."""
    return distributed.all_gather_rows(tensor.movedim(dim, 0), counts).movedim(0, dim)


@contextlib.contextmanager
def rng_of_main_rank(device):
    """A block in which every rank draws the random numbers of rank 0. Afterwards the other ranks' states are theirs."""
    if not distributed.is_distributed():
        yield
        return
    own = devices.rng_state(device)
    devices.restore_rng_state(distributed.broadcast_from_main(own), device)
    yield
    if not distributed.is_main():
        devices.restore_rng_state(own, device)
