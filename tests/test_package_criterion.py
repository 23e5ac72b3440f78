"""The criteria: targets of every kind, a batch in parts, logits that the classifier did not make; exact gradients."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from heads import HEADS, by_cdist
from torch import nn

from losses import LOSSES, DisMaxLossFirstPart, DisMaxLossSecondPart, IsoMaxLossFirstPart, LossSecondPart
from losses.distances import cosine_distance_logits, euclidean_distances


def made(name, classes=6, dtype=torch.float64, **options):
    """(head, criterion, logits of n random features)."""
    torch.manual_seed(0)
    first, second = LOSSES[name]
    head = first(8, classes).to(dtype)
    if hasattr(head, "prototypes"):
        nn.init.normal_(head.prototypes)
    return head, second(head, **options), lambda n: head(torch.randn(n, 8, dtype=dtype))


# ---- targets ----

@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("name", LOSSES)
def test_integer_targets_of_any_type(name, dtype):
    head, criterion, logits = made(name)
    z, y = logits(7), torch.arange(7) % 6
    assert criterion(z, y.to(dtype)) == criterion(z, y)
    assert criterion.preprocess(torch.randn(7, 3, 4, 4), y.to(dtype))[1].dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(criterion.split_targets(y.to(dtype)), criterion.split_targets(y)))
    assert criterion(z, y.to(dtype), debug=True)[3].shape == (7,)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_ignored_targets(name, training):
    """−100 counts for nothing, and the mean is over the others; 0, connected to the graph, where there are none."""
    head, criterion, logits = made(name)
    head.train(training)
    z, y = logits(8), torch.tensor([0, 1, -100, 2, 3, -100, 4, 5])
    known = y != -100
    assert torch.allclose(criterion(z, y), criterion(z[known], y[known]))
    loss, _, inter, intra = criterion(z, y, debug=True)
    assert intra.shape == (6,) and inter.shape == (6 * 5,)
    for z, y in ((logits(3), torch.full((3,), -100)), (logits(0), torch.zeros(0, dtype=torch.long))):
        loss = criterion(z, y)
        loss.backward()
        assert loss.item() == 0 and all(p.grad is None or not p.grad.any() for p in head.parameters())
    head.zero_grad()
    assert head.double() is head and criterion(logits(2) * torch.nan, torch.tensor([0, 1])).isnan(), "NaN stays NaN"


@pytest.mark.parametrize("batch", [2, 5, 8, 9])
def test_ignored_targets_with_fpr(batch):
    """A mixed image counts if all its four classes are known."""
    head, criterion, logits = made("dismax_fpr")
    z, y = logits(batch), torch.arange(batch) % 6
    y[0], y[-1] = -100, -100
    h = batch // 2
    log_p = (10 * z).log_softmax(1)
    plain = [-log_p[i, y[i]] for i in range(h) if y[i] != -100]
    mixed = []
    for i in range(batch - h):
        four = [int(y[h + (i - k) % (batch - h)]) for k in range(4)]
        if -100 not in four:
            q = torch.zeros(6, dtype=torch.float64)
            for c in four:
                q[c] += 0.25
            mixed.append((torch.xlogy(q, q) - q * log_p[h + i]).sum())
    expected = sum((sum(part) / len(part) for part in (plain, mixed) if part), torch.zeros(())) / 2
    assert torch.allclose(criterion(z, y), expected.double()), (len(plain), len(mixed))
    criterion(z, y).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", HEADS)
def test_soft_targets_and_label_smoothing(name, smoothing):
    """As nn.CrossEntropyLoss has them, of the scaled logits."""
    head, criterion, logits = made(name, label_smoothing=smoothing)
    reference = nn.CrossEntropyLoss(label_smoothing=smoothing)
    z, y, soft = logits(9), torch.arange(9) % 6, torch.rand(9, 6).softmax(1)
    scale = 1 if name == "softmax" else 10
    assert torch.allclose(criterion(z, y), reference(scale * z, y))
    assert torch.allclose(criterion(z, soft), reference(scale * z, soft.double()))
    y[2] = -100
    assert torch.allclose(criterion(z, y), reference(scale * z, y))
    head.eval()
    scale = 1 if name == "dismax" else scale
    assert torch.allclose(criterion(z, soft), reference(scale * z, soft.double()))
    images, shuffled = criterion.preprocess(torch.randn(9, 2), soft)
    assert sorted(shuffled[:, 0].tolist()) == sorted(soft[:, 0].tolist())
    with pytest.raises(ValueError, match="a batch with soft targets cannot be split"):
        criterion.split_targets(soft)


@pytest.mark.parametrize("call, message", [
    (lambda fpr, z: fpr(z, torch.rand(4, 6)), r"fpr.* makes soft targets itself: targets must be class numbers \(B\)"),
    (lambda fpr, z: fpr.preprocess(torch.randn(4, 3, 4, 4), torch.rand(4, 6)), "makes soft targets itself"),
    (lambda fpr, z: DisMaxLossSecondPart(fpr.model_classifier, "fpr", label_smoothing=0.1), "label_smoothing does not"),
    (lambda fpr, z: DisMaxLossSecondPart(fpr.model_classifier, label_smoothing=1.1), r"must lie in \[0, 1\]"),
    (lambda fpr, z: DisMaxLossSecondPart(fpr.model_classifier)(z, torch.rand(4)), r"or probabilities \(B, C\), got"),
    (lambda fpr, z: fpr(z, torch.rand(4, 6), debug=True), "class numbers"),
])
def test_soft_targets_are_refused_in_words(call, message):
    _, criterion, logits = made("dismax_fpr")
    with pytest.raises(ValueError, match=message):
        call(criterion, logits(4))


def test_the_mean_that_is_not_looked_at_is_the_same():
    """On a GPU, in a graph and inside torch.func the counted form serves; on a CPU the ordinary one."""
    for name in HEADS:
        _, criterion, logits = made(name)
        z, y = logits(6).detach(), torch.tensor([0, 1, 2, 3, 4, -100])
        counted = torch.func.vmap(criterion)(z[None], y[None])[0]
        assert torch.allclose(counted, criterion(z, y), rtol=1e-12)
        assert torch.func.vmap(criterion)(z[None], torch.full((1, 6), -100)).item() == 0
        soft = torch.rand(6, 6).softmax(1)
        assert torch.allclose(torch.func.vmap(criterion)(z[None], soft[None])[0], criterion(z, soft))


# ---- a batch in parts ----

@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_add_up_to_it(name, training):
    """The loss and its gradients, over random partitions."""
    options = {"alpha": 0.7} if name == "dismax_fpr" else {"label_smoothing": 0.1}
    head, criterion, logits = made(name, **options)
    head.train(training)
    for seed, batch in enumerate((1, 2, 3, 7, 16)):
        torch.manual_seed(seed)
        z, y = logits(batch).detach().requires_grad_(), torch.randint(6, (batch,))
        if seed > 2:
            y[torch.randint(batch, (1,))] = -100
        whole = criterion(z, y)
        classes, weights = criterion.split_targets(y)
        assert classes.shape == (batch, 4) and classes.dtype == torch.int64 and classes.min() >= 0
        assert weights.shape == (batch,) and weights.dtype == torch.float32
        for parts in (1, 2, 5):
            rows = torch.randperm(batch).tensor_split(parts)  # some are empty
            total = sum(criterion.partial_loss(z[r], classes[r], weights[r]) for r in rows)
            assert total.item() == pytest.approx(whole.item(), rel=1e-6, abs=1e-12)
            found, expected = (torch.autograd.grad(value, z, retain_graph=True)[0] for value in (total, whole))
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_weights_and_classes_of_the_parts():
    _, criterion, _ = made("dismax_fpr", alpha=0.5)
    classes, weights = criterion.split_targets(torch.arange(5))
    assert weights.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 12, 1 / 12, 1 / 12])
    assert classes.tolist() == [[0] * 4, [1] * 4, [2, 4, 3, 2], [3, 2, 4, 3], [4, 3, 2, 4]]
    assert criterion.mixes and not made("dismax")[1].mixes and not made("softmax")[1].mixes
    classes, weights = made("dismax")[1].split_targets(torch.arange(5))
    assert weights.tolist() == pytest.approx([1 / 5] * 5) and classes.tolist() == [[c] * 4 for c in range(5)]

    class Own(LossSecondPart):
        def loss_of(self, logits, targets):
            return logits.sum()

    head, _, logits = made("softmax")
    with pytest.raises(NotImplementedError, match="Own defines loss_of but no partial_loss"):
        Own(head).partial_loss(logits(5), classes, weights)


# ---- logits that the classifier did not make ----

@pytest.mark.parametrize("name", LOSSES)
def test_a_head_that_is_not_used_is_noticed(name):
    """`model.classifier = …` on a network whose last layer is `.fc`."""
    models = pytest.importorskip("torchvision.models")
    model = models.resnet18(num_classes=6)
    model.classifier = LOSSES[name][0](512, 6)
    criterion = LOSSES[name][1](model.classifier)
    with pytest.raises(ValueError, match=r"has seen no forward pass.*model\.fc.*attach"):
        criterion(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1]))
    model.eval()
    assert criterion(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1])).isfinite(), "only training is refused"


def test_logits_of_another_number_of_classes_and_other_objects():
    head, criterion, logits = made("dismax")
    logits(3)
    with pytest.raises(ValueError, match=r"\(3, 1000\) were not made by this criterion's classifier, which has 6"):
        criterion(torch.randn(3, 1000), torch.arange(3))
    with pytest.raises(ValueError, match=r"got dict. A Hugging Face model's logits"):
        criterion({"logits": logits(3)}, torch.arange(3))
    with pytest.raises(ValueError, match="were not made by"):
        criterion.partial_loss(torch.randn(3, 5), *criterion.split_targets(torch.arange(3)))


def test_copies_share_that_they_were_used():
    """A deep copy is trained while the criterion refers to the original; what was pickled is not known to be unused."""
    import pickle

    for copied in (copy.deepcopy, copy.copy):
        head, criterion, _ = made("dismax")
        twin = copied(head)
        assert criterion(twin(torch.randn(2, 8).double()), torch.tensor([0, 1])).isfinite()
    head, criterion, _ = made("dismax")
    criterion = pickle.loads(pickle.dumps(criterion))
    assert criterion(torch.randn(2, 6), torch.tensor([0, 1])).isfinite()


# ---- close to a prototype ----

def gradients(function, inputs, dtype=torch.float32):
    inputs = [value.detach().to(dtype).requires_grad_() for value in inputs]
    logits = function(*inputs)
    return torch.autograd.grad(logits[:, 0].sum(), inputs)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("angle", [1e-4, 1e-3, 1e-2, 0.1, 0.3])
def test_gradients_close_to_a_prototype_are_as_exact_as_the_published_ones(angle, eager):
    """The error against float64; where both are at most 1e-5 which is the smaller one is chance."""
    torch.manual_seed(0)
    prototypes, across = torch.randn(10, 512), torch.randn(64, 512)
    first = F.normalize(prototypes[:1])
    across = F.normalize(across - (across @ first.T) * first)
    features = (torch.rand(64, 1) + 1) * (math.cos(angle) * first + math.sin(angle) * across)
    inputs = features, prototypes, torch.tensor([1.7])
    ours = lambda *inputs: cosine_distance_logits(*inputs, True)
    exact = gradients(by_cdist, inputs, torch.float64)
    if eager:
        found = gradients(ours, inputs)
    else:  # as in a graph or on a GPU, where nobody looks whether any vector is close
        found = torch.func.grad(lambda *inputs: ours(*inputs)[:, 0].sum(), argnums=(0, 1, 2))(*inputs)
    for a, b, theirs in zip(found, exact, gradients(by_cdist, inputs)):
        error = lambda value, b=b: ((value - b).norm() / b.norm()).item()
        assert error(a) < max(1.5 * error(theirs), 1e-5), (error(a), error(theirs))


@pytest.mark.parametrize("distance", [1e-4, 1e-3, 1e-2, 0.1, 0.3])
def test_isomax_close_to_a_prototype(distance):
    torch.manual_seed(0)
    prototypes = 3 * torch.randn(10, 512)
    features = prototypes[:1] + distance * prototypes[:1].norm() * F.normalize(torch.randn(64, 512))
    direct = lambda f, p: torch.cdist(f, p, compute_mode="donot_use_mm_for_euclid_dist")
    exact = gradients(direct, (features, prototypes), torch.float64)
    for a, b in zip(gradients(euclidean_distances, (features, prototypes)), exact):
        assert (a - b).norm() / b.norm() < 1e-5
    head = IsoMaxLossFirstPart(512, 10)
    head.prototypes.data.copy_(prototypes)
    assert torch.allclose(-head(features).double(), direct(features.double(), prototypes.double()), rtol=1e-5)


@pytest.mark.parametrize("to_all", [False, True])
def test_second_derivatives_close_to_a_prototype(to_all):
    torch.manual_seed(0)
    prototypes = torch.randn(3, 6, dtype=torch.double, requires_grad=True)
    features = (2 * prototypes[[0, 1]].detach() + 0.03 * torch.randn(2, 6)).requires_grad_()
    inputs = features, prototypes, torch.tensor([1.3], dtype=torch.double, requires_grad=True)
    function = lambda *inputs: cosine_distance_logits(*inputs, to_all)
    assert torch.autograd.gradcheck(function, inputs) and torch.autograd.gradgradcheck(function, inputs)
    functions = lambda f, p: euclidean_distances(f, p)
    features = (prototypes[[0, 1]].detach() + 0.03 * torch.randn(2, 6)).requires_grad_()
    assert torch.autograd.gradcheck(functions, (features, prototypes))
    assert torch.autograd.gradgradcheck(functions, (features, prototypes))


@pytest.mark.parametrize("name", ["isomaxplus", "dismax"])
def test_along_a_prototype_distance_and_gradient_are_zero(name):
    """Up to rounding: a multiple of the prototype, not only the prototype itself."""
    torch.manual_seed(0)
    head = LOSSES[name][0](64, 5)
    factors = torch.tensor([[0.3], [1.0], [7.0], [1e-3], [1e4]])
    features = (factors * head.prototypes.detach()).requires_grad_()
    distances = -head(features)
    if name == "dismax":
        distances = distances - distances.mean(1, keepdim=True) / 2
    assert distances.diagonal().abs().max() < 1e-6
    nearest = cosine_distance_logits(features, head.prototypes, torch.ones(1)).diagonal()
    assert not nearest.any() and not torch.autograd.grad(nearest.sum(), features)[0].any()


def test_a_sample_does_not_depend_on_its_batch():
    """Whether another sample is close to a prototype changes nothing for this one."""
    torch.manual_seed(0)
    head = DisMaxLossFirstPart(16, 4)
    alone = torch.randn(8, 16)
    together = torch.cat([alone, 2 * head.prototypes[:1].detach() + 1e-4])
    assert torch.allclose(head(together)[:8], head(alone), atol=3e-7)
