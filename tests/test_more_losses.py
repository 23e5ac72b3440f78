"""Heads and criteria at the edges of what they accept."""
import pytest
import torch

from losses import LOSSES, DisMaxLossFirstPart, DisMaxLossSecondPart
from losses.calibration import SCORES


@pytest.mark.parametrize("name", LOSSES)
def test_a_head_of_one_class_is_certain(name):
    """One class has probability 1 whatever the features: no loss, no gradient that is not 0, and no NaN anywhere."""
    torch.manual_seed(0)
    first, second = LOSSES[name]
    head = first(6, 1)
    criterion = second(head)
    features = torch.randn(8, 6, requires_grad=True)
    labels = torch.zeros(8, dtype=torch.int64)
    for mode in (True, False):
        head.train(mode)
        logits = head(features)
        assert logits.shape == (8, 1) and logits.isfinite().all()
        loss = criterion(logits, labels)
        assert loss.item() == 0
        gradients = torch.autograd.grad(loss, [features, *head.parameters()])
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)
    value = logits.detach()[:, 0]
    expected = {"MPS": 0, "ES": 0, "MDS": value, "MMLS": 2 * value, "MMLES": 2 * value, "MMLEPS": 2 * value + 1,
                "energy": value}
    for head.score_type in SCORES:
        assert torch.allclose(head.scores(logits), torch.as_tensor(expected[head.score_type], dtype=torch.float32))


@pytest.mark.parametrize("rows, count", [(2, 3), (3, 2), (2, 1), (4, 5)])
def test_another_number_of_targets_than_of_rows_is_refused(rows, count):
    """Broadcasting and indexing would hide a missing or surplus target."""
    head = DisMaxLossFirstPart(4, 3)
    second = DisMaxLossSecondPart(head, regularization="fpr")
    targets = torch.arange(count) % 3
    logits = head(torch.randn(rows, 4))
    for call in (lambda: second(logits, targets), lambda: second.partial_loss(logits, *second.split_targets(targets))):
        with pytest.raises(ValueError, match=rf"one target per row of logits .*\({count},.* logits \({rows}, 3\)"):
            call()
    for criterion in (second, DisMaxLossSecondPart(head)):
        with pytest.raises(ValueError, match=f"one target per input is needed, got {rows} inputs and {count} targets"):
            criterion.preprocess(torch.randn(rows, 3, 4, 4), targets)
