"""Heads and criteria at the edges of what they accept."""
import pytest
import torch

from losses import LOSSES
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
