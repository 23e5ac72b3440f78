"""One pass over the training images, step by step."""
from data.sampling import stream
from engine import distributed
from recipes import SHARED_BATCH


def batches_of(train_set, outliers, method, recipe, seed, epoch, start):
    """What each step of an epoch is given, from step `start` on: (inputs, targets, shown, shown labels) of Objective.

    Members have batches of their own, but for NCL, ADP and DICE, which are computed on a batch that all share. The
    other diversity losses are shown one member's batch, drawn anew at each step, or outliers where the method has them.
    """
    members = method["members"] if method["diversity"] not in SHARED_BATCH else 1
    steps = train_set.steps(recipe.batch_size, recipe.per_class)
    one_of = stream(seed, "auxiliary", epoch=epoch).integers(members, size=steps).tolist()
    shown_outliers = outlier_batches(outliers, recipe, seed, epoch, start) if outliers else None
    batches = train_set.train_batches(
        recipe.batch_size, seed, epoch, recipe.padding, recipe.flip, start, members, recipe.per_class,
        distributed.shard())
    for step, (inputs, targets) in enumerate(batches, start):
        if shown_outliers:
            yield inputs, targets, next(shown_outliers), None
        elif method["diversity"] != "none" and members > 1:
            yield inputs, targets, inputs[one_of[step]], targets[one_of[step]]
        else:
            yield inputs, targets, None, None


def outlier_batches(outliers, recipe, seed, epoch, start):
    """Un-augmented batches of an epoch without end, from the `start`-th on; the set in a new order at each pass.

    As published, every epoch begins a new pass, and the last, smaller batch of a pass is kept.
    """
    steps = outliers.steps(recipe.outlier_batch)
    while True:
        for images, _ in outliers.train_batches(
                recipe.outlier_batch, seed, epoch, None, False, start % steps, shard=distributed.shard(),
                order=("outliers", start // steps)):
            yield images
            start += 1
