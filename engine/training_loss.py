"""What one training step minimises: the members' mean loss, what keeps them apart, and what outliers teach them.

One network is an ensemble of one. As a module with one forward it can be wrapped by DistributedDataParallel, though the
diversity losses differentiate inside it.
"""
import contextlib

import torch
from torch import nn


class Objective(nn.Module):
    """(1/N) Σₙ criterionₙ + Σ weight · term  (SDDE, section 3; with N = 1 and no terms the DisMax recipe's loss).

    Args:
        model: a network, or an Ensemble of N.
        criteria: the second part of each member's loss.
        terms: name → diversity loss, called as loss(images=, labels=, logits=, features=, feature_maps=).
        weights: name → its factor; may be changed between steps (DICE's ramp).
        image_gradients: whether a term differentiates by the images.

    After a call `report` holds, detached, loss, accuracy (of the members on their own batches, mean), each term's value
    and the share of dead saliency maps, in the order of `names`; `features` and `labels` are what the terms were given.
    """

    def __init__(self, model, criteria, terms=None, weights=None, image_gradients=False):
        super().__init__()
        self.model, self.criteria = model, criteria
        self.terms, self.weights, self.image_gradients = terms or {}, dict(weights or {}), image_gradients
        self.names = ("loss", "accuracy", *self.terms)
        if any(hasattr(term, "dead_fraction") for term in self.terms.values()):
            self.names += ("dead_maps",)
        self.bodies = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]

    def forward(self, inputs, targets, shown=None, shown_labels=None):
        """The loss of a step.

        Args:
            inputs, targets: (N, B, 3, H, W) and (N, B), a batch a member; or (B, 3, H, W) and (B), one for all; as
                `preprocessed` gives them.
            shown: images (B', 3, H, W) for the terms, which every member sees with frozen BN statistics; None: the
                terms are computed on `inputs`, which all members must share then.
            shown_labels: (B'); None: the class that the mean of the members' logits is largest for.
        """
        reuse = self.terms and shown is None
        output = self.model(inputs, return_features=True) if reuse else self.model(inputs)
        logits = as_ensemble(output[0] if reuse else output)  # (N, B, C)
        own = targets if targets.dim() == 2 else [targets] * len(logits)
        if not logits.shape[1]:  # a batch smaller than the number of processes leaves some without
            self.report = torch.zeros(len(self.names), device=logits.device)
            return logits.sum()  # 0
        losses = [criterion(z, y) for criterion, z, y in zip(self.criteria, logits, own)]
        loss = torch.stack(losses).mean()
        plain = self.criteria[0].unmixed(logits.shape[1])  # a mixed image has no one class to be right about
        hits = torch.stack([(z[:plain].argmax(1) == y[:plain]).float().mean() for z, y in zip(logits, own)])  # (N)
        report = [loss, hits.mean()]
        if self.terms:
            if shown is None:
                shown, shown_labels = inputs, targets
            else:
                if self.image_gradients:
                    shown = shown.expand(len(logits), *shown.shape).clone().requires_grad_()  # (N, B', 3, H, W)
                with frozen_statistics(self.bodies):
                    output = self.model(shown, return_features=True)
            logits, self.features, maps = as_ensemble(output[0]), as_list(output[1]), as_list(output[2])
            if shown_labels is None:
                shown_labels = logits.detach().mean(0).argmax(1)
            self.labels = shown_labels
            for name, term in self.terms.items():
                value = term(
                    images=shown, labels=shown_labels, logits=logits, features=self.features, feature_maps=maps)
                loss = loss + self.weights[name] * value
                report.append(value)
            report += [term.dead_fraction for term in self.terms.values() if hasattr(term, "dead_fraction")]
        self.report = torch.stack([value.detach() for value in report])
        return loss

    def preprocessed(self, inputs, targets):
        """Every member's batch through its criterion's preprocess; a batch for all through the first one's."""
        if not targets.numel():
            return inputs, targets
        if targets.dim() == 1:
            return self.criteria[0].preprocess(inputs, targets)
        pairs = [criterion.preprocess(x, y) for criterion, x, y in zip(self.criteria, inputs, targets)]
        images, labels = zip(*pairs)
        if all(x is given for x, given in zip(images, inputs)):
            return inputs, targets
        return torch.stack(images), torch.stack(labels)


def as_ensemble(logits):
    return logits if logits.dim() == 3 else logits[None]  # (B, C) → (1, B, C)


def as_list(parts):
    return list(parts) if isinstance(parts, (list, tuple)) else [parts]


@contextlib.contextmanager
def frozen_statistics(batch_norms):
    """These modules use their running statistics, and leave them as they are."""
    modes = [module.training for module in batch_norms]
    for module in batch_norms:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(batch_norms, modes):
            module.training = mode
