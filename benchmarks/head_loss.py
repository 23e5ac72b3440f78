"""Head and loss, forward and backward: one matrix product and log-softmax, compared with cdist, softmax and
logarithm."""
import torch
import torch.nn.functional as F

from benchmarks.baseline import PlainDisMax, dismax_loss
from benchmarks.timing import alternate, summary
from losses import DisMaxLossFirstPart, DisMaxLossSecondPart

SHAPES = {(64, 512, 10): 1.3, (64, 512, 100): 3, (256, 512, 1000): 10}  # (B, F, C) → target ratio
BASELINE = "cdist, softmax, log"


def run(machine, device, quick):
    for shape, target in SHAPES.items():
        rates = alternate(fns(*shape, device), 7 if quick else 31, device)
        yield {"what": f"DisMax head and loss, (B, F, C) = {shape}", "unit": "steps/s", "target": {"ratio": target},
               **summary(rates, BASELINE)}


def fns(batch, num_features, classes, device):
    """name → function that does some steps and says how many."""
    torch.manual_seed(0)
    features = torch.randn(batch, num_features, device=device, requires_grad=True)
    targets = torch.randint(0, classes, (batch,), device=device)
    head = DisMaxLossFirstPart(num_features, classes).to(device)
    criterion, published = DisMaxLossSecondPart(head), PlainDisMax(head)
    linear = torch.nn.Linear(num_features, classes, device=device)
    losses = {
        "ours": lambda: criterion(head(features), targets),
        BASELINE: lambda: dismax_loss(published(features), targets),
        "linear, cross-entropy": lambda: F.cross_entropy(linear(features), targets),  # the floor
    }
    difference = abs(losses["ours"]().item() - losses[BASELINE]().item())
    assert difference < 1e-4, f"the two compute different losses, by {difference}"
    steps = 20 if classes < 1000 else 5

    def repeated(loss):
        def fn():
            for _ in range(steps):
                features.grad = None
                for module in (head, published, linear):
                    module.zero_grad()
                loss().backward()
            return steps
        return fn

    return {name: repeated(loss) for name, loss in losses.items()}
