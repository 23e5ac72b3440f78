"""Training five LeNets on grey images, batch 128: a deep ensemble's step, SDDE's step, and an epoch with its input."""
import os

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

import models
from benchmarks.timing import summary, take_turns
from data.loaders import ResidentImages
from engine.step import Objective
from losses import LOSSES
from losses.diversity import GradCAMDiversityLoss

MEMBERS, BATCH, WEIGHT = 5, 128, 0.1
HALF = (0.5,) * 3  # mean and std of every channel, SDDE's for MNIST
LOOP = "loop over members"
PUBLISHED = "double backward in each member, gradients of all images"
PICTURES = "loop over members, a DataLoader of pictures for each"


def run(device, quick):
    rounds = 11 if quick else 41
    for name, diverse, target in (("deep ensemble", False, 1.5), ("SDDE", True, 2.5)):
        rates = take_turns(ways(device, diverse), rounds, device)
        ordinary = PUBLISHED if diverse else LOOP
        yield {"what": f"{name}: training step, {MEMBERS} LeNets, B = {BATCH}", "unit": "steps/s", "against": ordinary,
               "target": target, **summary(rates, "ours", ordinary)}
    rates = take_turns(epochs(device, 256 if quick else 1024), 3 if quick else 7, device)
    yield {"what": f"deep ensemble: an epoch with its input, {MEMBERS} LeNets, B = {BATCH}", "unit": "images/s",
           "against": PICTURES, "target": 2.5, **summary(rates, "ours", PICTURES)}


class PlainLeNet(torch.nn.Module):
    """LeNet as one would write it down, with the weights of ours; logits and the maps of the second block."""

    def __init__(self, ours):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(3, 6, 5, padding=2), torch.nn.Conv2d(6, 16, 5)
        self.conv3, self.fc = torch.nn.Conv2d(16, 120, 5), torch.nn.Linear(120, 84)
        self.classifier = torch.nn.Linear(84, 10)
        self.load_state_dict(ours.state_dict())

    def forward(self, images):
        maps = F.max_pool2d(F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(images)), 2))), 2)
        return self.classifier(F.relu(self.fc(F.relu(self.conv3(maps)).flatten(1)))), maps


def both(device, diverse=False):
    """Ours, (images, labels, shown images, their labels) → loss, and plain members with the same weights."""
    torch.manual_seed(0)
    ensemble = models.build_ensemble("lenet", 10, torch.nn.Linear, MEMBERS).to(device)
    plain = torch.nn.ModuleList(PlainLeNet(member) for member in ensemble.members).to(device)
    criteria = [LOSSES["softmax"][1](member.classifier) for member in ensemble.members]
    terms = {"diversity": GradCAMDiversityLoss()} if diverse else {}
    ensemble.to(memory_format=torch.channels_last)
    return Objective(ensemble, criteria, terms, {"diversity": WEIGHT}), plain


def stepper(loss_of, parameters):
    """loss_of → a function of the same arguments that takes one step and says so. SGD as train.py's."""
    parameters = list(parameters)
    optimizer = torch.optim.SGD(parameters, 1e-3, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def step(*batch):
        loss = loss_of(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return 1
    return step


def plain_loss(members, images, labels):
    return sum(F.cross_entropy(member(x)[0], y) for member, x, y in zip(members, images, labels)) / len(members)


def published_loss(members, images, labels, shown, shown_labels):
    """Cross-entropy and the mean cosine of the standardised GradCAM maps: every forward pass on images that ask for
    gradients, a backward pass of its own for each member's maps."""
    saliency = []
    for member, x in zip(members, torch.stack([shown] * len(members)).requires_grad_()):
        logits, maps = member(x)
        gradient, = torch.autograd.grad(logits.gather(1, shown_labels[:, None]).sum(), maps, create_graph=True)
        cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1))[:, 1:-1, 1:-1].flatten(1)
        cam = (cam - cam.mean(1, keepdim=True)) / (cam.std(1, correction=0, keepdim=True) + 1e-6)
        saliency.append(cam / (cam.norm(dim=1, keepdim=True) + 1e-6))
    unit = torch.stack(saliency, 1)  # (B, N, pixels)
    pairs = ~torch.eye(len(members), dtype=torch.bool, device=unit.device)
    asking = images.clone().requires_grad_()
    return plain_loss(members, asking, labels) + WEIGHT * (unit @ unit.mT)[:, pairs].mean()


def ways(device, diverse, batch=BATCH):
    """name → function that does a step and says so, from the same weights on the same images."""
    objective, plain = both(device, diverse)
    grey = torch.randn(MEMBERS, batch, 1, 28, 28, device=device)  # a batch a member
    labels = torch.randint(0, 10, (MEMBERS, batch), device=device)
    for_ours = grey.expand(-1, -1, 3, -1, -1)  # as our loader gives them
    for_plain = for_ours.contiguous()
    ours, theirs = (for_ours, labels), (for_plain, labels)
    loss_of = plain_loss
    if diverse:
        loss_of, ours, theirs = published_loss, (*ours, for_ours[0], labels[0]), (*theirs, for_plain[0], labels[0])

    difference = abs(objective(*ours).item() - loss_of(plain, *theirs).item())
    assert difference < 1e-4, f"the two compute different losses, by {difference}"
    step = stepper(objective, objective.model.parameters())
    plain_step = stepper(lambda *batch: loss_of(plain, *batch), plain.parameters())
    return {"ours": lambda: step(*ours), PUBLISHED if diverse else LOOP: lambda: plain_step(*theirs)}


class Pictures(torch.utils.data.Dataset):
    """The ordinary way: a PIL image made RGB, then SDDE's transforms of MNIST."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.transform = v2.Compose([
            v2.Resize(28), v2.CenterCrop(28), v2.RandomHorizontalFlip(), v2.RandomCrop(28, padding=4), v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(HALF, HALF)])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index, :, :, 0]).convert("RGB")), self.labels[index]


def epochs(device, count):
    """name → function that trains every member on `count` images of its own and says how many that were."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8), rng.integers(0, 10, count)
    objective, plain = both(device)
    step = stepper(objective, objective.model.parameters())
    plain_step = stepper(lambda *batch: plain_loss(plain, *batch), plain.parameters())
    resident = ResidentImages(images, labels, device, 28, (HALF, HALF))
    numbers = iter(range(1, 1000))
    workers = max(1, min(8, os.cpu_count()) // MEMBERS)
    loaders = [torch.utils.data.DataLoader(Pictures(images, labels), BATCH, shuffle=True, num_workers=workers,
                                           persistent_workers=True) for _ in range(MEMBERS)]

    def ours():
        for batch, targets in resident.train_batches(BATCH, 1, next(numbers), 4, True, members=MEMBERS):
            step(batch, targets)
        return count * MEMBERS

    def ordinary():
        for batches in zip(*loaders):
            batch, targets = (torch.stack(parts).to(device) for parts in zip(*batches))
            plain_step(batch, targets)
        return count * MEMBERS

    return {"ours": ours, PICTURES: ordinary}
