"""Head and loss, forward and backward: one matrix product and log-softmax, against cdist, softmax and separate log."""
import torch
import torch.nn.functional as F

from benchmarks.plain import PlainDisMax, dismax_loss
from benchmarks.timing import summary, take_turns
from losses import DisMaxLossFirstPart, DisMaxLossSecondPart

SHAPES = {(64, 512, 10): 1.3, (64, 512, 100): 3, (256, 512, 1000): 10}  # (B, F, C) → target ratio
ORDINARY = "cdist, softmax, log"


def run(device, quick):
    for shape, target in SHAPES.items():
        rates = take_turns(ways(*shape, device), 7 if quick else 31, device)
        yield {"what": f"DisMax head and loss, (B, F, C) = {shape}", "unit": "steps/s", "against": ORDINARY,
               "target": target, **summary(rates, "ours", ORDINARY)}


def ways(batch, num_features, classes, device):
    """name → function that does some steps and says how many."""
    torch.manual_seed(0)
    features = torch.randn(batch, num_features, device=device, requires_grad=True)
    targets = torch.randint(0, classes, (batch,), device=device)
    head = DisMaxLossFirstPart(num_features, classes).to(device)
    criterion, published = DisMaxLossSecondPart(head), PlainDisMax(head)
    linear = torch.nn.Linear(num_features, classes, device=device)
    ways = {
        "ours": lambda: criterion(head(features), targets),
        ORDINARY: lambda: dismax_loss(published(features), targets),
        "linear, cross-entropy": lambda: F.cross_entropy(linear(features), targets),  # the floor
    }
    difference = abs(ways["ours"]().item() - ways[ORDINARY]().item())
    assert difference < 1e-4, f"the two compute different losses, by {difference}"
    steps = 20 if classes < 1000 else 5

    def repeated(loss):
        def way():
            for _ in range(steps):
                features.grad = None
                for module in (head, published, linear):
                    module.zero_grad()
                loss().backward()
            return steps
        return way

    return {name: repeated(loss) for name, loss in ways.items()}
