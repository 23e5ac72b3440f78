"""Claims about the networks and the examples."""
import importlib.util
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from models import fast_lenet, lenet
from models.ensemble import Ensemble
from models.fuse_conv_bn import conv_bn_pairs, fuse_conv_bn
from models.lenet import LeNet
from models.network import BaseNetwork, relu
from models.resnet20 import SmallBlock


def example(monkeypatch, name):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- networks ----

class Small(BaseNetwork):
    """Two convolutions in a sequence, and a norm that follows none."""

    conv_bn_pairs = (("conv", "norm"),)

    def __init__(self, num_classes=3, head=nn.Linear):
        super().__init__(4, num_classes, head)
        self.stem = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
        self.conv, self.norm = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean), nn.init.uniform_(module.running_var)
                nn.init.uniform_(module.weight), nn.init.uniform_(module.bias)

    def stages(self, images):
        first = self.stem(images)
        return [first, self.norm(self.conv(first))]


def kinds_of(module):
    return [type(part).__name__ for part in module.modules() if not list(part.children())]


def test_norms_become_part_of_the_convolution_before_them():
    torch.manual_seed(0)
    network, images = Small().train(), torch.randn(5, 3, 4, 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fused = fuse_conv_bn(network)
    assert kinds_of(fused) == ["Linear", "BatchNorm2d", "Conv2d", "Identity", "BatchNorm2d", "Conv2d", "Identity"]
    assert network.training and not fused.training and kinds_of(network).count("BatchNorm2d") == 4
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.allclose(fused(images), network.eval()(images), atol=1e-5)
    assert conv_bn_pairs(network.stem) == [("1", "2")] and conv_bn_pairs(nn.Linear(1, 1)) == ()
    assert kinds_of(fuse_conv_bn(Ensemble([Small(), Small()]))).count("Identity") == 4


def test_a_network_gives_features_and_maps_when_asked():
    network, images = Small(), torch.randn(2, 3, 4, 5)
    logits, features, maps = network.eval()(images, return_features=True)
    assert torch.equal(network(images), logits) and [m.shape for m in maps] == [(2, 4, 4, 5)] * 2
    assert torch.allclose(features, maps[1].mean((2, 3))) and torch.equal(network.classifier(features), logits)
    assert network.image_size is None and LeNet.image_size == 28


def test_members_get_the_batch_for_all_or_one_each():
    torch.manual_seed(0)
    model = Ensemble([Small(), Small(), Small()]).eval()
    images = torch.randn(3, 2, 3, 4, 4)
    own, shared = model(images), model(images[0])
    assert own.shape == shared.shape == (3, 2, 3)
    assert all(torch.equal(own[k], model.members[k](images[k])) for k in range(3))
    assert all(torch.equal(shared[k], model.members[k](images[0])) for k in range(3))
    logits, features, maps = model(images[0], return_features=True)
    assert torch.equal(logits, shared) and [f.shape for f in features] == [(2, 4)] * 3 and len(maps) == 3
    assert torch.allclose(maps[1], model.members[1].stem(images[0])), "of the last stage but one"
    with pytest.raises(ValueError, match="batches of images for 2 members, there are 3"):
        model(images[:2])


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 28, 27), (2, 3, 32, 32), (2, 3, 27, 28)])
def test_a_lenet_takes_images_of_28_pixels(shape):
    network = LeNet(7, nn.Linear)
    with pytest.raises(ValueError, match=r"LeNet takes images \(B, 3, 28, 28\), got \(2, \d, \d\d, \d\d\)"):
        network(torch.zeros(shape))
    assert network(torch.zeros(2, 3, 28, 28)).shape == (2, 7)


def test_a_lenet_is_plain_for_an_export_and_fast_on_a_cpu(monkeypatch):
    network, images, calls = LeNet(7, nn.Linear), torch.randn(2, 3, 28, 28), []
    fast = fast_lenet.stages
    monkeypatch.setattr(fast_lenet, "stages", lambda *words: calls.append(1) or fast(*words))
    quick = network(images, return_features=True)
    monkeypatch.setattr(lenet, "is_exporting", lambda: True)
    plain = network(images, return_features=True)
    assert calls == [1] and torch.allclose(quick[0], plain[0], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(quick[2], plain[2]))


def test_gray_is_what_has_three_equal_channels():
    gray = torch.randn(2, 1, 4, 4)
    assert fast_lenet.is_grayscale(gray.expand(-1, 3, -1, -1)) and fast_lenet.is_grayscale(gray.repeat(1, 3, 1, 1))
    for channel in range(3):
        other = gray.repeat(1, 3, 1, 1)
        other[1, channel, 2, 3] += 1
        assert not fast_lenet.is_grayscale(other)
    assert not fast_lenet.is_grayscale(gray.expand(-1, 3, -1, -1).clone().requires_grad_())
    cells = fast_lenet.to_cells(torch.arange(32).view(1, 2, 4, 4), 2)
    assert cells.shape == (1, 8, 2, 2) and cells[0, :, 0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


def test_a_small_blocks_shortcut_takes_every_other_pixel():
    block = SmallBlock(2, 5, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 2, 4, 4)
    found = block(x)
    assert torch.equal(found[:, :2], x[:, :, ::2, ::2]) and found.shape == (1, 5, 2, 2) and found[:, 2:].eq(0).all()
    same = SmallBlock(2, 2, 1).eval()
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(x - 0.5), relu((x - 0.5).clone()))


# ---- examples ----

def test_sddes_example_has_digits_networks_and_maps(monkeypatch):
    module = example(monkeypatch, "sdde")
    images, labels, test, test_labels, unknown = module.digits()
    assert len(images) + len(test) + len(unknown) == 1797 and images.shape[1:] == test.shape[1:] == (1, 8, 8)
    assert set(labels.tolist()) == set(test_labels.tolist()) == set(range(7)) and 0.3 < len(test) / 1255 < 0.37
    assert images.min() == -1 and images.max() == 1 and len(unknown) == 1797 - len(images) - len(test)
    given = []

    class Recorder:
        def __call__(self, labels, logits, feature_maps):
            given.append((labels, logits, feature_maps, [member.training for member in members]))
            return logits.sum() * 0 + 1
    plain_list = nn.ModuleList
    members = []
    monkeypatch.setattr(module, "GradCAMDiversityLoss", Recorder)
    monkeypatch.setattr(module.nn, "ModuleList", lambda parts: members.extend(parts) or plain_list(members))
    trained = module.train(0.5, images[:64], labels[:64], 1)
    assert len(trained) == 5 and not trained.training and len(given) == 1
    targets, logits, maps, training = given[0]
    assert logits.shape == (5, 64, 7) and len(maps) == 5 and maps[0].shape == (64, 32, 8, 8) and training == [False] * 5
    assert sorted(targets.tolist()) == sorted(labels[:64].tolist())
    again = module.outputs(trained, images[:4])
    assert torch.equal(again[0][2], trained[2](images[:4])[0]) and torch.equal(again[1][2], trained[2](images[:4])[1])
    given.clear(), members.clear()
    module.train(0, images[:64], labels[:64], 2)
    assert not given
    cams, predicted = module.saliency(trained, images[:4])
    assert cams.shape == (5, 4, 8, 8) and (cams >= 0).all() and not cams.requires_grad
    assert torch.equal(predicted, again[0].mean(0).argmax(1))
    value, maps = trained[1](images[2:3])
    gradient, = torch.autograd.grad(value[0, predicted[2]], maps)
    expected = sum(gradient[0, c].mean() * maps[0, c] for c in range(32)).relu()
    assert torch.allclose(cams[1, 2], expected, atol=1e-6)


def test_sddes_correlation_is_a_mean_over_images_and_pairs(monkeypatch):
    module = example(monkeypatch, "sdde")
    a = torch.rand(1, 2, 4, 4)
    assert module.correlation(torch.cat([a, 2 * a + 1])) == pytest.approx(1, abs=1e-5)
    assert module.correlation(torch.cat([a, 2 * a, -a])) == pytest.approx(-1 / 3, abs=1e-5)
    constant = torch.cat([a, torch.ones(1, 2, 4, 4)])
    assert module.correlation(constant) == pytest.approx(0, abs=1e-5)


def test_the_timm_example_splits_and_normalises_digits(monkeypatch):
    pytest.importorskip("timm", reason="pip install timm")
    module = example(monkeypatch, "timm_finetune")
    train, val, names = module.data_sets(None, 16, (0.5, 0.4, 0.3), (0.5, 0.25, 0.1))
    assert (len(train), len(val)) == (1347, 450) and names == list("0123456789")
    image, label = train[0]
    assert image.shape == (3, 16, 16) and label == 1 and val[0][1] == 0
    gray = [image[c] * s + m for c, (m, s) in enumerate(((0.5, 0.5), (0.4, 0.25), (0.3, 0.1)))]
    assert torch.allclose(gray[0], gray[1], atol=1e-6) and torch.allclose(gray[0], gray[2], atol=1e-6)
    assert gray[0].min() >= -0.01 and 0.8 < gray[0].max() <= 1.01
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 10), nn.Dropout(0.5)).train()
    logits, labels = module.predict(model, torch.utils.data.Subset(val, range(70)), "cpu")
    assert logits.shape == (70, 10) and not logits.requires_grad and not model.training
    assert labels.tolist() == [val[k][1].item() for k in range(70)]
    assert torch.allclose(logits[69], model(val[69][0][None])[0], atol=1e-5)
