"""Scores as files, in the form of OpenOOD: scores/<score>/<set>.npz with pred, conf and label of every image.

conf is larger for in-distribution images, pred is the class of the largest mean logit, and label is −1 for OOD images.
"""
import numpy as np

from engine.metric_rows import every_score, openood_scores
from utils.io import atomic_write


def write_score_files(cache, splits, detector_scores=None):
    """Every score of DisMax's benchmark, and of ensembles SDDE's at temperature 1, for the test images of each Split.

    Args:
        detector_scores: function of a Split to {detector: (n) scores}.
    """
    for split in splits:
        outputs = cache.outputs(split)
        detected = detector_scores(split) if detector_scores else {}
        if outputs:
            mean = outputs.logits.mean(0)
            of_members = openood_scores(outputs.logits, 1.0) if len(outputs.logits) > 1 else {}
            for score, conf in {**of_members, **every_score(mean), **detected}.items():
                with atomic_write(cache.run.folder / "scores" / score / f"{split.name}.npz") as file:
                    np.savez(file, pred=mean.argmax(1), conf=conf, label=outputs.labels)
