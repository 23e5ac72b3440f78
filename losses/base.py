"""What the four losses share: a first part replaces the last linear layer, a second part replaces the criterion."""
import torch
from torch import nn

SCORE_TYPES = ("MPS", "ES", "MDS", "MMLS", "MMLES", "MMLEPS")


def in_float32(tensor):
    """The tensor itself in float32 or float64, a float32 copy of a half or bfloat16 one."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class LossFirstPart(nn.Module):
    """Features in, logits out; each loss gives its `logits(features)`.

    Runs in float32 even inside autocast: a distance of two near points, times the entropic scale, is the number that
    bfloat16 spoils most.

    Args:
        num_features: length F of a feature vector.
        num_classes: number of classes C.
        temperature: the logits are divided by it; 1 in training, a calibrated value afterwards.
    """

    score_type = "MPS"  # the published score of this loss; see `scores`

    def __init__(self, num_features, num_classes, temperature=1.0):
        super().__init__()
        if num_features < 1 or num_classes < 1:
            raise ValueError(f"num_features and num_classes must be at least 1, got {num_features} and {num_classes}")
        if not float(temperature) > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.num_features = num_features
        self.num_classes = num_classes

    def forward(self, features):
        """(B, F) features → (B, C) logits, already divided by the temperature. ValueError on another shape."""
        if features.dim() != 2 or features.shape[1] != self.num_features:
            raise ValueError(f"features must be (B, {self.num_features}), got {tuple(features.shape)}")
        device = features.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.logits(in_float32(features))
        return self.logits(in_float32(features))

    def scores(self, logits):
        """One number a sample, larger = more in-distribution: (…, C) logits → (…), by `self.score_type`.

        q = softmax(logits): MPS max q; ES Σ q ln q (minus the entropy, nats); MDS max logit; MMLS max + mean logit;
        MMLES = MMLS + ES; MMLEPS = MMLES + MPS. MPS is the published probability: in float32 it is exactly 1 once the
        largest logit leads by 17, so to *rank* SoftMax outputs use metrics.scores, which works in log space.
        ValueError on an unknown `score_type`.
        """
        if self.score_type not in SCORE_TYPES:
            raise ValueError(f"unknown score_type {self.score_type!r}: choose from {', '.join(SCORE_TYPES)}")
        logits = in_float32(logits)
        log_q = logits.log_softmax(-1)
        maximum = logits.amax(-1)
        max_mean = maximum + logits.mean(-1)
        negative_entropy = (log_q.exp() * log_q).sum(-1)
        return {
            "MPS": lambda: log_q.amax(-1).exp(),
            "ES": lambda: negative_entropy,
            "MDS": lambda: maximum,
            "MMLS": lambda: max_mean,
            "MMLES": lambda: max_mean + negative_entropy,
            "MMLEPS": lambda: max_mean + negative_entropy + log_q.amax(-1).exp(),
        }[self.score_type]()

    def extra_repr(self):
        return f"num_features={self.num_features}, num_classes={self.num_classes}"


class LossSecondPart(nn.Module):
    """The criterion: `loss = criterion(logits, targets)`; each loss gives its `loss_of(logits, targets)`.

    Args:
        model_classifier: the model's first part, which the criterion may ask for its scale and mode.
    """

    def __init__(self, model_classifier):
        super().__init__()
        self.model_classifier = model_classifier

    def preprocess(self, inputs, targets):
        """What a training batch goes through before the forward pass; nothing, but for DisMax."""
        return inputs, targets

    def unmixed(self, batch_size):
        """How many leading samples of a preprocessed batch are whole images of their target's class."""
        return batch_size

    def forward(self, logits, targets, debug=False):
        """(B, C) logits and (B) int64 targets → the mean loss, a scalar.

        With `debug` the tuple (loss, scale, inter_logits, intra_logits): the signed distance scale (1.0 where there is
        none) and flat NumPy arrays of the other classes' and of the target class's logits.
        """
        loss = self.loss_of(in_float32(logits), targets)
        if not debug:
            return loss
        scale = getattr(self.model_classifier, "distance_scale", None)
        own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, targets[:, None], True)  # (B, C)
        inter, intra = logits.detach()[~own], logits.detach()[own]
        return loss, 1.0 if scale is None else scale.item(), inter.float().cpu().numpy(), intra.float().cpu().numpy()
