"""Claims about saliency maps, and what is asked of a device."""
import builtins
import ctypes
import io
import platform
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.loaders import ResidentImages
from data.subsets import Subset
from engine import devices, saliency
from utils.io import UserError

CPU = torch.device("cpu")


# ---- saliency ----

def test_correlations_leave_the_border_out_of_maps_that_have_an_inside():
    torch.manual_seed(0)
    for side, cut in ((4, slice(1, 3)), (3, slice(None)), (6, slice(1, 5))):
        maps = torch.rand(2, 3, side, side + 1)
        found = saliency.pairwise_correlations(maps)
        wide = slice(None) if cut == slice(None) else slice(1, side)
        for b in range(3):
            expected = np.corrcoef([m[b, cut, wide].flatten().numpy() for m in maps])
            assert np.allclose(found[b], expected, atol=1e-5)
    three = torch.tensor([[[1.0, 0.1, 0.2], [0.1, 1, 0.6], [0.2, 0.6, 1]]])
    assert saliency.mean_over_pairs(three).tolist() == pytest.approx([0.3])


def test_kept_maps_are_of_images_at_equal_distances(monkeypatch):
    pixels = np.zeros((300, 28, 28, 3), np.uint8) + np.arange(300, dtype=np.uint8)[:, None, None, None]
    whole = ResidentImages(pixels, np.zeros(300, np.int64), CPU, 28, ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)))
    opened = []
    monkeypatch.setattr(saliency, "open_split", lambda *words: opened.append(words) or whole)
    seen = []

    def maps(model, images):
        seen.append(images)
        return torch.rand(3, len(images), 5, 5), torch.arange(len(images))
    monkeypatch.setattr(saliency, "gradcam_maps", maps)
    recipe = SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    index = {"train": np.array([5]), "test": np.arange(20, 220)}
    subset = Subset("own", index, 201, splits={"train": "the train split", "test": "the test split"})
    for counted, chosen in ((256, range(20, 220)), (3, (20, 120, 219)), (200, range(20, 220))):
        monkeypatch.setattr(saliency, "COUNTED", counted)
        seen.clear()
        found = saliency.maps_of(None, subset, recipe, CPU)
        images = torch.cat(seen)
        values = ((images[:, 1, 0, 0] * 0.2 + 0.4) * 255).round().tolist()
        assert np.allclose(values, [k % 256 for k in chosen])
        n = len(chosen)
        assert found["images"].shape == (2, 28, 28, 3) and found["images"].dtype == np.uint8
        assert found["images"][:, 3, 4].tolist() == [[20] * 3, [219] * 3] and found["predicted"].shape == (2,)
        assert found["maps"].shape == (2, 3, 5, 5) and found["correlations"].shape == (2, 3, 3)
        means = found["mean_correlations"]
        assert means.shape == (counted,) and np.isfinite(means[:n]).all() and np.isnan(means[n:]).all()
        off = found["correlations"][1][np.triu_indices(3, 1)].mean()
        assert means[n - 1] == pytest.approx(off, abs=1e-5)
    assert opened[0] == ("the test split", CPU, (recipe.mean, recipe.std))


# ---- devices ----

def test_devices_are_chosen_or_refused_in_a_line(monkeypatch):
    kept = []
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: kept.append(1))
    assert devices.choose("cpu") == CPU and kept == [1]
    for name in ("nothing", "meta", "cuda:77"):
        with pytest.raises(UserError, match=f"the device '{name}' cannot be used here: ") as refused:
            devices.choose(name)
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert devices.choose() == CPU and len(kept) == 2
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert devices.choose().type == "mps" and len(kept) == 2


def test_freed_memory_is_kept_by_glibcs_settings(monkeypatch):
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *pair: calls.append(pair)))
    monkeypatch.setattr(sys, "platform", "linux")
    devices.keep_freed_memory()
    assert sorted(calls) == [(-4, 0), (-3, 32 << 20), (-1, 2**31 - 1)]
    calls.clear()
    devices.keep_freed_memory(False)
    assert sorted(calls) == [(-4, 65536), (-3, 32 << 20), (-1, 64 << 20)]
    calls.clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    devices.keep_freed_memory()
    assert not calls


def test_a_cpu_is_described_by_its_name_and_threads(monkeypatch):
    text = "flags : a\nmodel name\t: AMD: EPYC \nmodel name\t: other\nflags: amx_bf16\n"
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO(text))
    assert devices.describe(CPU) == f"cpu (AMD: EPYC, {torch.get_num_threads()} threads)"
    monkeypatch.setattr(sys, "platform", "linux")
    assert devices.multiplies_bfloat16(CPU) is True and devices.multiplies_bfloat16(torch.device("mps")) is False
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO("no names"))
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv")
    assert devices.multiplies_bfloat16(CPU) is False and devices.describe(CPU).startswith("cpu (riscv, ")

    def closed(*_, **__):
        raise OSError
    monkeypatch.setattr(builtins, "open", closed)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert devices.multiplies_bfloat16(CPU) is False and devices.describe(CPU).startswith("cpu (arm, ")
    assert devices.describe(torch.device("mps")) == "mps"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO(text))
    assert devices.multiplies_bfloat16(CPU) is False


def test_float32_is_multiplied_as_such():
    places = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = True
        devices.turn_off_tf32()
        assert [place.allow_tf32 for place in places] == [False, False]
    finally:
        for place, value in zip(places, before):
            place.allow_tf32 = value


def test_random_states_are_put_back_on_their_kind_of_device():
    state = devices.rng_state(CPU)
    drawn = torch.rand(2)
    devices.restore_rng_state(state, CPU)
    assert torch.equal(torch.rand(2), drawn) and state["type"] == "cpu" and "device" not in state
    gpu = torch.device("cuda")
    for kept, of_cpu, of_gpu in ((state, True, False), ({"cpu": 0}, True, False),
                                 ({"cpu": 0, "device": 1}, False, True)):
        assert devices.restores_rng_state(kept, CPU) == of_cpu and devices.restores_rng_state(kept, gpu) == of_gpu
    with devices.side_stream(CPU):
        devices.synchronize(CPU)
        devices.release_memory(CPU)


@pytest.mark.parametrize(("error", "said"), [
    (RuntimeError("CUDA out of memory\nmore"), r"^cpu is out of memory \(CUDA out of memory\)\. Do it$"),
    (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "cpu is out of memory"), (MemoryError(), "no memory left.* Do it"),
    (torch.OutOfMemoryError("x"), r"cpu is out of memory \(x\)")])
def test_lack_of_memory_is_a_sentence_with_advice(error, said):
    with pytest.raises(UserError, match=said), devices.explain_out_of_memory(CPU, "Do it"):
        raise error
    with pytest.raises(RuntimeError, match="^other$"), devices.explain_out_of_memory(CPU):
        raise RuntimeError("other")
    with pytest.raises(UserError, match="--micro-batch 16"), devices.explain_out_of_memory(CPU):
        raise error
