"""Architectures: exact parameter counts, shapes of features and maps, and that every loss trains every network."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.build import build_ensemble, build_network
from losses import LOSSES
from models.fuse_conv_bn import fuse_conv_bn
from models.network import relu
from recipes import NETWORKS
from utils.io import UserError

# all parameters of the body, and with each head (dismax.md section 2, sdde.md section 2.1)
COUNTS = [
    ("densenetbc100", 10, 765_732, 769_162, 769_152, 769_153),
    ("densenetbc100", 100, 765_732, 800_032, 799_932, 799_933),
    ("resnet34", 10, 21_276_992, 21_282_122, 21_282_112, 21_282_113),
    ("resnet34", 100, 21_276_992, 21_328_292, 21_328_192, 21_328_193),
    ("wideresnet2810", 10, 36_482_880, 36_489_290, 36_489_280, 36_489_281),
    ("wideresnet2810", 100, 36_482_880, 36_546_980, 36_546_880, 36_546_881),
    ("resnet18", 1000, 11_176_512, 11_689_512, 11_688_512, 11_688_513),
    ("resnet20", 10, 269_072, 269_722, 269_712, 269_713),
    ("lenet", 10, 61_156, 62_006, 61_996, 61_997),
    ("resnet18_32x32", 10, 11_168_832, 11_173_962, 11_173_952, 11_173_953),
    ("resnet50", 1000, 23_508_032, 25_557_032, 25_556_032, 25_556_033),  # torchvision's 25,557,032
]
SIZES = {"lenet": 28, "resnet18": 64, "resnet50": 64}  # the others 32; ImageNet's take any size, 224 would only be slow


def count(parameters):
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize("name, classes, body, softmax, isomax, isomaxplus", COUNTS)
def test_parameter_counts(name, classes, body, softmax, isomax, isomaxplus):
    with torch.device("meta"):
        nets = {loss: build_network(name, classes, first) for loss, (first, _) in LOSSES.items()}
    assert count(p for n, p in nets["softmax"].named_parameters() if not n.startswith("classifier")) == body
    heads = [count(nets[loss].parameters()) for loss in ("softmax", "isomax", "isomaxplus")]
    assert heads == [softmax, isomax, isomaxplus]
    assert count(nets["dismax"].parameters()) == isomaxplus, "the rest are buffers"
    assert count(nets["dismax"].parameters()) + count(nets["dismax"].classifier.buffers()) == isomaxplus + 56


@pytest.mark.parametrize(
    "name, features, maps",
    [
        ("resnet20", 64, [(16, 32), (32, 16), (64, 8)]),
        ("densenetbc100", 342, [(216, 32), (300, 16), (342, 8)]),
        ("resnet34", 512, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        ("wideresnet2810", 640, [(160, 32), (320, 16), (640, 8)]),
        ("resnet18", 512, [(64, 16), (128, 8), (256, 4), (512, 2)]),
        ("resnet50", 2048, [(256, 16), (512, 8), (1024, 4), (2048, 2)]),
        ("resnet18_32x32", 512, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        ("lenet", 84, [(16, 5), (120, 1)]),
    ],
)
def test_features_and_maps_on_request(name, features, maps):
    net = build_network(name, 10, nn.Linear).eval()
    size = SIZES.get(name, 32)
    images = torch.randn(2, 3, size, size)
    logits, embedded, stages = net(images, return_features=True)
    assert embedded.shape == (2, features)
    assert [tuple(m.shape) for m in stages] == [(2, c, s, s) for c, s in maps]
    assert torch.equal(net(images), logits) and torch.equal(net.classifier(embedded), logits)
    gradients = torch.autograd.grad(logits.sum(), stages)
    assert all(g.isfinite().all() and g.any() for g in gradients), "the maps are nodes of the logits' graph"


@pytest.mark.parametrize("name", NETWORKS)
def test_two_training_steps_with_every_loss(name):
    size = 28 if name == "lenet" else 16
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 0])
    for first, second in LOSSES.values():
        net = build_network(name, 3, first)
        criterion = second(net.classifier)
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        for _ in range(2):
            inputs, targets = criterion.preprocess(images, labels)
            loss = criterion(net(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
            optimizer.step()
        moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
        head = {name for name in before if name.startswith("classifier.")}
        # IsoMax's equal prototypes move the body from the second step on, a zeroed BN its branch one step later still
        assert head <= moved and len(moved - head) > 0.3 * len(before)


def plain_lenet(net, images):
    """Logits and the second block's maps, as one would write them down."""
    first = F.max_pool2d(F.relu(net.conv1(images)), 2)
    second = F.max_pool2d(F.relu(net.conv2(first)), 2)
    third = F.relu(net.conv3(second)).flatten(1)
    return net.classifier(F.relu(net.fc(third))), second


def saliency_gradients(net, logits, maps):
    """Gradients of cross-entropy and of something that needs second derivatives, as SDDE's loss does."""
    gradient, = torch.autograd.grad(logits[:, 1].sum(), maps, create_graph=True)
    cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1))
    loss = F.cross_entropy(logits, torch.arange(len(logits)) % 3) + cam.square().sum()
    return torch.autograd.grad(loss, list(net.parameters()))


@pytest.mark.parametrize("kind", ["colour", "grey", "expanded grey", "no images"])
def test_lenets_quick_forward_is_the_plain_one(kind):
    """Logits, maps, and first and second derivatives, in float64, where no rounding makes another pixel the largest."""
    torch.manual_seed(0)
    net = build_network("lenet", 3, nn.Linear).double()
    images = torch.randn(0 if kind == "no images" else 5, 3 if kind == "colour" else 1, 28, 28, dtype=torch.double)
    images = images.expand(-1, 3, -1, -1)
    images = images if kind == "expanded grey" else images.contiguous()
    logits, _, (maps, _) = net(images, return_features=True)
    plain_logits, plain_maps = plain_lenet(net, images)
    assert torch.allclose(logits, plain_logits, rtol=0, atol=1e-13)
    assert torch.allclose(maps, plain_maps, rtol=0, atol=1e-13)
    if len(images):
        ours, plain = saliency_gradients(net, logits, maps), saliency_gradients(net, plain_logits, plain_maps)
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(ours, plain))


def test_lenet_in_float32_and_in_every_memory_format():
    torch.manual_seed(0)
    net = build_network("lenet", 10, nn.Linear)
    images = torch.randn(8, 3, 28, 28)
    expected = plain_lenet(net, images)[0]
    assert torch.allclose(net(images), expected, atol=1e-5)
    net.to(memory_format=torch.channels_last)
    assert torch.allclose(net(images.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5)
    assert list(net.state_dict()) == [f"{layer}.{kind}" for layer in ("classifier", "conv1", "conv2", "conv3", "fc")
                                      for kind in ("weight", "bias")], "no tables in the weights"


def test_lenet_gives_every_channel_of_grey_images_its_own_gradient():
    torch.manual_seed(0)
    net = build_network("lenet", 10, nn.Linear).double()
    images = torch.randn(4, 1, 28, 28, dtype=torch.double).repeat(1, 3, 1, 1).requires_grad_()
    ours, = torch.autograd.grad(net(images).square().sum(), images)
    plain, = torch.autograd.grad(plain_lenet(net, images)[0].square().sum(), images)
    assert torch.allclose(ours, plain, atol=1e-12) and not torch.allclose(ours[:, 0], ours[:, 1])


def test_published_habits():
    """What the published numbers depend on and nobody would expect."""
    wide = build_network("wideresnet2810", 10, nn.Linear)
    assert wide.bn.momentum == 0.9
    assert all(m.momentum == 0.1 for m in wide.modules() if isinstance(m, nn.BatchNorm2d) and m is not wide.bn)
    assert all(m.bias is not None for m in wide.modules() if isinstance(m, nn.Conv2d))
    assert (wide.groups[1][0].conv1.stride, wide.groups[1][0].conv2.stride) == ((1, 1), (2, 2))
    residual = build_network("resnet34", 10, nn.Linear)
    blocks = [block for layer in residual.layers for block in layer]
    assert len(blocks) == 16 and all(not block.bn2.weight.any() and block.bn1.weight.all() for block in blocks)
    assert all(m.bias is None for m in residual.modules() if isinstance(m, nn.Conv2d))
    dense = build_network("densenetbc100", 10, nn.Linear)
    assert all(m.bias is None for m in dense.modules() if isinstance(m, nn.Conv2d))


def test_resnet18_is_torchvisions():
    """Same function under the same keys; the last BN of every branch starts at zero, as timm's does."""
    import torchvision

    ours = build_network("resnet18", 1000, nn.Linear).eval()
    theirs = torchvision.models.resnet18().eval()
    state = theirs.state_dict()
    missing, unexpected = ours.body.load_state_dict(state, strict=False)
    assert not missing and sorted(unexpected) == ["fc.bias", "fc.weight"]
    ours.classifier.load_state_dict({"weight": state["fc.weight"], "bias": state["fc.bias"]})
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)
    assert not build_network("resnet18", 10, nn.Linear).body.layer1[0].bn2.weight.any()


def test_an_ensemble_is_its_members():
    """One state dict, own or common batches, the maps that SDDE takes; members drawn one after another."""
    torch.manual_seed(3)
    ensemble = build_ensemble("lenet", 10, nn.Linear, 3).eval()
    torch.manual_seed(3)
    alone = [build_network("lenet", 10, nn.Linear).eval() for _ in range(3)]
    images = torch.randn(3, 4, 3, 28, 28)
    assert torch.equal(ensemble(images), torch.stack([net(x) for net, x in zip(alone, images)]))
    logits, features, maps = ensemble(images[0], return_features=True)
    assert torch.equal(logits, torch.stack([net(images[0]) for net in alone])) and logits.shape == (3, 4, 10)
    assert [f.shape for f in features] == [(4, 84)] * 3 and [m.shape for m in maps] == [(4, 16, 5, 5)] * 3
    assert all(g.any() for g in torch.autograd.grad(logits.sum(), maps)), "the maps are nodes of the logits' graph"
    assert set(ensemble.state_dict()) == {f"members.{k}.{name}" for k in range(3) for name in alone[0].state_dict()}
    with pytest.raises(ValueError, match="batches of images for 2 members, there are 3"):
        ensemble(images[:2])


def test_kaiming_fan_out_initialisation():
    torch.manual_seed(0)
    for name in ("densenetbc100", "resnet34", "wideresnet2810"):
        net = build_network(name, 10, nn.Linear)
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
                expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_bad_input_is_named():
    with pytest.raises(UserError, match="unknown network 'resnet35': choose from densenetbc100, resnet34"):
        build_network("resnet35", 10, nn.Linear)
    with pytest.raises(ValueError, match=r"LeNet takes images \(B, 3, 28, 28\), got \(1, 3, 32, 32\)"):
        build_network("lenet", 10, nn.Linear)(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_networks_answer_the_same(name):
    """With statistics, gains and shifts as after training: logits within 1e-4 of the largest, those of an ensemble too;
    and what can be folded is."""
    torch.manual_seed(0)
    net = build_ensemble(name, 10, LOSSES["dismax"][0], 2) if name == "lenet" else build_network(
        name, 10, LOSSES["dismax"][0])
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -0.5, 0.5), (norm.running_mean, -1, 1),
                                  (norm.running_var, 0.5, 2)):
            nn.init.uniform_(tensor, low, high)
    before = copy.deepcopy(net)
    fast = fuse_conv_bn(net)
    images = torch.randn(4, 3, SIZES.get(name, 32), SIZES.get(name, 32))
    with torch.inference_mode():
        plain, quick = net.eval()(images), fast.to(memory_format=torch.channels_last)(images)
    assert (plain - quick).abs().max() < 1e-4 * plain.abs().max()
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), net.parameters())), "the network is left alone"
    left = sum(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert left == {"densenetbc100": 48 + 2 + 1, "wideresnet2810": 12 + 1}.get(name, 0)


def test_relu_overwrites_only_what_needs_no_gradient():
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    assert relu(x) is not x and x.tolist() == [-1, 2]
    with torch.no_grad():
        assert relu(x) is x and x.tolist() == [0, 2]


def test_a_lenet_that_answers_before_it_is_trained_can_be_trained():
    """A training that is resumed at the end of an epoch evaluates first, in inference mode."""
    from models import fast_lenet

    fast_lenet.kernel_taps.cache_clear()
    network = build_network("lenet", 7, torch.nn.Linear)
    with torch.inference_mode():
        network(torch.zeros(2, 3, 28, 28))
    network(torch.zeros(2, 3, 28, 28)).sum().backward()
    assert network.conv1.weight.grad is not None


def test_a_lenet_takes_its_fast_form_on_a_cpu(monkeypatch):
    from models import fast_lenet

    original, batches = fast_lenet.stages, []
    monkeypatch.setattr(fast_lenet, "stages", lambda network, images: batches.append(len(images)) or original(
        network, images))
    build_network("lenet", 7, torch.nn.Linear)(torch.zeros(3, 3, 28, 28))
    assert batches == [3]
