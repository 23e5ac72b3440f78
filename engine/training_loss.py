"""The loss of a training step: the members' mean loss, their diversity loss, and outlier exposure.

One network is an ensemble of one. As a module with one forward it can be wrapped by DistributedDataParallel, though the
diversity losses differentiate inside it.
"""
import torch
from torch import nn

from losses import LossSecondPart


class TrainingLoss(nn.Module):
    """(1/N) Σₙ criterionₙ + Σ weight · aux_loss  (SDDE, section 3; DisMax: N = 1, no aux_losses).

    Args:
        model: a network, or an Ensemble of N.
        criteria: the second part of each member's loss.
        aux_losses: name → diversity loss, called as loss(images=, labels=, logits=, features=, feature_maps=).
        weights: name → its factor; may be changed between steps (DICE's ramp).
        image_gradients: whether an auxiliary loss differentiates by the images.

    A batch may come in parts: the parts' losses, gradients and metrics add up to those of the whole batch.

    After a call `metrics` holds, detached and in the order of `names`: loss, accuracy (of the members on their own
    batches, mean), each auxiliary loss's value and the share of dead saliency maps. `aux_features` and `aux_labels` are
    what the auxiliary losses were given, detached, so that they do not keep the step's graph alive.
    """

    def __init__(self, model, criteria, aux_losses=None, weights=None, image_gradients=False):
        super().__init__()
        self.model, self.criteria = model, criteria
        self.aux_losses, self.weights, self.image_gradients = aux_losses or {}, dict(weights or {}), image_gradients
        self.names = ("loss", "accuracy", *self.aux_losses)
        if any(hasattr(loss, "dead_fraction") for loss in self.aux_losses.values()):
            self.names += ("dead_maps",)
        self.batch_norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]

    def forward(self, inputs, targets, aux_images=None, aux_labels=None, split=None, share=1, aux_share=1):
        """The loss of a step, or a part's share of it.

        Args:
            inputs, targets: (N, B, 3, H, W) and (N, B), a batch per member; or (B, 3, H, W) and (B), one for all; as
                `preprocess` gives them.
            aux_images: images (B', 3, H, W) for the auxiliary losses, which every member sees with frozen BN
                statistics; None: they are computed on `inputs`, which all members must share then.
            aux_labels: (B'); None: the class that the mean of the members' logits is largest for.
            split: a part's rows of `split_targets`, for criteria that mix.
            share, aux_share: which part of the step's images, and of its images for the auxiliary losses, these are.
        """
        reuse = self.aux_losses and aux_images is None
        output = self.model(inputs, return_features=True) if reuse else self.model(inputs)
        logits = add_member_dim(output[0] if reuse else output)  # (N, B, C)
        loss, accuracy = self.members_loss(logits, targets, split, share)
        metrics = [loss, accuracy]
        if aux_images is None:
            aux_images, aux_labels = inputs, targets
        if self.aux_losses and len(aux_images):
            if not reuse:
                if self.image_gradients:
                    shape = (len(logits), *aux_images.shape)
                    aux_images = aux_images.expand(shape).clone().requires_grad_()  # (N, B', 3, H, W)
                with FrozenStatistics(self.batch_norms):
                    output = self.model(aux_images, return_features=True)
            values, dead = self.auxiliary(aux_images, aux_labels, output)
            loss = loss + times(aux_share, sum(self.weights[name] * value for name, value in values.items()))
            metrics += [times(aux_share, value) for value in (*values.values(), *dead)]
        metrics += [logits.new_zeros(())] * (len(self.names) - len(metrics))
        self.metrics = torch.stack([value.detach() for value in metrics])
        return loss

    def members_loss(self, logits, targets, split, share):
        """The members' mean loss and accuracy, times the share; logits (N, B, C)."""
        n, size = logits.shape[:2]
        if not size:  # a batch smaller than the number of parts leaves some without
            return logits.sum(), logits.new_zeros(())  # 0, connected to the graph
        right = logits.argmax(2) == targets  # (N, B)
        if split:
            classes, weights, counted = split
            losses = [criterion.partial_loss(z, *row) for criterion, z, row in zip(
                self.criteria, logits, zip(classes.expand(n, size, 4), weights.expand(n, size)))]
            return torch.stack(losses).mean(), (right * counted).sum(-1).mean()
        losses = [criterion(z, y) for criterion, z, y in zip(self.criteria, logits, targets.expand(n, size))]
        unmixed = self.criteria[0].unmixed(size)  # a mixed image has no one class to be right about
        accuracy = right[:, :unmixed].float().mean(1).mean()
        return times(share, torch.stack(losses).mean()), times(share, accuracy)

    @property
    def mixes(self):
        """Whether preprocessing mixes images of a batch, so that it must see the whole of it."""
        return any(getattr(criterion, "mixes", False) for criterion in self.criteria)

    @property
    def reorders(self):
        """Whether preprocessing may change the order of a batch."""
        return any(type(criterion).preprocess is not LossSecondPart.preprocess for criterion in self.criteria)

    def split_targets(self, targets):
        """How a whole preprocessed batch may be split, targets (N, B) or (B): classes (…, B, 4) and weights (…, B) for
        the criteria's `partial_loss`, and counted (…, B), how much each image counts in the accuracy."""
        if targets.dim() == 1:
            split = self.criteria[0].split_targets(targets)
        else:
            split = map(torch.stack, zip(*(c.split_targets(y) for c, y in zip(self.criteria, targets))))
        unmixed = self.criteria[0].unmixed(targets.shape[-1])
        counted = torch.zeros(targets.shape, device=targets.device)
        counted[..., :unmixed] = 1 / unmixed
        return *split, counted

    def auxiliary(self, images, labels, output):
        """({name: value}, [share of dead maps]) of the auxiliary losses."""
        logits, features, maps = add_member_dim(output[0]), as_list(output[1]), as_list(output[2])
        if labels is None:
            labels = logits.detach().mean(0).argmax(1)
        self.aux_features, self.aux_labels = [f.detach() for f in features], labels
        values = {name: loss(images=images, labels=labels, logits=logits, features=features, feature_maps=maps)
                  for name, loss in self.aux_losses.items()}
        return values, [loss.dead_fraction for loss in self.aux_losses.values() if hasattr(loss, "dead_fraction")]

    def preprocess(self, inputs, targets):
        """Every member's batch through its criterion's preprocess; a batch for all through the first one's."""
        if not targets.numel():
            return inputs, targets
        if targets.dim() == 1:
            return self.criteria[0].preprocess(inputs, targets)
        given = list(zip(inputs, targets))  # each (B, 3, H, W) and (B)
        images, labels = zip(*(criterion.preprocess(*own) for criterion, own in zip(self.criteria, given)))
        if all(x is own for x, (own, _) in zip(images, given)):
            return inputs, targets  # grayscale images keep their one channel
        return torch.stack(images), torch.stack(labels)


def times(share, value):
    return value if share == 1 else share * value


def add_member_dim(logits):
    return logits if logits.dim() == 3 else logits[None]  # (B, C) → (1, B, C)


def as_list(parts):
    return list(parts) if isinstance(parts, (list, tuple)) else [parts]


class FrozenStatistics:
    """A block in which these modules use their running statistics and do not change them.

    A class, because torch.compile of PyTorch 2.6 cannot look into a generator.
    """

    def __init__(self, batch_norms):
        self.batch_norms = batch_norms
        self.modes = [module.training for module in batch_norms]

    def __enter__(self):
        for module in self.batch_norms:
            module.training = False

    def __exit__(self, *_):
        for module, mode in zip(self.batch_norms, self.modes):
            module.training = mode
