"""The loss in a plain PyTorch loop, with nothing of ours but `losses`: copy this page into your own project.

  python example.py        a few seconds

A small network learns the handwritten digits 0–6 that scikit-learn ships, and is then shown 7–9. The four lines that
make it DisMax are marked; SoftMax, IsoMax and IsoMax+ are used in the same way.
"""
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

from losses import DisMaxLossFirstPart, DisMaxLossSecondPart  # after `pip install .`: from dismax import …


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten())
        self.classifier = DisMaxLossFirstPart(64 * 4 * 4, num_classes)  # 1: instead of nn.Linear

    def forward(self, images):
        return self.classifier(self.body(images))


def main():
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # (n, 1, 8, 8)
    labels = torch.tensor(digits.target)
    known = labels < 7
    test = known & (torch.arange(len(labels)) % 3 == 0)
    train = known & ~test

    model = Net(num_classes=7)
    criterion = DisMaxLossSecondPart(model.classifier)  # 2: instead of nn.CrossEntropyLoss; regularization="fpr" for †
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    data = torch.utils.data.TensorDataset(images[train], labels[train])
    for _ in range(10):
        model.train()
        for inputs, targets in torch.utils.data.DataLoader(data, 64, shuffle=True):
            inputs, targets = criterion.preprocess(inputs, targets)  # 3: shuffles; with FPR it mixes half of the batch
            loss = criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    model.eval()
    with torch.no_grad():
        inside, outside = model(images[test]), model(images[~known])
    accuracy = (inside.argmax(1) == labels[test]).float().mean()
    scores = [model.classifier.scores(outputs).numpy() for outputs in (inside, outside)]  # 4: larger = more like 0–6
    auroc = roc_auc_score(np.repeat([1, 0], [len(s) for s in scores]), np.concatenate(scores))
    print(f"accuracy on 0–6: {100 * accuracy:.1f} %   AUROC against 7–9: {100 * auroc:.1f} %")


if __name__ == "__main__":
    main()
