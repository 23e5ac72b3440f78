"""Thresholds belong to one temperature, one score and one pass; the temperature is a buffer."""
import copy

import numpy as np
import pytest
import torch
from heads import HEADS, made

from losses import DisMaxLossFirstPart, DisMaxLossSecondPart
from losses.calibration import PERCENTILES

# ---- thresholds that do not belong to what is in force ----

def test_thresholds_of_another_temperature_or_score_are_refused():
    head, features = made("dismax")
    inputs = features(100, 1)[0]
    with pytest.raises(RuntimeError, match="no thresholds yet: call set_thresholds"):
        head.detect(head(inputs))
    head.set_thresholds(head(inputs))
    head.detect(head(inputs))
    head.temperature = 1.7
    with pytest.raises(RuntimeError, match="made at temperature 1, but the temperature is 1.7 now"):
        head.detect(head(inputs))
    loaded = made("dismax")[0]
    loaded.load_state_dict(head.state_dict())
    with pytest.raises(RuntimeError, match="made at temperature 1, but the temperature is 1.7 now"):
        loaded.detect(head(inputs))
    head.set_thresholds(head(inputs))
    head.detect(head(inputs))
    head.score_type = "MPS"
    with pytest.raises(RuntimeError, match="belong to the score MMLES, but score_type is MPS now"):
        head.threshold(0.05)


def test_thresholds_of_an_old_checkpoint_are_refused():
    """Those of the published code may be uninitialised memory."""
    head, features = made("dismax")
    head.set_thresholds(head(features(100, 1)[0]))
    state = head.state_dict()
    for key in ("thresholds_temperature", "thresholds_score"):
        del state[key]
    head.load_state_dict(state)
    with pytest.raises(RuntimeError, match="does not record the temperature"):
        head.detect(torch.randn(3, 5))
    for key in ("precomputed_thresholds", "validationset_available"):
        del state[key]
    head.load_state_dict(state)
    with pytest.raises(RuntimeError, match="no thresholds yet"):
        head.detect(torch.randn(3, 5))


@pytest.mark.parametrize("name", HEADS)
def test_state_dicts_of_the_temperature(name):
    head, _ = made(name)
    state = head.state_dict()
    assert state["temperature"].shape == (1,)
    head.temperature = 1.7
    assert head.state_dict()["temperature"].item() == pytest.approx(1.7)
    own = [key for key, _ in head.named_parameters()]
    head.load_state_dict({key: state[key] for key in own})  # strict: from before there were buffers
    assert head.temperature.item() == pytest.approx(1.7), "the present value is kept"
    head.load_state_dict({**{key: state[key] for key in own}, "temperature": torch.tensor(2.5)})
    assert head.temperature.tolist() == [2.5]
    model = torch.nn.Sequential(torch.nn.Linear(3, 16), head)
    parts = {key: value for key, value in model.state_dict().items() if "thresholds" not in key and "temp" not in key}
    del parts["1.validationset_available"]
    model.load_state_dict(parts)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({key: value for key, value in parts.items() if "bias" not in key and "proto" not in key})


@pytest.mark.parametrize("name", HEADS)
def test_setting_the_temperature(name):
    head, features = made(name)
    inputs, buffer = features(9, 1)[0], head.temperature
    one = head(inputs)
    values = 2.5, torch.tensor(2.5), torch.tensor([2.5]), np.float32(2.5), torch.nn.Parameter(torch.tensor([2.5]))
    for value in values:
        head.temperature = 1
        head.temperature = value
        assert head.temperature is buffer, "in place, as a recorded CUDA graph needs it"
        assert torch.allclose(head(inputs), one / 2.5, atol=1e-6)
    for value in (0, -1.0, float("nan"), float("inf"), torch.tensor(-2.0), 1e-60):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            head.temperature = value
    with pytest.raises(ValueError, match=r"one number, got a tensor \(2,\)"):
        head.temperature = torch.ones(2)
    assert head.temperature.item() == 2.5 and "temperature" not in dict(head.named_parameters())
    for changed in (copy.deepcopy(head).half(), copy.deepcopy(head).to(torch.bfloat16), copy.deepcopy(head).double()):
        assert changed.temperature.item() == 2.5 and changed.temperature.dtype in (torch.float32, torch.float64)
        assert changed.precomputed_thresholds.dtype == changed.temperature.dtype


def test_on_the_meta_device():
    with torch.device("meta"):
        head = DisMaxLossFirstPart(16, 5, temperature=2.0)
    assert all(tensor.is_meta for tensor in head.state_dict().values())
    source, features = made("dismax", temperature=3.0)
    head.load_state_dict(source.state_dict(), assign=True)
    assert head.temperature.item() == 3 and torch.equal(head(features(4, 1)[0]), source(features(4, 1)[0]))
    with pytest.raises(ValueError, match="positive"), torch.device("meta"):
        DisMaxLossFirstPart(16, 5, temperature=-1.0)


# ---- precompute_thresholds ----

def test_a_second_pass_in_a_row_counts_only_its_own_scores():
    """Two evaluations one after the other, without training between them: `eval()` begins a new pass."""
    head, features = made("dismax")
    criterion = DisMaxLossSecondPart(head)
    for seed in (1, 2):
        head.eval()
        logits = head(features(40 * 8, seed)[0])
        for part in logits.split(8):
            criterion(part, torch.zeros(8, dtype=torch.long), precompute_thresholds=True)
        expected = np.percentile(head.scores(logits).detach().double().numpy(), PERCENTILES)
        assert np.allclose(head.precomputed_thresholds[1], expected, atol=1e-6)
        assert criterion.accumulated_batches == 40
    assert (~head.detect(logits, 0.05)).float().mean().item() == pytest.approx(0.05, abs=1.01 / 320)
    model = torch.nn.Sequential(head)
    model.eval()  # also when it is the model's
    criterion(logits[:8], torch.zeros(8, dtype=torch.long), precompute_thresholds=True)
    assert criterion.accumulated_batches == 1
    head.temperature = 2.0  # scores of two temperatures do not mix
    criterion(logits[:8], torch.zeros(8, dtype=torch.long), precompute_thresholds=True)
    assert criterion.accumulated_batches == 1


def test_thresholds_describe_exactly_one_pass():
    """157 batches of a test pass: all of its scores and none of the pass before (the published window is 32 batches,
    across epochs)."""
    torch.manual_seed(0)
    layer = DisMaxLossFirstPart(4, 3)
    criterion = DisMaxLossSecondPart(layer)
    for _ in range(2):
        layer.train()
        criterion(layer(torch.randn(8, 4)), torch.zeros(8, dtype=torch.long))
        assert not layer.precomputed_thresholds[0].isfinite().any(), "nothing was asked of the training pass"
        layer.eval()
        scores = []
        for size in [64] * 156 + [16]:
            logits = layer(torch.randn(size, 4))
            scores.append(layer.scores(logits))
            criterion(logits, torch.zeros(size, dtype=torch.long), precompute_thresholds=True)
        expected = torch.quantile(torch.cat(scores).double(), torch.tensor(PERCENTILES, dtype=torch.double) / 100)
        assert torch.allclose(layer.precomputed_thresholds[1].double(), expected, atol=1e-6)
    assert layer.validationset_available.item() is True


def test_thresholds_wait_for_enough_batches():
    layer = DisMaxLossFirstPart(4, 3).eval()
    criterion = DisMaxLossSecondPart(layer)
    for batch in range(32):
        assert layer.precomputed_thresholds.isnan().all() and criterion.accumulated_batches == batch
        criterion(layer(torch.randn(8, 4)), torch.zeros(8, dtype=torch.long), precompute_thresholds=True)
    assert layer.precomputed_thresholds[1].isfinite().all()
