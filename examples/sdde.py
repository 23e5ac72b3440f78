"""SDDE: five small networks that look at different parts of an image, and the same five without SDDE's loss.

  python examples/sdde.py        half a minute on two cores

The networks learn the digits 0–6 of scikit-learn; images of 7–9 are out-of-distribution. The numbered comments mark the
lines that SDDE needs. GradCAMDiversityLoss is the paper's loss; the package's other losses have the same arguments.
"""
import argparse
import sys
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from losses.diversity import GradCAMDiversityLoss  # after `pip install .`: from sdde import GradCAMDiversityLoss

MEMBERS, CLASSES, WEIGHT = 5, 7, 0.1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.rest = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES))

    def forward(self, images):
        """(B, 1, 8, 8) → logits (B, C) and the maps (B, 32, 8, 8) that they were computed from."""
        maps = self.body(images)
        return self.rest(maps), maps  # 1: the same tensor, neither detached nor copied


def outputs(members, images):
    """Logits (N, B, C) and a list of N maps (B, 32, 8, 8)."""
    logits, maps = zip(*[member(images) for member in members])
    return torch.stack(logits), list(maps)


def train(weight, images, labels, epochs, seed=0):
    """A list of trained networks; `weight` 0 gives a plain deep ensemble."""
    torch.manual_seed(seed)
    members, diversity = nn.ModuleList(Net() for _ in range(MEMBERS)), GradCAMDiversityLoss()
    optimizer = torch.optim.SGD(members.parameters(), 0.25, momentum=0.9, nesterov=True, weight_decay=2e-5)
    data = torch.utils.data.TensorDataset(images, labels)
    for _ in range(epochs):
        for inputs, targets in torch.utils.data.DataLoader(data, 64, shuffle=True):
            members.train()
            logits, _ = outputs(members, inputs)
            loss = torch.stack([F.cross_entropy(z, targets) for z in logits]).mean()
            if weight:
                members.eval()  # 2: BatchNorm must not mix samples between the maps and the logits
                logits, maps = outputs(members, inputs)
                loss = loss + weight * diversity(labels=targets, logits=logits, feature_maps=maps)  # 3
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return members.eval()


def saliency(members, images):
    """GradCAM maps (N, B, 8, 8) ≥ 0 of the class that the ensemble predicts, and that class (B)."""
    logits, maps = outputs(members, images)
    labels = logits.mean(0).argmax(1)
    chosen = logits.gather(2, labels.expand(len(members), -1)[..., None]).sum()
    gradients = torch.autograd.grad(chosen, maps)
    cams = [(g.mean((2, 3), keepdim=True) * m).sum(1).relu() for g, m in zip(gradients, maps)]  # each (B, 8, 8)
    return torch.stack(cams).detach(), labels


def correlation(cams):
    """Mean correlation of two members' maps (N, B, H, W) over images and pairs; constant maps count as 0."""
    flat = cams.flatten(2)  # (N, B, H·W)
    flat = F.normalize(flat - flat.mean(2, keepdim=True), dim=2)
    pairs = [(flat[i] * flat[j]).sum(1) for i, j in combinations(range(len(flat)), 2)]
    return torch.stack(pairs).mean().item()


def digits():
    """Training images and labels of 0–6, test images and labels of 0–6, images of 7–9."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1  # (n, 1, 8, 8)
    labels, known = torch.tensor(bunch.target), torch.tensor(bunch.target) < CLASSES
    test = known & (torch.arange(len(labels)) % 3 == 0)
    return images[known & ~test], labels[known & ~test], images[test], labels[test], images[~known]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15, help="default: 15")
    args = parser.parse_args()
    train_images, train_labels, test_images, test_labels, unknown = digits()
    for title, weight in (("deep ensemble", 0), ("SDDE", WEIGHT)):
        members = train(weight, train_images, train_labels, args.epochs)
        with torch.no_grad():
            inside, outside = (outputs(members, images)[0].mean(0) for images in (test_images, unknown))  # (B, C)
        accuracy = (inside.argmax(1) == test_labels).float().mean()
        score = torch.cat([inside, outside]).amax(1)  # the paper's: the largest mean logit
        auroc = roc_auc_score([1] * len(inside) + [0] * len(outside), score)
        cams, _ = saliency(members, test_images)
        print(f"{title}: accuracy {accuracy:.1%} on 0–6, AUROC {auroc:.1%} of 7–9 against 0–6, "
              f"correlation of saliency maps {correlation(cams):+.2f}")


if __name__ == "__main__":
    main()
