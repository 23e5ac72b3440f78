"""Checkpoints of others become runs: those of the DisMax release, of OpenOOD and SDDE, torchvision's, safetensors."""
import json
import re

import numpy as np
import pytest
import torch
from conftest import script
from torch import nn
from torchvision.models import resnet

from engine.build import build_ensemble, build_network
from engine.foreign_weights import load_renamed, read_weights
from losses import LOSSES
from utils.io import UserError

SOFTMAX, DISMAX = LOSSES["softmax"][0], LOSSES["dismax"][0]


def small_resnet(blocks, classes=10):
    """The ResNet for 32×32 images that OpenOOD and the DisMax release have, by torchvision's blocks."""
    net = resnet.ResNet(resnet.BasicBlock, blocks, num_classes=classes)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after a training
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def published(state):
    """torchvision's names → those of OpenOOD: shortcuts are called otherwise there."""
    return {name.replace("downsample", "shortcut"): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "net", "module."])
def test_openoods_resnet18_answers_as_it_did(tmp_path, wrapped):
    torch.manual_seed(0)
    theirs = small_resnet([2, 2, 2, 2])
    state = published(theirs.state_dict())
    content = {"plain": state, "state_dict": {"epoch": 3, "state_dict": state}, "net": {"net": state, "acc": 0.9},
               "module.": {f"module.{name}": tensor for name, tensor in state.items()}}[wrapped]
    torch.save(content, tmp_path / "best.ckpt")
    ours = build_network("resnet18_32x32", 10, SOFTMAX).eval()
    load_renamed(ours, read_weights(tmp_path / "best.ckpt"), "resnet18_32x32", "best.ckpt")
    images = torch.randn(4, 3, 32, 32)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_the_releases_resnet34_with_its_dismax_head():
    torch.manual_seed(0)
    theirs = small_resnet([3, 4, 6, 3])
    theirs.fc = DISMAX(512, 10)
    state = {re.sub(r"^fc\.", "classifier.", name): tensor for name, tensor in published(theirs.state_dict()).items()}
    ours = build_network("resnet34", 10, DISMAX).eval()
    load_renamed(ours, state, "resnet34", "model1.pth")
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def random_state(shapes):
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def norm(name, width):
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()}


def test_names_of_the_releases_densenet_and_wideresnet():
    dense = {"conv1.weight": (24, 3, 3, 3), "classifier.weights": (10, 342), "classifier.bias": (10,)}
    width = 24
    for block in (1, 2, 3):
        for layer in range(16):
            own = f"block{block}.layer.{layer}"
            dense |= norm(f"{own}.bn1", width) | norm(f"{own}.bn2", 48)
            dense |= {f"{own}.conv1.weight": (48, width, 1, 1), f"{own}.conv2.weight": (12, 48, 3, 3)}
            width += 12
        if block < 3:
            dense |= norm(f"trans{block}.bn1", width) | {f"trans{block}.conv1.weight": (width // 2, width, 1, 1)}
            width //= 2
    dense |= norm("bn1", 342)
    wide = {"conv1.weight": (16, 3, 3, 3), "conv1.bias": (16,), "classifier.weights": (10, 640),
            "classifier.bias": (10,)}
    width = 16
    for stage, planes in ((1, 160), (2, 320), (3, 640)):
        for k in range(4):
            own = f"layer{stage}.{k}"
            wide |= norm(f"{own}.bn1", width) | norm(f"{own}.bn2", planes)
            wide |= {f"{own}.conv1.weight": (planes, width, 3, 3), f"{own}.conv1.bias": (planes,),
                     f"{own}.conv2.weight": (planes, planes, 3, 3), f"{own}.conv2.bias": (planes,)}
            if k == 0:
                wide |= {f"{own}.shortcut.0.weight": (planes, width, 1, 1), f"{own}.shortcut.0.bias": (planes,)}
            width = planes
    wide |= norm("bn1", 640)
    for name, shapes, checks in (
        ("densenetbc100", dense, {"transitions.1.bn.weight": "trans2.bn1.weight", "bn.bias": "bn1.bias",
                                  "blocks.2.15.conv2.weight": "block3.layer.15.conv2.weight"}),
        ("wideresnet2810", wide, {"groups.1.0.shortcut.weight": "layer2.0.shortcut.0.weight", "stem.bias": "conv1.bias",
                                  "groups.2.3.bn2.running_var": "layer3.3.bn2.running_var"}),
    ):
        state, net = random_state(shapes), build_network(name, 10, SOFTMAX)
        load_renamed(net, state, name, "the release's file")
        for ours, theirs in checks.items():
            assert torch.equal(net.state_dict()[ours], state[theirs]), ours


def plain_lenet(state, x, n):
    """SDDE's LeNet, member n, from its published names."""
    get = lambda name: state[f"nets.{n}.{name}"]
    for block, padding in (("block1.0", 2), ("block2.0", 0)):
        x = nn.functional.conv2d(x, get(f"{block}.weight"), get(f"{block}.bias"), padding=padding).relu()
        x = nn.functional.max_pool2d(x, 2)
    x = nn.functional.conv2d(x, get("block3.0.weight"), get("block3.0.bias")).relu().flatten(1)
    x = nn.functional.linear(x, get("classifier1.weight"), get("classifier1.bias")).relu()
    return nn.functional.linear(x, get("fc.weight"), get("fc.bias"))


def sddes_ensemble(members=5, classes=7):
    torch.manual_seed(1)
    shapes = {"block1.0.weight": (6, 3, 5, 5), "block1.0.bias": (6,), "block2.0.weight": (16, 6, 5, 5),
              "block2.0.bias": (16,), "block3.0.weight": (120, 16, 5, 5), "block3.0.bias": (120,),
              "classifier1.weight": (84, 120), "classifier1.bias": (84,), "fc.weight": (classes, 84),
              "fc.bias": (classes,)}
    state = {f"nets.{n}.{name}": 0.1 * tensor for n in range(members) for name, tensor in random_state(shapes).items()}
    return state | {"discriminator.embedding.weight": torch.randn(classes, 64)}


def test_sddes_ensemble_becomes_a_run_with_a_row(tmp_path, data_dir):
    """evaluate.py --weights: its logits, a run marked as not trained here, and a row of its own in the tables."""
    state = sddes_ensemble()
    torch.save(state, tmp_path / "best.ckpt")
    words = ["evaluate.py", "--weights", tmp_path / "best.ckpt", "--dataset", "digits", "--model", "lenet", "--method",
             "dice", "--results-dir", tmp_path / "results", "--data-dir", data_dir, "--device", "cpu"]
    script(*words)
    run = tmp_path / "results/digits/lenet/dice/seed0"
    config = json.loads((run / "config.json").read_text())
    assert config["overrides"]["weights"]["used"] == "not trained here" and config["run"]["seed"] == 0
    assert config["weights_from"]["source"] == "best.ckpt"
    images = np.load(data_dir / "digits/test.npz")["images"]
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with np.load(run / "logits/digits.npz") as content:
        for n in range(5):
            expected = plain_lenet(state, x.expand(-1, 3, -1, -1), n)
            assert np.allclose(content["logits"][n], expected, atol=1e-4)
    said = script("analyze.py", "--results-dir", tmp_path / "results").stdout
    assert "weights not trained here" in said
    script(*words)  # again: nothing to do
    torch.save(sddes_ensemble(classes=7) | {"nets.0.fc.bias": torch.ones(7)}, tmp_path / "best.ckpt")
    done = script(*words, check=False)
    assert done.returncode == 1 and "seed0 holds another run: choose another --seed or --results-dir" in done.stderr


def test_our_own_and_safetensors_load_unchanged(tmp_path):
    from safetensors.torch import save_file

    for name, net in (("lenet", build_network("lenet", 7, DISMAX)),
                      ("resnet20", build_network("resnet20", 10, SOFTMAX)),
                      ("lenet", build_ensemble("lenet", 7, SOFTMAX, 2))):
        state = {key: tensor.contiguous().clone() for key, tensor in net.state_dict().items()}
        save_file(state, tmp_path / "model.safetensors")
        for tensor in net.parameters():
            nn.init.zeros_(tensor)
        load_renamed(net, read_weights(tmp_path / "model.safetensors"), name, "model.safetensors")
        assert all(torch.equal(a.nan_to_num(), state[key].nan_to_num()) for key, a in net.state_dict().items())


@pytest.mark.parametrize(("content", "message"), [
    ({"epoch": 3}, "holds no state dict"), ({}, "holds no state dict"), ([1, 2], "holds no state dict"),
    (b"not a file of weights", "cannot be read as weights: it is of another kind"),
    (b'{"run": {}}', "cannot be read as weights: it is of another kind"),
    ({"epoch": print}, "cannot be read as weights: it is of another kind, or holds more than tensors"),
])
def test_other_files_are_refused_in_words(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message):
        read_weights(path)
    with pytest.raises(UserError, match="^(?!.*weights_only)"):  # torch tells how to run code from the file
        read_weights(path)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_weights(tmp_path / "absent.pth")
    state = published(small_resnet([2, 2, 2, 2], classes=100).state_dict())
    with pytest.raises(UserError, match=r"of another shape: classifier.bias \(100,\) instead of \(10,\), classifier"):
        load_renamed(build_network("resnet18_32x32", 10, SOFTMAX), state, "resnet18_32x32", "x.pth")
    with pytest.raises(UserError, match=r"missing: layers\.0\.2\.bn1\.bias.* and \d+ more"):
        load_renamed(build_network("resnet34", 100, SOFTMAX), state, "resnet34", "x.pth")
    with pytest.raises(UserError, match="not known: .*"):
        load_renamed(build_network("lenet", 7, SOFTMAX), state, "lenet", "x.pth")
