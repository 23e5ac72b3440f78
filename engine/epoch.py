"""One pass over the training images, step by step, and one over those that are judged by."""
import torch

from data.order import stream
from engine import parallel
from engine.step import as_ensemble
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
        recipe.batch_size, seed, epoch, recipe.padding, recipe.flip, start, members, recipe.per_class, parallel.shard())
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
                recipe.outlier_batch, seed, epoch, None, False, start % steps, shard=parallel.shard(),
                order=("outliers", start // steps)):
            yield images
            start += 1


class Adversary:
    """DICE's discriminator and its optimiser (RMSprop, momentum 0.9, weight decay 5e-4), a step for each of ours."""

    names = ("discriminator_loss", "discriminator_accuracy")

    def __init__(self, discriminator, lr, clip=0.0):
        self.discriminator, self.clip = discriminator, clip
        self.optimizer = torch.optim.RMSprop(discriminator.parameters(), lr, momentum=0.9, weight_decay=5e-4)

    def step(self, features, labels):
        """Learn from detached features; returns loss and accuracy, (2), detached."""
        self.optimizer.zero_grad()
        loss, accuracy = self.discriminator.loss(features, labels)
        loss.backward()
        for p in self.discriminator.parameters():
            parallel.summed(p.grad).div_(parallel.shard()[1])
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.clip)
        self.optimizer.step()
        return torch.stack([loss.detach(), accuracy])

    def state_dict(self):
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])


@torch.inference_mode()
def accuracy_of(model, images, stop, bf16=False):
    """Share of correct images over all processes, by the mean of the members' logits; None, on one process at once,
    after a signal."""
    model.eval()
    counts = torch.zeros(2, device=next(model.parameters()).device, dtype=torch.float64)  # correct, seen
    for batch, labels in images.eval_batches(shard=parallel.shard()):
        if stop.signal and not parallel.several():
            return None
        with torch.autocast(counts.device.type, torch.bfloat16, enabled=bf16):
            logits = as_ensemble(model(batch)).mean(0)
        counts[0] += (logits.argmax(1) == labels).sum()
        counts[1] += len(labels)
    correct, seen = parallel.summed(counts).tolist()
    return correct / seen
