"""SoftMax, IsoMax, IsoMax+ and DisMax, each as a first part (replaces the last linear layer) and a second part
(replaces the criterion):

    model.classifier = DisMaxLossFirstPart(num_features, num_classes)
    criterion = DisMaxLossSecondPart(model.classifier)            # regularization="fpr" for the paper's DisMax†
    inputs, targets = criterion.preprocess(inputs, targets)       # on every training batch, before the forward pass
    scores = model.classifier.scores(outputs)                     # larger = more in-distribution
"""
from functools import partial

from .dismax import DisMaxLossFirstPart, DisMaxLossSecondPart
from .isomax import IsoMaxLossFirstPart, IsoMaxLossSecondPart
from .isomaxplus import IsoMaxPlusLossFirstPart, IsoMaxPlusLossSecondPart
from .softmax import SoftMaxLossFirstPart, SoftMaxLossSecondPart

# name → (first part, second part): every loss that train.py knows
LOSSES = {
    "softmax": (SoftMaxLossFirstPart, SoftMaxLossSecondPart),
    "isomax": (IsoMaxLossFirstPart, IsoMaxLossSecondPart),
    "isomaxplus": (IsoMaxPlusLossFirstPart, IsoMaxPlusLossSecondPart),
    "dismax": (DisMaxLossFirstPart, DisMaxLossSecondPart),
    "dismax_fpr": (DisMaxLossFirstPart, partial(DisMaxLossSecondPart, regularization="fpr")),
}

__all__ = [
    "LOSSES",
    "DisMaxLossFirstPart", "DisMaxLossSecondPart",
    "IsoMaxLossFirstPart", "IsoMaxLossSecondPart",
    "IsoMaxPlusLossFirstPart", "IsoMaxPlusLossSecondPart",
    "SoftMaxLossFirstPart", "SoftMaxLossSecondPart",
]
