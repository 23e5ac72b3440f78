"""Fractional probability regularisation: quadrants, targets, losses and odd batches."""
import pytest
import torch
import torch.nn.functional as F

from losses import DisMaxLossFirstPart, DisMaxLossSecondPart
from losses.dismax import fractional_targets, mix_quadrants


def test_quadrants_come_from_the_images_before():
    """Batch of 8: image 5, second of the mixed half 4…7, has TL 5, BL 4, TR 7, BR 6, as seen in the published code."""
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 5, 6)  # cut at ⌊5/2⌋ = 2 rows, 3 columns
    mixed = mix_quadrants(images[4:])
    second = mixed[1]
    assert (second[:, :2, :3] == 5).all() and (second[:, 2:, :3] == 4).all()
    assert (second[:, :2, 3:] == 7).all() and (second[:, 2:, 3:] == 6).all()


@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_targets_wrap_as_the_quadrants_do(m):
    """Paint every image in its class: the share of each class in a mixed image is its target."""
    targets = torch.randperm(m) % 3
    images = targets.view(m, 1, 1, 1).expand(m, 1, 4, 4).float()
    share = torch.stack([(mix_quadrants(images) == c).float().mean((1, 2, 3)) for c in range(3)], 1)
    assert torch.equal(share, fractional_targets(targets, 3))


def test_fpr_loss_against_ten_plain_lines():
    torch.manual_seed(0)
    for batch in (2, 5, 8):
        layer = DisMaxLossFirstPart(16, 6)
        logits, targets = layer(torch.randn(batch, 16)), torch.randint(0, 6, (batch,))
        p = torch.softmax(10 * logits.double(), 1)
        h = batch // 2
        ce = -sum(p[i, targets[i]].log() for i in range(h)) / h
        kl = 0
        for i in range(batch - h):
            q = torch.zeros(6, dtype=torch.double)
            for k in range(4):
                q[targets[h + (i - k) % (batch - h)]] += 0.25
            kl = kl + sum(q[c] * (q[c].log() - p[h + i, c].log()) for c in range(6) if q[c] > 0) / (batch - h)
        ours = DisMaxLossSecondPart(layer, "fpr")(logits, targets)
        assert ours.item() == pytest.approx(((ce + kl) / 2).item(), abs=1e-5)


def test_preprocess_shuffles_and_mixes_only_the_second_half():
    torch.manual_seed(0)
    criterion = DisMaxLossSecondPart(DisMaxLossFirstPart(4, 9), "fpr")
    targets = torch.arange(9)
    inputs = targets.view(9, 1, 1, 1).expand(9, 3, 4, 4).float()
    x, y = criterion.preprocess(inputs, targets)
    assert criterion.unmixed(9) == 4 and sorted(y.tolist()) == list(range(9))
    assert torch.equal(x[:, 0, 0, 0], y.float()), "every image keeps its label's top-left quadrant"
    assert torch.equal(x[:4], y[:4].view(4, 1, 1, 1).expand(4, 3, 4, 4).float()), "the first half is whole"
    assert all(len(image.unique()) == 4 for image in x[4:])


def test_batch_of_one():
    layer = DisMaxLossFirstPart(4, 3)
    criterion = DisMaxLossSecondPart(layer, "fpr")
    x, y = criterion.preprocess(torch.randn(1, 3, 4, 4), torch.tensor([2]))
    logits = layer(torch.randn(1, 4))
    loss = criterion(logits, y)
    assert loss.item() == pytest.approx(F.cross_entropy(10 * logits, y).item()), "plain cross-entropy, not NaN"
    loss.backward()
    assert layer.prototypes.grad.isfinite().all()


def test_inputs_that_are_not_images():
    vectors, targets = torch.randn(6, 10), torch.arange(6) % 3
    x, y = DisMaxLossSecondPart(DisMaxLossFirstPart(4, 3)).preprocess(vectors, targets)
    assert x.shape == vectors.shape and sorted(x[:, 0].tolist()) == sorted(vectors[:, 0].tolist())
    with pytest.raises(ValueError, match=r"images \(B, C, H, W\)"):
        DisMaxLossSecondPart(DisMaxLossFirstPart(4, 3), "fpr").preprocess(vectors, targets)


def test_library_code_prints_nothing(capsys):
    layer = DisMaxLossFirstPart(4, 3)
    criterion = DisMaxLossSecondPart(layer, "fpr", batches_to_accumulate=1)
    x, y = criterion.preprocess(torch.randn(4, 3, 4, 4), torch.arange(4) % 3)
    layer.eval()
    criterion(layer(x.mean((2, 3)) @ torch.randn(3, 4)), y, precompute_thresholds=True)
    assert capsys.readouterr() == ("", "")
