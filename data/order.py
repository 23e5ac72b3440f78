"""In which order an epoch shows the images: a function of (seed, epoch, member) alone, whoever asks and wherever."""
import numpy as np
import torch


def epoch_seed(*numbers):
    """A well-mixed 64-bit number from non-negative integers, such as (seed, epoch)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def generator_of(seed, epoch, member=None):
    """A generator on the CPU; `member` None: of a single network or a batch that all members share."""
    numbers = (seed, epoch) if member is None else (seed, epoch, 1 + member)  # −1: of nobody's batch
    return torch.Generator().manual_seed(epoch_seed(*numbers))


def shuffled(count, generator):
    """Every index once: (count)."""
    return torch.randperm(count, generator=generator)


def class_balanced(labels, batch_size, per_class, generator):
    """⌊n/B⌋ batches of B/K classes, drawn without replacement, with K images each, drawn with replacement: (⌊n/B⌋·B).

    A class is as likely as it is frequent (SDDE's sampler for DICE). Its images stand side by side in the batch.

    Args:
        labels: (n) int64 on the CPU.
        per_class: K; must divide batch_size, and the labels must have B/K classes, else ValueError.
    """
    if batch_size % per_class:
        raise ValueError(f"{per_class} images a class do not fill a batch of {batch_size}")
    sizes = labels.bincount()
    if batch_size // per_class > (sizes > 0).sum():
        raise ValueError(f"a batch of {batch_size} with {per_class} images a class needs {batch_size // per_class} "
                         f"classes, the set has {(sizes > 0).sum()}")
    steps = len(labels) // batch_size
    members, first = labels.argsort(stable=True), sizes.cumsum(0) - sizes
    classes = torch.multinomial(
        sizes.double().expand(steps, -1), batch_size // per_class, generator=generator)  # (steps, B/K)
    drawn = torch.rand(*classes.shape, per_class, generator=generator, dtype=torch.float64)  # (steps, B/K, K)
    rank = (drawn * sizes[classes][..., None]).long()
    return members[first[classes][..., None] + rank].flatten()


def share(count, shard):
    """The slice of `count` things that belongs to process k of n, shard = (k, n): contiguous, every thing once."""
    k, n = shard
    return slice(count * k // n, count * (k + 1) // n)
