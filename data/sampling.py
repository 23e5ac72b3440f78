"""Named random streams, and in which order an epoch takes the images: a function of seed, epoch and member alone."""
import numpy as np
import torch

# What is drawn at random. Each name is a family of streams, and no two streams of any families share a state.
STREAMS = (
    "init",  # the network's first weights
    "shuffle",  # order of the training images
    "augment",  # crops and flips
    "mix",  # DisMax's shuffle and fractional probability regularisation, and whatever else a step draws
    "auxiliary",  # the member whose batch a diversity loss is computed on
    "outliers",  # order of the outlier images
    "resume",  # what a step draws after a stop, where the number of ranks has changed
)


def stream_entropy(seed, name, epoch=0, member=0, rank=0, step=0, image=0):
    """A np.random.SeedSequence of a stream. ValueError for an unknown name or a negative number."""
    if name not in STREAMS:
        raise ValueError(f"unknown random stream {name!r}: choose from {', '.join(STREAMS)}")
    # always as many numbers: a SeedSequence does not tell (1, 2) from (1, 2, 0)
    return np.random.SeedSequence((STREAMS.index(name), seed, epoch, member, rank, step, image))


def stream(seed, name, **place):
    """A NumPy generator; `place` as in `stream_entropy`."""
    return np.random.Generator(np.random.PCG64(stream_entropy(seed, name, **place)))


def stream_seed(seed, name, **place):
    """A 64-bit number for torch.manual_seed; `place` as in `stream_entropy`."""
    return int(stream_entropy(seed, name, **place).generate_state(1, np.uint64)[0])


def shuffled(count, generator):
    """Every index once: (count) int64."""
    return torch.from_numpy(generator.permutation(count))


def class_balanced(labels, batch_size, per_class, generator):
    """⌊n/B⌋ batches of B/K classes, drawn without replacement, with K images each, drawn with replacement: (⌊n/B⌋·B).

    A class is as likely as it is frequent (SDDE's sampler for DICE). Its images stand side by side in the batch.

    Args:
        labels: (n) int64 on the CPU.
        per_class: K; must divide batch_size, and the labels must have B/K classes, else ValueError.
        generator: of NumPy.
    """
    if batch_size % per_class:
        raise ValueError(f"{per_class} images per class do not fill a batch of {batch_size}")
    sizes = labels.bincount().numpy()
    if batch_size // per_class > (sizes > 0).sum():
        raise ValueError(f"a batch of {batch_size} with {per_class} images per class needs {batch_size // per_class} "
                         f"classes, the set has {(sizes > 0).sum()}")
    steps = len(labels) // batch_size
    members, first = labels.argsort(stable=True).numpy(), sizes.cumsum() - sizes
    # a race of exponential clocks with rates proportional to the sizes: the first B/K classes to ring are drawn
    with np.errstate(divide="ignore"):
        times = generator.exponential(size=(steps, len(sizes))) / sizes  # (steps, C)
    classes = times.argsort(1)[:, : batch_size // per_class]  # (steps, B/K)
    rank = (generator.random((*classes.shape, per_class)) * sizes[classes][..., None]).astype(np.int64)
    return torch.from_numpy(members[first[classes][..., None] + rank].reshape(-1))


def epoch_order(labels, seed, epoch, members=1, batch_size=0, per_class=0, name="shuffle", step=0):
    """The images of an epoch in the order of each member: (N, n) int64, class-balanced batches with per_class > 0.

    Args:
        labels: (n) int64.
        name, step: the random stream, and which of an epoch's passes this is.
    """
    streams = (stream(seed, name, epoch=epoch, member=member, step=step) for member in range(members))
    return torch.stack([class_balanced(labels.cpu(), batch_size, per_class, generator) if per_class
                        else shuffled(len(labels), generator) for generator in streams])


def steps_of(count, batch_size, per_class=0):
    """Batches an epoch: the last, smaller one is kept, but for class-balanced batches."""
    return count // batch_size if per_class else -(-count // batch_size)


def batch_slices(count, batch_size, start=0, shard=(0, 1), unit=1):
    """The slice of `count` images that rank k of n takes of each batch, from batch `start` on; it may be empty."""
    for first in range(start * batch_size, count, batch_size):
        part = rank_slice(min(batch_size, count - first), shard, unit)
        yield slice(first + part.start, first + part.stop)


def rank_slice(count, shard, unit=1):
    """The slice of `count` things that belongs to rank k of n, shard = (k, n): contiguous, every thing once.

    unit: so many neighbours stay together (the images of a class in class-balanced batches).
    """
    k, n = shard
    units = -(-count // unit)
    return slice(min(units * k // n * unit, count), min(units * (k + 1) // n * unit, count))

