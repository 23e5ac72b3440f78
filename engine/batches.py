"""The batches of an epoch, step by step."""
from data.sampling import stream
from engine import distributed
from engine.build import shares_batch


def batches_of(train_set, outlier_set, run, epoch, start):
    """What each step of an epoch is given, from step `start` on: (inputs, targets, aux_images, aux_labels).

    Members have batches of their own, but for NCL, ADP and DICE, which are computed on a batch that all share. The
    other diversity losses get one member's batch, drawn anew at each step, or outliers where the method has them.
    """
    method, recipe = run.method, run.recipe
    members = 1 if shares_batch(method) else method.members
    steps = train_set.steps(recipe.batch_size, recipe.per_class)
    one_of = stream(run.seed, "auxiliary", epoch=epoch).integers(members, size=steps).tolist()
    outliers = outlier_batches(outlier_set, run, epoch, start) if outlier_set else None
    batches = train_set.train_batches(
        recipe.batch_size, run.seed, epoch, recipe.padding, recipe.flip, start, members, recipe.per_class,
        distributed.rank_and_world_size())
    for step, (inputs, targets) in enumerate(batches, start):
        if outliers:
            yield inputs, targets, next(outliers), None
        elif method.diversity != "none" and members > 1:
            yield inputs, targets, inputs[one_of[step]], targets[one_of[step]]
        else:
            yield inputs, targets, None, None


def outlier_batches(outlier_set, run, epoch, start):
    """Un-augmented batches of an epoch without end, from the `start`-th on; the set in a new order at each pass.

    As published, every epoch begins a new pass, and the last, smaller batch of a pass is kept.
    """
    size = run.recipe.outlier_batch
    steps = outlier_set.steps(size)
    while True:
        for images, _ in outlier_set.train_batches(
                size, run.seed, epoch, None, False, start % steps, shard=distributed.rank_and_world_size(),
                order=("outliers", start // steps)):
            yield images
            start += 1
