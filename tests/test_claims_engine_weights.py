"""Claims about weights from elsewhere."""
import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import run_like
from torch import nn

from engine import checkpoint, pretrained
from engine.build import build_model
from engine.foreign_weights import adopt, is_ours, load_renamed, read_weights, rename
from losses import SoftMaxLossFirstPart
from utils import run_dir
from utils.io import UserError

# ---- names ----

@pytest.mark.parametrize(("model", "theirs", "ours"), [
    ("resnet34", "conv1.weight", "stem.0.weight"), ("resnet34", "bn1.bias", "stem.1.bias"),
    ("resnet34", "layer1.0.conv1.weight", "layers.0.0.conv1.weight"),
    ("resnet34", "linear.weight", "classifier.weights"),
    ("resnet18_32x32", "layer4.1.bn2.bias", "layers.3.1.bn2.bias"), ("resnet18_32x32", "fc.bias", "classifier.bias"),
    ("resnet50", "layer2.0.conv1.weight", "body.layer2.0.conv1.weight"), ("resnet18", "bn1.weight", "body.bn1.weight"),
    ("resnet18", "conv1.weight", "body.conv1.weight"), ("resnet18", "fc.weight", "classifier.weights"),
    ("densenetbc100", "block1.layer.3.conv1.weight", "blocks.0.3.conv1.weight"),
    ("densenetbc100", "trans2.conv1.weight", "transitions.1.conv.weight"), ("densenetbc100", "bn1.bias", "bn.bias"),
    ("wideresnet2810", "layer3.2.shortcut.0.bias", "groups.2.2.shortcut.bias"),
    ("wideresnet2810", "layer1.0.conv1.bias", "groups.0.0.conv1.bias"), ("lenet", "block3.0.bias", "conv3.bias"),
    ("lenet", "fc.weight", "classifier.weights"), ("lenet", "classifier1.weight", "fc.weight"),
    ("resnet20", "head.weight", "classifier.weights"), ("resnet34", "module.conv1.weight", "stem.0.weight"),
    ("resnet34", "_orig_mod.bn1.bias", "stem.1.bias"), ("lenet", "nets.3.block1.0.bias", "members.3.conv1.bias"),
    ("lenet", "members.2.fc.bias", "members.2.classifier.bias"),
    ("resnet34", "else.conv1.weight", "else.conv1.weight")])
def test_names_become_ours(model, theirs, ours):
    tensor = torch.zeros(1)
    assert rename({theirs: tensor}, model) == {ours: tensor}


def test_our_own_names_stay_and_discriminators_go():
    own = {"members.0.conv1.weight": 1, "members.0.fc.weight": 2, "module.conv2.bias": 3, "discriminator.x": 4}
    assert is_ours(own, "lenet")
    assert rename(own, "lenet") == {"members.0.conv1.weight": 1, "members.0.fc.weight": 2, "conv2.bias": 3}
    for model, name in (("densenetbc100", "blocks.0.x"), ("wideresnet2810", "groups.0.x"), ("resnet18", "body.x"),
                        ("resnet50", "module.body.x"), ("resnet34", "layers.0.x"), ("resnet20", "members.11.layers.x")):
        assert is_ours({"a": 0, name: 0}, model) and not is_ours({"a": 0, "x." + name: 0}, model)


# ---- files ----

def test_state_dicts_are_found_inside_of_checkpoints(tmp_path):
    from safetensors.torch import save_file

    state = {"w": torch.ones(2)}
    for content in (state, {"epoch": 3, "state_dict": state}, {"model": {"net": state}, "x": 1},
                    {"model_state_dict": state}, {"params": state}):
        torch.save(content, tmp_path / "a.pt")
        assert read_weights(tmp_path / "a.pt")["w"].tolist() == [1, 1]
    save_file(state, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors")["w"].tolist() == [1, 1]
    for content in ({}, {"state_dict": {}}, {"other": state}, {"v": 1, **state}, [state]):
        torch.save(content, tmp_path / "b.pt")
        with pytest.raises(UserError, match=r"b\.pt holds no state dict, neither by itself nor under state_dict"):
            read_weights(tmp_path / "b.pt")


def test_unreadable_weights_are_refused_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.pt: there is no such file$"):
        read_weights(tmp_path / "none.pt")
    (tmp_path / "a.safetensors").write_bytes(b"no header")
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read as weights: .+") as refused:
        read_weights(tmp_path / "a.safetensors")
    assert "\n" not in str(refused.value)
    torch.save({"w": torch.zeros(100)}, tmp_path / "b.pt")
    content = bytearray((tmp_path / "b.pt").read_bytes())
    content[content.index(bytes(100)) + 10] ^= 1
    (tmp_path / "b.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"b\.pt is damaged \(") as refused:
        read_weights(tmp_path / "b.pt")
    assert "other files" not in str(refused.value)
    torch.save({"w": SimpleNamespace()}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="it is of another kind, or holds more than tensors, names and numbers"):
        read_weights(tmp_path / "c.pt")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.classifier = nn.Linear(2, 2), SoftMaxLossFirstPart(2, 3)


def test_what_does_not_fit_is_listed_by_kind():
    network = Network()
    state = {name: value.clone() + 1 for name, value in network.state_dict().items()}
    few = {name: value for name, value in state.items() if name in ("stem.weight", "stem.bias", "classifier.weights",
                                                                    "classifier.bias")}
    load_renamed(network, few, "resnet20", "f.pt")
    assert torch.equal(network.stem.weight, state["stem.weight"]) and network.classifier.temperature.item() == 1
    load_renamed(network, {**few, "classifier.temperature": torch.tensor([3.0])}, "resnet20", "f.pt")
    assert network.classifier.temperature.item() == 3
    load_renamed(network, {**few, "classifier.temperature": torch.zeros(5, dtype=torch.int)}, "resnet20", "f.pt")
    assert network.classifier.temperature.item() == 3, "kept where it has another shape"
    bad = {**few, "stem.weight": torch.zeros(3, 2), "stem.bias": torch.zeros(2, dtype=torch.long),
           **{f"more{k}": torch.zeros(1) for k in range(6)}}
    del bad["classifier.bias"]
    with pytest.raises(UserError) as refused:
        load_renamed(network, bad, "resnet20", "f.pt")
    assert str(refused.value) == (
        "f.pt does not fit resnet20: missing: classifier.bias; not known: more0, more1, more2, more3, more4 and 1 more;"
        " of another shape: stem.weight (3, 2) instead of (2, 2); of another type: stem.bias torch.int64. Choose "
        "another --model, --method or --dataset")
    sparse = {**few, "stem.weight": torch.eye(2).to_sparse()}
    with pytest.raises(UserError, match="of another type: stem.weight torch.float32"):
        load_renamed(network, sparse, "resnet20", "f.pt")
    with pytest.raises(UserError, match="not known: a, b, c, d, e[.]"):
        load_renamed(network, {**few, **dict.fromkeys("abcde", torch.zeros(1))}, "resnet20", "f.pt")


def test_adopted_weights_are_a_finished_run(tmp_path):
    run = dataclasses.replace(run_like("softmax"), folder=tmp_path)
    state = build_model(run, 7).state_dict()
    adopt(run, 7, state, "the source", "d1")
    config = json.loads((tmp_path / "config.json").read_text())
    assert run_dir.load_run(tmp_path)[0].address == run.address and run_dir.is_finished(tmp_path)
    expected = {"weights_from": {"source": "the source", "sha256": "d1"}, "data": {}, "num_classes": 7,
                "best_epoch": 20,
                "overrides": {"weights": {"published": "trained by the recipe", "used": "not trained here"}},
                "parameters": sum(p.numel() for p in build_model(run, 7).parameters()),
                "sha256": {"weights.pt": run_dir.file_digest(tmp_path / "weights.pt")},
                **dict.fromkeys(("best_accuracy", "last_accuracy", "wall_clock_seconds", "train_seconds"))}
    assert {name: config[name] for name in expected} == expected
    assert config["sessions"][0]["device"] == "none, not trained here" and config["sessions"][0]["torch"]
    saved = checkpoint.load_state(tmp_path / "weights.pt")
    assert all(torch.equal(saved[name].nan_to_num(), state[name].nan_to_num()) for name in state)
    before = (tmp_path / "config.json").read_bytes()
    adopt(run, 7, None, "the source", "d1")
    assert (tmp_path / "config.json").read_bytes() == before
    with pytest.raises(UserError, match="holds another run: choose another --seed or --results-dir"):
        adopt(run, 7, state, "the source", "d2")
    with pytest.raises(UserError, match="the source is of no use: conv1.bias holds NaN"):
        adopt(dataclasses.replace(run, folder=tmp_path / "b"), 7, {**state, "conv1.bias": torch.full((6,), torch.nan)},
              "the source", "d1")


def test_torchvisions_resnet18_has_a_folder_of_its_own(tmp_path, monkeypatch):
    adopted, asked = [], []
    monkeypatch.setattr(pretrained, "adopt", lambda *words: adopted.append(words))
    monkeypatch.setattr(pretrained, "torchvision_weights", lambda *words: asked.append(words) or "state")
    folder = pretrained.adopt_torchvision(tmp_path, write=False)
    assert folder == tmp_path / "imagenet1k/resnet18/softmax/seed0" and not adopted and not asked
    assert pretrained.adopt_torchvision(tmp_path) == folder and asked == [("",)]
    run, classes, state, source, digest = adopted.pop()
    assert run.address == {"dataset": "imagenet1k", "model": "resnet18", "method": "softmax", "seed": 0}
    assert (classes, state, source, digest) == (1000, "state", "torchvision's ResNet18_Weights.IMAGENET1K_V1",
                                                "ResNet18_Weights.IMAGENET1K_V1") and run.folder == folder
    (tmp_path / "f").write_bytes(b"x")
    pretrained.adopt_torchvision(tmp_path, tmp_path / "f")
    assert asked[1] == (tmp_path / "f",) and adopted[0][4] == run_dir.file_digest(tmp_path / "f")


def test_weights_that_cannot_be_fetched_are_asked_for(monkeypatch):
    from torchvision import models

    given = []

    class Weights:
        url = "https://host/file.pth"

        def get_state_dict(self, **options):
            given.append(options)
            raise OSError("no route")
    monkeypatch.setattr(models, "get_weight", lambda name: given.append(name) or Weights())
    with pytest.raises(UserError, match=r"could not be fetched \(no route\)\. Fetch https://host/file\.pth elsewhere"):
        pretrained.torchvision_weights("", "resnet50")
    assert given == ["ResNet50_Weights.IMAGENET1K_V1", {"progress": True, "check_hash": True}]
    with pytest.raises(UserError):
        pretrained.torchvision_weights(None)
    assert given[2] == "ResNet18_Weights.IMAGENET1K_V1"
