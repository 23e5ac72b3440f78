"""Claims about the outputs of a network: how they are made, kept and read again."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import run_like
from torch import nn

from engine import checkpoint, distributed, inference
from engine.build import build_model
from engine.inference import (
    LogitsCache,
    Outputs,
    accuracy_of,
    forward,
    joined,
    load_model,
    read_outputs,
    write_outputs,
)
from models.ensemble import Ensemble
from utils.io import UserError

CPU = torch.device("cpu")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(12, 3)

    def forward(self, images):
        return self.classifier(images.flatten(1) * 2)


class Data:
    """Nine images 3×2×2 in batches of four; labels are 0, 1, 2, 0, …"""

    def __init__(self, n=9):
        torch.manual_seed(1)
        self.images, self.labels, self.shards = torch.randn(n, 3, 2, 2), torch.arange(n) % 3, []

    def __len__(self):
        return len(self.labels)

    def eval_batches(self, shard=(0, 1)):
        self.shards.append(shard)
        return zip(self.images.split(4), self.labels.split(4))


def model_of(members=2):
    torch.manual_seed(0)
    return Ensemble([Tiny() for _ in range(members)]).eval()


# ---- rows ----

def test_images_stand_where_their_positions_do():
    outputs = Outputs(np.zeros((1, 3, 2)), np.zeros(3), np.array([1, 4, 6]))
    for index, rows in (([1, 4, 6], [0, 1, 2]), ([0, 4], [1]), ([5, 6, 7], [2]), ([0], []), ([9], []), ([], [])):
        assert outputs.rows(np.array(index, dtype=np.int64)).tolist() == rows
    assert Outputs(np.zeros((1, 0, 2)), np.zeros(0), np.zeros(0)).rows(np.array([3, 4])).tolist() == []


# ---- the network ----

def test_a_network_is_run_on_every_image_once():
    model, data = model_of(), Data()
    found = forward(model, data, "title", want_features=True)
    with torch.no_grad():
        expected = model(data.images)
    assert np.allclose(found.logits, expected, atol=1e-6) and found.logits.dtype == np.float32
    assert found.labels.tolist() == data.labels.tolist() and found.positions.tolist() == list(range(9))
    features = (data.images.flatten(1) * 2).numpy()
    assert np.allclose(found.features, [features, features]) and found.unreadable == 0 and data.shards == [(0, 1)]
    assert not any(member.classifier._forward_pre_hooks for member in model.members)
    single = forward(Tiny(), data, "title")
    assert single.logits.shape == (1, 9, 3) and single.features is None
    rough = forward(model, data, "title", bf16=True).logits
    assert rough.dtype == np.float32 and 0 < abs(rough - expected.numpy()).max() < 0.1


def test_other_ranks_help_and_get_nothing(monkeypatch):
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (1, 2))
    monkeypatch.setattr(distributed, "gather_to_main", lambda value: None)
    data = Data()
    assert forward(model_of(), data, "title") is None and data.shards == [(1, 2)]


def test_parts_of_ranks_are_joined_without_unreadable_images():
    parts = [(np.full((2, n, 3), n), np.arange(n), unreadable, np.full((2, n, 5), n)) for n, unreadable in (
        (2, {"c"}), (1, {"a", "c"}))]
    found = joined(parts, ["a", "b", "c", "d", "e"])
    assert found.logits[0, :, 0].tolist() == [2, 2, 1] and found.labels.tolist() == [0, 1, 0] and found.unreadable == 2
    assert found.positions.tolist() == [1, 3, 4] and found.features.shape == (2, 3, 5)
    whole = joined([(*part[:2], set(), None) for part in parts], None)
    assert whole.positions.tolist() == [0, 1, 2] and whole.unreadable == 0 and whole.features is None


def test_unreadable_files_are_the_datas_own_or_those_that_are_named():
    data = Data(2)
    data.unreadable = {"b": "broken"}
    assert forward(model_of(), data, "title", files=["a", "b", "c"]).positions.tolist() == [0, 2]
    data.files = ["b", "a", "c"]
    assert forward(model_of(), data, "title", files=["a", "b", "c"]).positions.tolist() == [1, 2]


def test_accuracy_is_of_the_mean_logits_over_all_ranks(monkeypatch):
    model, data, stop = model_of(), Data(), SimpleNamespace(signal=0)
    expected = (model(data.images).mean(0).argmax(1) == data.labels).sum().item()
    assert accuracy_of(model.train(), data, stop) == expected / 9 and not model.training
    assert accuracy_of(model.members[0], data, stop) == (
        model.members[0](data.images).argmax(1) == data.labels).sum().item() / 9
    assert accuracy_of(model, data, SimpleNamespace(signal=15)) is None
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda counts: counts + torch.tensor([3, 6]))
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (1, 2))
    assert accuracy_of(model, data, SimpleNamespace(signal=15)) == (expected + 3) / 15 and data.shards[-1] == (1, 2)


# ---- files ----

def content(**changes):
    made = {"logits": np.zeros((2, 4, 3), np.float32), "labels": np.zeros(4, np.int64),
            "positions": np.arange(4), "unreadable": np.array(1), "source": "s"}
    return {**made, **changes}


def test_outputs_come_back_from_files_of_the_same_source(tmp_path):
    paths = tmp_path / "l.npz", tmp_path / "f.npz"
    outputs = Outputs(np.random.rand(2, 4, 3).astype(np.float32), np.arange(4), np.array([0, 2, 3, 5]), 2,
                      np.random.rand(2, 4, 6).astype(np.float32))
    write_outputs(*paths, "s", outputs)
    found = read_outputs(paths, "s")
    for name in ("logits", "labels", "positions", "features"):
        assert np.array_equal(getattr(found, name), getattr(outputs, name))
    assert found.unreadable == 2 and read_outputs(paths[:1], "s").features is None
    assert read_outputs(paths, "other") is None and read_outputs([tmp_path / "none"], "s") is None
    for features in (np.zeros((2, 4, 6)), np.zeros((2, 3, 6), np.float32), np.zeros((1, 4, 6), np.float32)):
        np.savez(paths[1], features=features, source="s")
        assert read_outputs(paths, "s") is None
    np.savez(paths[1], features=outputs.features, source="other")
    assert read_outputs(paths, "s") is None
    write_outputs(tmp_path / "m.npz", tmp_path / "no.npz", "s", Outputs(*list(vars(outputs).values())[:4]))
    assert not (tmp_path / "no.npz").exists()


@pytest.mark.parametrize("changes", [
    {"logits": np.zeros((2, 4, 3))}, {"logits": np.full((2, 4, 3), np.nan, np.float32)},
    {"logits": np.zeros((2, 3, 3), np.float32)}, {"logits": np.zeros((2, 4), np.float32)}, {"labels": np.zeros(4)},
    {"labels": np.zeros(4, np.int32)}, {"positions": np.zeros(4)}, {"positions": np.arange(3)},
    {"labels": np.zeros(3, np.int64)}, {"unreadable": np.array([1])}, {"unreadable": np.array(1.5)}])
def test_outputs_of_another_form_are_made_again(tmp_path, changes):
    np.savez(tmp_path / "l.npz", **content())
    assert read_outputs([tmp_path / "l.npz"], "s").unreadable == 1
    np.savez(tmp_path / "l.npz", **content(**changes))
    assert read_outputs([tmp_path / "l.npz"], "s") is None


# ---- the cache ----

@pytest.fixture
def cache_of(tmp_path, monkeypatch):
    """Make a LogitsCache of two members and three classes; `cache_of.passes` counts passes of the network."""
    run = SimpleNamespace(folder=tmp_path, dataset="own", method=SimpleNamespace(members=2),
                          recipe=SimpleNamespace(epochs=5, mean=(1, 2, 3), std=(4, 5, 6)))
    opened, passes = [], []
    monkeypatch.setattr(inference, "open_split", lambda split, device, normalization, **options: opened.append(
        (split, device, normalization, options)) or split.data)
    monkeypatch.setattr(inference, "weights_digest", lambda folder, config, name: f"digest of {folder.name}/{name}")
    monkeypatch.setattr(inference, "forward", lambda model, data, title, *more: passes.append(
        (title, *more)) or forward(model, data, title, *more))

    def make(which="last", best_epoch=2, members=2, **options):
        cache = LogitsCache(run, {"num_classes": 3, "best_epoch": best_epoch}, which, CPU, **options)
        cache._model = model_of(members)
        return cache
    make.opened, make.passes, make.folder, make.run = opened, passes, tmp_path, run
    return make


def split_of(name="own", split="test", digest="d1", data=None):
    return SimpleNamespace(name=name, split=split, digest=digest, data=data or Data())


@pytest.mark.parametrize(("which", "best_epoch", "file", "suffix"), [
    ("last", 2, "weights.pt", ""), ("best", 2, "weights_best.pt", "_best"), ("best", 5, "weights.pt", ""),
    ("last", 5, "weights.pt", ""), ("best", 4, "weights_best.pt", "_best")])
def test_the_best_epoch_may_be_the_last(cache_of, which, best_epoch, file, suffix):
    cache = cache_of(which, best_epoch)
    assert cache.file == cache_of.folder / file and cache.weights_digest == f"digest of {cache_of.folder.name}/{file}"
    cache.outputs(split_of())
    assert (cache_of.folder / f"logits{suffix}/own.npz").exists()
    assert cache_of.passes[0][0] == f"{'best' if suffix else 'last'} checkpoint on own"


def test_the_network_runs_once_on_the_same_images_with_the_same_weights(cache_of, monkeypatch):
    first = cache_of(loader_options={"workers": 3}).outputs(split_of())
    again = cache_of().outputs(split_of())
    assert len(cache_of.passes) == 1 and np.array_equal(first.logits, again.logits)
    assert cache_of.opened[0][1:] == (CPU, ((1, 2, 3), (4, 5, 6)), {"workers": 3})
    assert cache_of.passes[0][1:] == (False, False, None) and first.features is None
    for count, change in enumerate((lambda: cache_of().outputs(split_of(digest="d2")),
                                    lambda: cache_of(bf16=True).outputs(split_of(digest="d2")),
                                    lambda: cache_of(features=True, bf16=True).outputs(split_of(digest="d2")),
                                    lambda: cache_of().outputs(split_of(split="train"))), 2):
        change()
        assert len(cache_of.passes) == count
    assert {path.name for path in (cache_of.folder / "logits").iterdir()} == {"own.npz", "own_train.npz"}
    assert np.load(cache_of.folder / "logits/own.npz")["source"].item() == (
        f"d2 by digest of {cache_of.folder.name}/weights.pt in bfloat16")
    assert np.load(cache_of.folder / "features/own.npz")["features"].shape == (2, 9, 12)
    cache_of.run.method.members = 1
    cache_of(members=1).outputs(split_of(split="train"))
    assert len(cache_of.passes) == 6, "of another network"


def test_ood_images_have_no_label_and_own_ones_do(cache_of):
    inside, outside = (cache_of(features=True).outputs(split_of(name)) for name in ("own", "other"))
    assert inside.labels.tolist() == Data().labels.tolist() and outside.labels.tolist() == [-1] * 9
    assert outside.features is not None and outside.labels.dtype == np.int64
    cache = cache_of()
    assert len(cache.outputs(split_of()).labels) == 9 and cache.unreadable == {}
    assert np.array_equal(outside.positions, inside.positions) and np.array_equal(outside.logits, inside.logits)


def test_some_images_of_a_split_have_a_file_of_their_own(cache_of):
    part = SimpleNamespace(subset=lambda positions: Data(len(positions)))
    found = cache_of().outputs(split_of(split="train", data=part), np.array([1, 3, 5]))
    assert len(found.labels) == 3 and (cache_of.folder / "logits/own_train_3.npz").exists()


def test_unreadable_images_are_counted_and_a_set_without_any_other_is_none(cache_of):
    data = Data(2)
    data.unreadable, data.files = {"a": 1}, ["a", "b", "c"]
    for _ in range(2):  # from the network, and from the file
        cache = cache_of()
        assert cache.outputs(split_of("partly", data=data)).positions.tolist() == [1, 2]
        assert cache.unreadable == {"partly": 1}
    nothing = Outputs(np.zeros((2, 0, 3), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), 4)
    write_outputs(cache_of.folder / "logits/none.npz", None, f"d1 by {cache.weights_digest}", nothing)
    assert cache.outputs(split_of("none")) is None and cache.unreadable == {"partly": 1, "none": 4}


def test_a_network_that_diverged_is_refused_and_nothing_kept(cache_of):
    cache = cache_of()
    cache._model.members[1].classifier.bias.data[0] = torch.inf
    with pytest.raises(UserError, match="gives NaN or infinity for own: its training diverged.*--fresh and a lower"):
        cache.outputs(split_of())
    assert not (cache_of.folder / "logits").exists()


def test_corrupted_images_are_in_distribution(cache_of, monkeypatch):
    asked = []
    monkeypatch.setattr(inference.corruptions, "corruption_digest", lambda *words: "digest of " + "/".join(
        map(str, words)))
    monkeypatch.setattr(inference.corruptions, "open_corrupted", lambda *words: asked.append(words) or Data())
    found = cache_of(features=True).corrupted_outputs("own_c", "fog", 3, "data")
    assert asked == [("own_c", "fog", 3, "data", CPU, ((1, 2, 3), (4, 5, 6)))] and found.features is None
    assert found.labels.tolist() == Data().labels.tolist()
    source = np.load(cache_of.folder / "logits/own_c_fog_3.npz")["source"].item()
    assert source == f"digest of own_c/fog/3/data by digest of {cache_of.folder.name}/weights.pt"


def test_heads_are_copies(cache_of):
    cache = cache_of()
    one, two = cache.heads
    assert torch.equal(one.weight, cache.model.members[0].classifier.weight) and not torch.equal(one.weight, two.weight)
    assert one.weight.data_ptr() != cache.model.members[0].classifier.weight.data_ptr()


def test_a_model_is_loaded_from_a_file_of_its_own_weights(tmp_path):
    run, file = run_like("softmax", "resnet20", "cifar10"), tmp_path / "weights.pt"
    made = build_model(run, 10)
    checkpoint.save_state(file, made.state_dict())
    loaded = load_model(run, 10, file)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), loaded.parameters()))
    with pytest.raises(UserError, match=r"none is missing: train the run again with --fresh"):
        load_model(run, 10, tmp_path / "none")
    with pytest.raises(UserError, match=r"weights\.pt does not hold the weights of resnet20 with softmax: size"):
        load_model(run, 11, file)
    whole = torch.zeros(16, 3, 3, 3, dtype=torch.int)
    for name, value, said in (("stem.0.weight", whole, "stem.0.weight is of type torch.int32"),
                              ("stem.1.bias", torch.full((16,), torch.nan), "is of no use: stem.1.bias holds NaN")):
        checkpoint.save_state(file, {**made.state_dict(), name: value})
        with pytest.raises(UserError, match=said):
            load_model(run, 10, file)
