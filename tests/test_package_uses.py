"""The heads go where nn.Linear goes: exported, traced, compiled, transformed, in half precision, copied, saved."""
import copy
import io
import pickle
import warnings

import pytest
import torch
from heads import HEADS
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from losses import LOSSES

X, Y = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 2, 1])


def made(name):
    """A network with the head and its criterion; a feature vector lies close to a prototype."""
    torch.manual_seed(0)
    first, second = LOSSES[name]
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
    net.add_module("classifier", first(8, 3))
    with torch.no_grad():
        if hasattr(net.classifier, "prototypes"):
            net.classifier.prototypes.copy_(torch.randn(3, 8))
            net.classifier.prototypes[1] = net[:2](X)[0] + 1e-2 * torch.randn(8)
    return net, second(net.classifier)


def gradients(net, criterion, forward=None):
    net.zero_grad()
    criterion((forward or net)(X), Y).backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


def assert_same(found, expected, atol=1e-5):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=atol), name


@pytest.mark.parametrize("training, strict", [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("name", HEADS)
def test_torch_export(name, training, strict):
    """Outside no_grad, for any batch size, but PyTorch 2.6 wants a limit; and the exported program can be trained."""
    net, criterion = made(name)
    net.train(training)
    expected = gradients(net, criterion)
    batch = torch.export.Dim("batch", min=2, max=2**16)
    program = torch.export.export(net, (X,), dynamic_shapes=({0: batch},), strict=strict)
    module = program.module()
    other = torch.randn(9, 5)
    assert torch.allclose(module(other), net(other), atol=1e-5)
    net.zero_grad()
    criterion(module(X), Y).backward()
    assert_same({name: parameter.grad for name, parameter in module.named_parameters()}, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_export_of_the_whole_training_loss_and_of_detection(name):
    net, criterion = made(name)
    net.classifier.set_thresholds(net(torch.randn(100, 5)))

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.criterion = net, criterion

        def forward(self, x, y):
            logits = self.net(x)
            return self.criterion(logits, y), self.net.classifier.detect(logits, 0.2)

    loss, known = torch.export.export(Loss(), (X, Y)).module()(X, Y)
    assert torch.allclose(loss, criterion(net(X), Y), atol=1e-5)
    assert torch.equal(known, net.classifier.detect(net(X), 0.2)) and known.dtype == torch.bool
    net.classifier.temperature = 3.0  # in a graph stale thresholds cannot be refused: they turn everything away
    assert not torch.export.export(Loss(), (X, Y)).module()(X, Y)[1].any()


@pytest.mark.parametrize("name", HEADS)
def test_jit_trace_and_save(name):
    net, _ = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(net, X)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded, other = torch.jit.load(file), torch.randn(9, 5)
    assert torch.allclose(loaded(other), net(other), atol=1e-5)
    assert torch.allclose(loaded(X), net(X), atol=1e-5), "also close to a prototype"


@pytest.mark.parametrize("name", HEADS)
def test_fx_symbolic_trace(name):
    net, criterion = made(name)
    expected = gradients(net, criterion)
    graph = torch.fx.symbolic_trace(net)
    assert torch.equal(graph(X), net(X))
    assert_same(gradients(net, criterion, graph), expected)
    net.classifier.temperature = 2.0
    assert torch.equal(graph(X), net(X)), "the temperature is not a constant of the graph"
    assert torch.equal(pickle.loads(pickle.dumps(graph))(X), net(X))
    with torch.autocast("cpu", torch.bfloat16):
        assert graph(X).dtype == torch.float32
        assert torch.equal(graph(X), net(X)), "distances in float32 inside autocast, traced or not"
    half = copy.deepcopy(net).bfloat16()
    assert torch.equal(torch.fx.symbolic_trace(half)(X.bfloat16()), half(X.bfloat16()))


@pytest.mark.parametrize("name", LOSSES)
def test_make_fx(name):
    """The tracer of AOTAutograd, which records plain tensors: nothing may look at their values."""
    net, criterion = made(name)
    graph = make_fx(lambda x, y: criterion(net(x), y))(X, Y)
    for x, y in ((X, Y), (X + 1, Y.flip(0))):
        assert torch.allclose(graph(x, y), criterion(net(x), y), atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_torchvisions_feature_extractor(name):
    models = pytest.importorskip("torchvision.models")
    from torchvision.models.feature_extraction import create_feature_extractor

    net = models.resnet18(num_classes=7)
    net.fc = LOSSES[name][0](512, 7)
    net.eval()
    images = torch.randn(2, 3, 64, 64)
    found = create_feature_extractor(net, {"flatten": "features", "fc": "logits"})(images)
    assert found["features"].shape == (2, 512) and torch.allclose(found["logits"], net(images), atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_per_sample_gradients(name):
    net, criterion = made(name)
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())

    def loss(parameters, x, y):
        return criterion(functional_call(net, (parameters, buffers), (x[None],)), y[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, X, Y)
    for k in range(len(X)):
        net.zero_grad()
        criterion(net(X[k : k + 1]), Y[k : k + 1]).backward()
        assert_same({key: value[k] for key, value in found.items()}, {key: p.grad for key, p in parameters.items()})


@pytest.mark.parametrize("name", HEADS)
def test_torch_func(name):
    """vmap over samples and over members, Jacobians forward and backward, directional and second derivatives."""
    net, _ = made(name)
    head, features = net.classifier, net[:2](X).detach()
    assert torch.allclose(vmap(head)(features), head(features), atol=1e-5)
    far = features[[1, 2, 4, 5]]
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda f: head(f[None])[0], f) for f in far])
    for transform in (jacrev, jacfwd):
        assert torch.allclose(vmap(transform(head))(far), jacobian, atol=1e-4)
    tangent = torch.randn_like(far)
    expected = torch.einsum("bcf,bf->bc", jacobian, tangent)
    assert torch.allclose(jvp(head, (far,), (tangent,))[1], expected, atol=1e-4)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(head(forward_ad.make_dual(far, tangent))).tangent
    assert torch.allclose(found, expected, atol=1e-4)
    square = lambda f: head(f).square().sum()
    second = torch.stack([torch.autograd.functional.hessian(lambda f: square(f[None]), f) for f in far])
    assert torch.allclose(vmap(hessian(square))(far), second, rtol=1e-3, atol=1e-3)
    members = [made(name)[0] for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    found = vmap(lambda p, b: functional_call(net, (p, b), (X,)))(parameters, buffers)
    assert torch.allclose(found, torch.stack([member(X) for member in members]), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", HEADS)
def test_half_modules(name, dtype):
    """Weights in half precision, arithmetic and logits in float32: what the rounded weights give."""
    net, criterion = made(name)
    net.to(dtype)
    features = net[:2](X.to(dtype))
    logits = net.classifier(features)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, copy.deepcopy(net.classifier).float()(features.float()), atol=1e-6)
    criterion(logits, Y).backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() and p.grad.any() for p in net.classifier.parameters())


@pytest.mark.parametrize("name", LOSSES)
def test_torch_compile(name):
    """The network alone and network and criterion as one function; detection, too. Compiled once, not again."""
    torch._dynamo.reset()
    net, criterion = made(name)
    expected = gradients(net, criterion)
    compile = lambda function: torch.compile(function, fullgraph=True, backend="aot_eager")
    net, criterion = made(name)
    assert_same(gradients(net, criterion, compile(net)), expected)
    net, criterion = made(name)
    loss = compile(lambda x, y: criterion(net(x), y))
    loss(X, Y).backward()
    assert_same({name: p.grad for name, p in net.named_parameters()}, expected)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for _ in range(3):
        loss(X, Y)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    logits = net(torch.randn(50, 5))
    net.classifier.set_thresholds(logits)
    detect = compile(lambda logits: net.classifier.detect(logits))
    assert torch.equal(detect(logits), net.classifier.detect(logits))
    net.classifier.temperature = 2.0
    assert not detect(logits).any(), "stale thresholds turn everything away in a graph"
    torch._dynamo.reset()


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.filterwarnings("ignore")
def test_onnx(name, dynamo, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net, _ = made(name)
    axes = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(net.eval(), (X,), tmp_path / "net.onnx", input_names=["x"], output_names=["logits"],
                      dynamo=dynamo, verbose=False, **axes)
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    for x in (X, torch.randn(9, 5)):
        logits, = session.run(None, {"x": x.numpy()})
        assert torch.allclose(torch.from_numpy(logits), net(x), atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_copies_and_files(name):
    net, criterion = made(name)
    net.classifier.temperature = 1.7
    logits = net(X)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for twin, its_criterion in (copy.deepcopy((net, criterion)), pickle.loads(pickle.dumps((net, criterion))),
                                (torch.load(file, weights_only=False), criterion)):
        assert torch.equal(twin(X), logits) and torch.equal(its_criterion(logits, Y), criterion(logits, Y))


@pytest.mark.parametrize("name", HEADS)
def test_tokens_and_the_wrong_size(name):
    """(…, F) as nn.Linear takes it; no batch dimension is a mistake, except inside torch.func."""
    head = made(name)[0].classifier
    tokens = torch.randn(2, 4, 8)
    assert torch.allclose(head(tokens), torch.stack([head(t) for t in tokens]), atol=1e-6)
    assert head(tokens[:, :0]).shape == (2, 0, 3) and head(torch.randn(0, 8)).shape == (0, 3)
    for wrong in (torch.randn(2, 7), torch.randn(8), torch.tensor(1.0), torch.randn(8, 2)):
        with pytest.raises(ValueError, match=r"features must be \(B, 8\)"):
            head(wrong)


def test_checkpointing_and_ema():
    """Gradient checkpointing of either kind, and an averaged copy, whose criterion refers to the original's head."""
    for name in LOSSES:
        net, criterion = made(name)
        expected = gradients(net, criterion)
        for reentrant in (True, False):
            forward = lambda x, net=net, reentrant=reentrant: torch.utils.checkpoint.checkpoint(
                net, x.clone().requires_grad_(), use_reentrant=reentrant)
            assert_same(gradients(net, criterion, forward), expected)
        average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9),
                                                      use_buffers=True)
        for _ in range(2):
            average.update_parameters(net)
        assert torch.allclose(average(X), net(X), atol=1e-5) and criterion(average(X), Y).isfinite()
