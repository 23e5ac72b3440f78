"""DisMax (Macêdo, Zanchettin & Ludermir, arXiv 2205.05874): distances to all prototypes, an entropic scale in training,
fractional probability regularisation (FPR) on request, and thresholds for a yes-or-no answer."""
import torch
import torch.nn.functional as F
from torch import nn

from .base import LossFirstPart, LossSecondPart
from .distances import cosine_distance_logits

# the percentiles of the in-distribution scores that are kept as thresholds
PERCENTILES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100)
PARTITIONS = ("train", "validation")  # rows 0 and 1 of `precomputed_thresholds`


class DisMaxLossFirstPart(LossFirstPart):
    """logits = −(D_j + mean_k D_k), D_j = |distance_scale|·‖f̂ − p̂_j‖₂/√2, divided by the temperature.

    The mean is the same for every class, so it changes no probability and no gradient: it matters only to the scores
    made of raw logits. Prototypes ~ N(0, 1), distance_scale = 1. `temperature` (1), `validationset_available` (1) and
    `precomputed_thresholds` (2, 25; NaN until known) are buffers under the published state-dict keys.
    """

    def __init__(self, num_features, num_classes, temperature=1.0):
        super().__init__(num_features, num_classes, temperature)
        self.score_type = "MMLES"
        self.distance_scale = nn.Parameter(torch.ones(1))
        self.prototypes = nn.Parameter(torch.randn(num_classes, num_features))
        self.register_buffer("temperature", torch.tensor([float(temperature)]))
        self.register_buffer("validationset_available", torch.tensor([False]))
        self.register_buffer("precomputed_thresholds", torch.full((2, len(PERCENTILES)), torch.nan))

    def logits(self, features):
        scale = self.distance_scale.abs() / self.temperature
        return cosine_distance_logits(features, self.prototypes, scale, to_all_prototypes=True)

    @torch.no_grad()
    def store_thresholds(self, scores, partition="validation"):
        """Keep the 25 PERCENTILES (linear interpolation) of one whole pass's in-distribution scores (n), n ≥ 1."""
        if partition not in PARTITIONS:
            raise ValueError(f"unknown partition {partition!r}: choose from {', '.join(PARTITIONS)}")
        if scores.numel() == 0:
            raise ValueError("no scores to take thresholds from")
        ordered = scores.detach().flatten().double().cpu().sort().values
        place = torch.tensor(PERCENTILES, dtype=torch.float64) / 100 * (len(ordered) - 1)
        below = place.floor().long()
        above = place.ceil().long()
        thresholds = ordered[below] + (ordered[above] - ordered[below]) * (place - below)
        self.precomputed_thresholds[PARTITIONS.index(partition)] = thresholds.to(self.precomputed_thresholds)
        if partition == "validation":
            self.validationset_available.fill_(True)


class DisMaxLossSecondPart(LossSecondPart):
    """Cross-entropy of 10 × logits in training, of the plain logits in evaluation: the classifier's mode decides.

    Args:
        model_classifier: the model's DisMaxLossFirstPart.
        regularization: None, or "fpr": the second half of every training batch is put together from quadrants of four
            images and pulled, by KL(Q‖P), towards a quarter of probability for each image's class.
        alpha: weight of that term against the cross-entropy of the plain half.
        batches_to_accumulate: with `precompute_thresholds`, how many batches a pass must have before its thresholds
            are written; from then on every batch refreshes them, so that after a pass they describe all of it.
    """

    def __init__(self, model_classifier, regularization=None, alpha=1.0, batches_to_accumulate=32):
        super().__init__(model_classifier)
        if regularization not in (None, "fpr"):
            raise ValueError(f'regularization must be None or "fpr", got {regularization!r}')
        self.regularization = regularization
        self.alpha = alpha
        self.batches_to_accumulate = batches_to_accumulate
        self.entropic_scale = 10
        self.accumulated_batches = 0
        self.accumulated_scores = {partition: [] for partition in PARTITIONS}
        self._partition = None  # of the pass under way

    def unmixed(self, batch_size):
        return max(batch_size // 2, 1) if self.regularization == "fpr" else batch_size

    def preprocess(self, inputs, targets):
        """Shuffle the batch and, with FPR, mix its second half. (B, …) inputs, (B) targets; returns new tensors.

        Without FPR the inputs may have any shape; with it they must be images (B, C, H, W) of at least 2×2 pixels,
        else ValueError. For an odd B the mixed half is the larger one.
        """
        order = torch.randperm(len(inputs), device=inputs.device)
        inputs, targets = inputs[order], targets[order]
        if self.regularization == "fpr" and len(inputs) > 1:
            plain = self.unmixed(len(inputs))
            inputs = torch.cat([inputs[:plain], mix_quadrants(inputs[plain:])])
        return inputs, targets

    def forward(self, logits, targets, debug=False, precompute_thresholds=False):
        """As LossSecondPart; with `precompute_thresholds` the batch's scores also count towards the thresholds."""
        partition = "train" if self.model_classifier.training else "validation"
        if partition != self._partition:  # a change of mode begins a new pass
            self._partition = partition
            self.accumulated_batches = 0
            self.accumulated_scores = {name: [] for name in PARTITIONS}
        if precompute_thresholds:
            self._accumulate(logits, partition)
        return super().forward(logits, targets, debug)

    def loss_of(self, logits, targets):
        if not self.model_classifier.training:
            return F.cross_entropy(logits, targets)
        logits = self.entropic_scale * logits
        plain = self.unmixed(len(logits))
        if plain == len(logits):
            return F.cross_entropy(logits, targets)
        cross_entropy = F.cross_entropy(logits[:plain], targets[:plain])
        log_p = logits[plain:].log_softmax(1)  # (m, C)
        q = fractional_targets(targets[plain:], logits.shape[1], log_p.dtype)  # (m, C)
        divergence = F.kl_div(log_p, q, reduction="batchmean")
        return (cross_entropy + self.alpha * divergence) / 2

    def _accumulate(self, logits, partition):
        self.accumulated_scores[partition].append(self.model_classifier.scores(logits.detach()))
        self.accumulated_batches += 1
        if self.accumulated_batches >= self.batches_to_accumulate:
            self.model_classifier.store_thresholds(torch.cat(self.accumulated_scores[partition]), partition)


def mix_quadrants(images):
    """Every image keeps its top-left quadrant and takes the other three, in place, from the three images before it.

    (m, C, H, W) → new (m, C, H, W): bottom-left from image i−1, top-right from i−2, bottom-right from i−3, modulo m;
    rows are cut at ⌊H/2⌋, columns at ⌊W/2⌋. ValueError unless 4-D with H, W ≥ 2.
    """
    if images.dim() != 4 or images.shape[2] < 2 or images.shape[3] < 2:
        raise ValueError(
            "fractional probability regularisation mixes quadrants of images (B, C, H, W) of at least 2×2 pixels, "
            f"got {tuple(images.shape)}: for other data use regularization=None"
        )
    h, w = images.shape[2] // 2, images.shape[3] // 2
    mixed = images.clone()
    mixed[:, :, h:, :w] = images[:, :, h:, :w].roll(1, 0)
    mixed[:, :, :h, w:] = images[:, :, :h, w:].roll(2, 0)
    mixed[:, :, h:, w:] = images[:, :, h:, w:].roll(3, 0)
    return mixed


def fractional_targets(targets, num_classes, dtype=torch.float32):
    """¼ for the class of each of the four images in a mixed one: (m) int64 → (m, C), rows sum to 1.

    The same class twice adds up to ½, and so on.
    """
    four = torch.stack([targets.roll(k) for k in range(4)], 1)  # (m, 4)
    quarters = torch.full(four.shape, 0.25, dtype=dtype, device=targets.device)
    return torch.zeros(len(four), num_classes, dtype=dtype, device=targets.device).scatter_add_(1, four, quarters)
