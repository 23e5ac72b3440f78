"""The batches of an epoch, step by step."""
from data.loaders import OutlierLoader, TrainLoader
from data.sampling import stream
from engine import distributed
from engine.build import shares_batch


def train_loader(train_set, run):
    """The TrainLoader of this rank. Members have batches of their own, but for NCL, ADP and DICE, which are computed on
    a batch that all share."""
    members = 1 if shares_batch(run.method) else run.method.members
    return TrainLoader(train_set, run.recipe, run.seed, members, distributed.rank_and_world_size())


def batches_of(train_set, outlier_set, run, epoch, start):
    """What each step of an epoch is given, from step `start` on: (inputs, targets, aux_images, aux_labels).

    Diversity losses that are not computed on a shared batch get one member's batch, drawn anew at each step, or
    outliers where the method has them.
    """
    loader = train_loader(train_set, run)
    one_of = stream(run.seed, "auxiliary", epoch=epoch).integers(loader.members, size=len(loader)).tolist()
    outliers = outlier_batches(outlier_set, run, epoch, start) if outlier_set else None
    for step, (inputs, targets) in enumerate(loader.epoch(epoch, start), start):
        if outliers:
            yield inputs, targets, next(outliers), None
        elif run.method.diversity != "none" and loader.members > 1:
            yield inputs, targets, inputs[one_of[step]], targets[one_of[step]]
        else:
            yield inputs, targets, None, None


def outlier_batches(outlier_set, run, epoch, start):
    """The outlier images of each step of an epoch, without end, from step `start` on."""
    rank = distributed.rank_and_world_size()
    return OutlierLoader(outlier_set, run.recipe.outlier_batch, run.seed, rank).epoch(epoch, start)
