"""The base class of the four first parts: a head in place of the last linear layer, with temperature, thresholds and
detection. criterion.LossSecondPart is the base class of the second parts, which replace the criterion."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import Tensor, nn

from . import calibration
from .calibration import PERCENTILES, SCORES, score_number
from .criterion import LossSecondPart
from .precision import in_float32, in_full_precision, is_traced, is_transformed

__all__ = ["PARTITIONS", "SCORES", "LossFirstPart", "LossSecondPart"]

PARTITIONS = ("train", "validation")  # rows 0 and 1 of `precomputed_thresholds`


class _Usage:
    """Whether a first part, or any copy of it, has seen a forward pass. Copies share it: a criterion goes on referring
    to the original head while a copy is trained. What comes out of a pickle is not known to be unused."""

    def __init__(self, seen: bool = False) -> None:
        self.seen = seen

    def __deepcopy__(self, memo: dict[int, Any]) -> _Usage:
        return self

    def __reduce__(self) -> tuple[type[_Usage], tuple[bool]]:
        return _Usage, (True,)


class LossFirstPart(nn.Module):
    """Features in, logits out; each loss defines `logits(features)`. It replaces a linear layer, also in torch.compile,
    torch.export, torch.jit.trace, ONNX, torch.fx and torch.func.

    It computes in float32 (in float64 for float64 inputs), also inside autocast and as a half or bfloat16 module: in
    bfloat16 the distance of two near points, times the entropic scale, would be inaccurate. The logits are float32.

    Args:
        num_features: length F of a feature vector.
        num_classes: number of classes C.
        temperature: the logits are divided by it; 1 in training, a calibrated value afterwards.

    Buffers, saved in state dicts and never below float32:
        temperature (1): `head.temperature = 1.7` sets it, from a number or a tensor of one element > 0.
        precomputed_thresholds (2, 25): rows train and validation, scores at PERCENTILES; NaN until known.
        validationset_available (1): whether the validation row is known.
        thresholds_temperature (2), thresholds_score (2): at which temperature, and for which of SCORES (the CRC-32 of
            its name), the rows were made; NaN and −1 until known.
    State dicts without these buffers can be loaded, too: the temperature is kept, and thresholds become unknown.
    """

    score_type = "MPS"  # the published score of this loss; see `scores`
    sees_to_precision = False  # whether `logits` itself computes in float32 and without autocast
    if TYPE_CHECKING:  # what __setattr__ takes is more than what is read
        @property
        def temperature(self) -> Tensor: ...
        @temperature.setter
        def temperature(self, value: float | Tensor) -> None: ...
    validationset_available: Tensor
    precomputed_thresholds: Tensor
    thresholds_temperature: Tensor
    thresholds_score: Tensor
    logits: Callable[..., Tensor]  # (…, F) features → (…, C)

    def __init__(self, num_features: int, num_classes: int, temperature: float = 1.0) -> None:
        super().__init__()
        if num_features < 1 or num_classes < 1:
            raise ValueError(f"num_features and num_classes must be at least 1, got {num_features} and {num_classes}")
        self.num_features = num_features
        self.num_classes = num_classes
        self._usage = _Usage()
        self._passes = 0  # how often train() or eval() was called: each begins a new pass of `precompute_thresholds`
        self._calibrated_on: tuple[float, ...] | None = None  # which logits `calibrate` was given, see _fingerprint
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer("temperature", torch.full((1,), _positive(float(temperature)), dtype=dtype))
        for name, value in _unknown_thresholds(dtype).items():
            self.register_buffer(name, value)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) features → (B, C) logits, already divided by the temperature; (…, F) → (…, C), for example for tokens.

        One sample is (1, F), or (F) inside torch.func's transforms. ValueError for other shapes.
        """
        self._usage.seen = True
        if isinstance(features, torch.fx.Proxy):  # symbolic tracing: there is nothing to look at
            return self.logits(features)
        if not is_traced() and (
                features.shape[-1:] != (self.num_features,) or features.dim() < 2 and not is_transformed()):
            raise ValueError(f"features must be (B, {self.num_features}), got {tuple(features.shape)}")
        return self.logits(features) if self.sees_to_precision else in_full_precision(self.logits, features)

    # ---- what is made of logits ----

    def scores(self, logits: Tensor) -> Tensor:
        """One number per sample, larger = more in-distribution: (…, C) logits → (…), with `self.score_type`.

        MPS ln(q̂/(1 − q̂)) with q̂ = max q, q = softmax(logits); ES Σ q ln q; MDS max logit; MMLS max + mean logit;
        MMLES MMLS + ES; MMLEPS MMLES + max q; energy ln Σ exp logits. `set_thresholds` and `detect` use these numbers.
        MPS is given as log odds, because the published probability max q, `probabilities(logits).amax(-1)`, is exactly
        1 in float32 for every confident sample. See calibration.score. ValueError for an unknown `score_type`.
        """
        return calibration.score(logits, self.score_type)

    def probabilities(self, logits: Tensor) -> Tensor:
        """softmax of logits (…, C) as the head returned them, divided by the temperature: (…, C), rows sum to 1."""
        return in_float32(logits).softmax(-1)

    def calibrate(self, logits: Tensor, labels: Tensor) -> float:
        """Fit the temperature to held-out samples, store it and return it.

        Args:
            logits: (n, C) as the head returned them, that is already divided by the current temperature.
            labels: (n) classes in [0, C).

        Minimizes the negative log-likelihood over all temperatures (calibration.fit_temperature). A second call with
        logits at the stored temperature finds the same temperature; the logits of the previous call are recognized as
        made at the earlier temperature. Afterwards the head returns other logits, and earlier thresholds are refused:
        run the network again and call `set_thresholds`. If the likelihood has no minimum, for instance because all
        samples are classified correctly, the temperature is kept, with a UserWarning. ValueError for other shapes,
        labels out of range, NaN and infinity.
        """
        calibration.check_logits(logits, self.num_classes)
        calibration.check_labels(labels, logits)
        made_at, mark = self._temperature_of(logits), _fingerprint(logits)
        fitted = calibration.fit_temperature(logits, labels, made_at)
        self.temperature = fitted
        self._calibrated_on = (*mark, made_at)
        return self.temperature.item()

    def set_thresholds(self, logits: Tensor) -> None:
        """Store the 25 PERCENTILES of the scores of held-out in-distribution logits (n, C), n ≥ 1, made at the current
        temperature. ValueError for other shapes, NaN and infinity, and for the logits of a `calibrate` call that
        changed the temperature."""
        calibration.check_logits(logits, self.num_classes)
        self._refuse_earlier_logits(logits)
        self.store_thresholds(self.scores(logits))

    @torch.no_grad()
    def store_thresholds(self, scores: Tensor, partition: str = "validation") -> None:
        """Store the 25 PERCENTILES (linear interpolation) of the in-distribution scores (n), n ≥ 1, of a whole pass."""
        if partition not in PARTITIONS:
            raise ValueError(f"unknown partition {partition!r}: choose from {', '.join(PARTITIONS)}")
        thresholds, row = calibration.percentiles(scores), PARTITIONS.index(partition)
        if not thresholds.isfinite().all():
            raise ValueError("scores must be finite to take thresholds from, found NaN or infinity")
        self.precomputed_thresholds[row] = calibration.rounded_down(thresholds, self.precomputed_thresholds.dtype).to(
            self.precomputed_thresholds.device)
        self.thresholds_temperature[row] = self.temperature[0]
        self.thresholds_score[row] = score_number(self.score_type)
        if partition == "validation":
            self.validationset_available.fill_(True)

    def threshold(self, reject_rate: float = 0.05) -> Tensor:
        """The score, a 0-dim tensor, below which the share `reject_rate` of the samples of `set_thresholds` lies.

        The rate is in [0, 1]; thresholds are exact at the PERCENTILES and interpolated linearly between them.
        RuntimeError if there are no thresholds, or if they were made at another temperature or for another
        `score_type`. A compiled or exported graph cannot raise: there the threshold is NaN, and `detect` returns False.
        """
        threshold = calibration.threshold_at(self.precomputed_thresholds[1], reject_rate)
        usable = (self.thresholds_temperature[1] == self.temperature[0]) & (
            self.thresholds_score[1] == score_number(self.score_type))
        if torch.compiler.is_compiling():
            return torch.where(usable, threshold, torch.nan)
        if not usable:
            raise RuntimeError(self._why_unusable())
        return threshold

    def detect(self, logits: Tensor, reject_rate: float = 0.05) -> Tensor:
        """Which samples are in-distribution: (…, C) logits at the current temperature → (…) bool, True = in.

        True if the score reaches `threshold(reject_rate)`, so the share `reject_rate` of in-distribution samples is
        rejected. Samples that tie with the threshold are accepted; NaN logits are rejected. Errors as `threshold`;
        ValueError for the logits that `calibrate` was given before it changed the temperature.
        """
        if not torch.compiler.is_compiling():
            self._refuse_earlier_logits(logits)
        threshold, scores = self.threshold(reject_rate), self.scores(logits)
        return scores >= threshold.to(scores.device)

    def _why_unusable(self) -> str:
        made_at, now = self.thresholds_temperature[1].item(), self.temperature.item()
        kind = int(self.thresholds_score[1])
        remedy = "call set_thresholds(logits) with held-out in-distribution logits at the current temperature"
        if not self.validationset_available.item():
            return f"there are no thresholds yet: {remedy}"
        if math.isnan(made_at) or kind < 0:
            return f"the checkpoint does not record the temperature of its thresholds: {remedy}"
        if made_at != now:
            return f"the thresholds were made at temperature {made_at:g}, but the temperature is {now:g} now: {remedy}"
        made_for = next((name for name in SCORES if score_number(name) == kind), "unknown here")
        return f"the thresholds belong to the score {made_for}, but score_type is {self.score_type} now: {remedy}"

    def _temperature_of(self, logits: Tensor) -> float:
        """The current temperature; for the logits of the last `calibrate` call, the one at which they were made."""
        earlier = self._calibrated_on
        # zeros are zeros at every temperature
        if earlier and earlier[0] == len(logits) and earlier[1] > 0 and earlier[:-1] == _fingerprint(logits):
            return earlier[-1]
        return self.temperature.item()

    def _refuse_earlier_logits(self, logits: Tensor) -> None:
        earlier = self._calibrated_on
        if earlier is None or logits.dim() != 2 or len(logits) != earlier[0]:
            return
        made_at, now = self._temperature_of(logits), self.temperature.item()
        if made_at != now:
            raise ValueError(
                f"these are the logits of the calibrate call: they were made at temperature {made_at:g}, but the "
                f"temperature is {now:g} now. Run the network again, or multiply them by {made_at / now:g}")

    # ---- as a module ----

    def train(self, mode: bool = True) -> LossFirstPart:
        self._passes += 1
        return super().train(mode)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "temperature" and name in self.__dict__.get("_buffers", ()):
            self._set_temperature(value)
        else:
            super().__setattr__(name, value)

    def _set_temperature(self, value: float | Tensor) -> None:
        """In place, so that a recorded CUDA graph sees it."""
        buffer = self._buffers["temperature"]
        assert buffer is not None
        new = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
        new = new.to(buffer.dtype)
        if new.numel() != 1:
            raise ValueError(f"temperature must be one number, got a tensor {tuple(new.shape)}")
        if not new.is_meta:
            _positive(new.item())
        if buffer.is_meta or buffer.is_inference():  # cannot be written to
            self._buffers["temperature"] = new.reshape(1).clone()
        elif not new.is_meta:
            with torch.no_grad():
                buffer.fill_(new.item())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LossFirstPart:
        """As nn.Module, but half() and bfloat16() leave the buffers in float32: thresholds need their digits."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = old.to(new.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """As nn.Module, also from state dicts without our buffers, and with a 0-dim temperature."""
        missing = {"temperature": self.temperature.detach().clone(), **_unknown_thresholds(self.temperature.dtype)}
        for name, value in missing.items():
            state_dict.setdefault(prefix + name, value)
        state_dict[prefix + "temperature"] = torch.as_tensor(state_dict[prefix + "temperature"]).reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, num_classes={self.num_classes}"


def _unknown_thresholds(dtype: torch.dtype) -> dict[str, Tensor]:
    """The buffers of a head without thresholds."""
    return {"validationset_available": torch.tensor([False]),
            "precomputed_thresholds": torch.full((2, len(PERCENTILES)), torch.nan, dtype=dtype),
            "thresholds_temperature": torch.full((2,), torch.nan, dtype=dtype),
            "thresholds_score": torch.full((2,), -1)}


def _positive(temperature: float) -> float:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return temperature


def _fingerprint(logits: Tensor) -> tuple[float, ...]:
    """Numbers by which the very same logits are recognized: their count, and sums in float64."""
    z = logits.detach().cpu().double()
    return len(z), z.square().sum().item(), z.sum().item(), z[0].sum().item()
