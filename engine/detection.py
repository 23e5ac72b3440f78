"""From held-out logits to a calibrated classifier: calibration.json, written and read by the package's heads.

A run's classifier is its first member's head. It gets the mean of the members' logits, each divided by the temperature.
"""
import math
import warnings

import torch

from engine.build import members_of, score_functions
from engine.training_loss import add_member_dim
from losses import LossFirstPart
from losses.calibration import PERCENTILES, score_number
from utils.io import UserError


def calibrate(num_classes, logits, labels):
    """The calibration of a classifier, as calibration.json keeps it.

    Args:
        logits: (n, C) of held-out in-distribution images, the mean over members, at temperature 1.
        labels: (n).

    Returns:
        {"images", "temperature", "temperature_note", "thresholds": {score: 25 values at "percentiles"}}.
    """
    head = LossFirstPart(1, num_classes)
    logits, labels = torch.from_numpy(logits), torch.from_numpy(labels)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        temperature = head.calibrate(logits, labels)
    thresholds = {}
    for head.score_type in score_functions():
        head.set_thresholds(logits / temperature)
        thresholds[head.score_type] = head.precomputed_thresholds[1].tolist()
    return {"images": len(labels), "temperature": temperature, "temperature_note": "; ".join(
        str(warning.message) for warning in said), "percentiles": list(PERCENTILES), "thresholds": thresholds}


class Detector:
    """A trained model that classifies images and rejects those that are out-of-distribution.

    Args:
        model: the network or Ensemble, as trained.
        num_classes: C.
        calibration: what `calibrate` returned.
        score: one of losses.calibration.SCORES.
    UserError if the calibration has another form, or no thresholds for this score.
    """

    def __init__(self, model, num_classes, calibration, score):
        score_functions()  # so that the heads know those of plugins
        self.model, heads = model, [member.classifier for member in members_of(model)]
        self.ours = all(isinstance(head, LossFirstPart) for head in heads)
        # a plugin's head does not divide by a temperature, so that is done here
        self.head = heads[0] if self.ours else LossFirstPart(1, num_classes)
        try:
            _check(calibration)
            self.temperature = float(calibration["temperature"])
            for head in heads if self.ours else [self.head]:
                head.temperature = self.temperature
            self._restore_thresholds(calibration["thresholds"][score], score)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            known = calibration.get("thresholds") if isinstance(calibration, dict) else None
            if isinstance(known, dict) and score not in known:
                raise UserError(f"the calibration has no thresholds of {score}, it has {', '.join(known)}. Evaluate "
                                "the run again, with --plugin if a plugin defines the score") from error
            raise UserError(f"the calibration is damaged ({error!r}). Evaluate the run again") from error

    def _restore_thresholds(self, values, score):
        self.head.score_type = score
        grid = torch.tensor(values, dtype=self.head.precomputed_thresholds.dtype)
        unknown = torch.full_like(grid, torch.nan)
        self.head.load_state_dict({
            "temperature": torch.tensor([self.temperature]), "validationset_available": torch.tensor([True]),
            "precomputed_thresholds": torch.stack([unknown, grid]),
            "thresholds_temperature": torch.tensor([torch.nan, self.temperature]),
            "thresholds_score": torch.tensor([-1, score_number(score)])}, strict=False)

    @torch.inference_mode()
    def __call__(self, images, reject_rate):
        """Images (B, 3, H, W), normalised → (classes, probabilities, scores, in_distribution), (B) each, on the CPU.

        reject_rate: the share of in-distribution images to reject. ValueError if the network returns NaN or infinity,
        or if the rate is not between 0 and 1.
        """
        logits = add_member_dim(self.model(images)).cpu().double().mean(0)  # (B, C); MPS has no float64
        if not self.ours:
            logits = logits / self.temperature
        if not logits.isfinite().all():
            raise ValueError("the network returns NaN or infinity")
        probabilities, classes = self.head.probabilities(logits).max(-1)
        return classes, probabilities, self.head.scores(logits), self.head.detect(logits, reject_rate)

    def threshold(self, reject_rate):
        return self.head.threshold(reject_rate).item()


def _check(calibration):
    """KeyError, TypeError or ValueError when it is not as `calibrate` made it."""
    if not (_is_number(calibration["temperature"]) and calibration["temperature"] > 0):
        raise ValueError("the temperature is none")
    if calibration["percentiles"] != list(PERCENTILES) or not isinstance(calibration["images"], int):
        raise ValueError("the percentiles or the number of images are others")
    for score, values in calibration["thresholds"].items():
        if len(values) != len(PERCENTILES) or not all(map(_is_number, values)) or values != sorted(values):
            raise ValueError(f"the thresholds of {score} are none")


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
