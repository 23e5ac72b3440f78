"""SoftMax, IsoMax, IsoMax+ and DisMax for any PyTorch classifier, with calibration and out-of-distribution detection:

    criterion = attach(model, "dismax")          # the last linear layer becomes the loss's first part
    for inputs, targets in training_batches:
        inputs, targets = criterion.preprocess(inputs, targets)
        criterion(model(inputs), targets).backward()    # and a step of an optimizer made after `attach`
    classifier = model.eval() and criterion.model_classifier
    classifier.calibrate(model(held_out_inputs), held_out_labels)
    classifier.set_thresholds(model(held_out_inputs))   # new logits, divided by the new temperature
    known = classifier.detect(model(new_inputs), reject_rate=0.05)    # True = in-distribution

`attach` is not needed: each loss has a first part, which replaces the last linear layer, and a second part, which
replaces the criterion: `model.fc = DisMaxLossFirstPart(num_features, num_classes)`, `criterion =
DisMaxLossSecondPart(model.fc)`, with regularization="fpr" for the paper's DisMax†. `classifier.scores(logits)` is
larger for in-distribution samples.
"""
from .attach import LOSSES, attach
from .base import LossFirstPart
from .criterion import LossSecondPart
from .dismax import DisMaxLossFirstPart, DisMaxLossSecondPart
from .isomax import IsoMaxLossFirstPart, IsoMaxLossSecondPart
from .isomaxplus import IsoMaxPlusLossFirstPart, IsoMaxPlusLossSecondPart
from .softmax import SoftMaxLossFirstPart, SoftMaxLossSecondPart

__all__ = [
    "LOSSES", "attach",
    "DisMaxLossFirstPart", "DisMaxLossSecondPart",
    "IsoMaxLossFirstPart", "IsoMaxLossSecondPart",
    "IsoMaxPlusLossFirstPart", "IsoMaxPlusLossSecondPart",
    "LossFirstPart", "LossSecondPart",
    "SoftMaxLossFirstPart", "SoftMaxLossSecondPart",
]
