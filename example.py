"""DisMax in a plain PyTorch loop, with only `losses` from this repository: copy this page into your own project.

  python example.py        a few seconds

A small network learns the digits 0–6 of scikit-learn and should reject images of 7–9. The numbered comments mark the
lines that DisMax needs. SoftMax, IsoMax and IsoMax+ are used in the same way.
"""
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

from losses import DisMaxLossFirstPart, DisMaxLossSecondPart  # after `pip install .`: from dismax import …

REJECT_RATE = 0.05  # share of 0–6 to reject


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
    labels, turn = torch.tensor(digits.target), torch.arange(len(digits.target)) % 4
    known = labels < 7
    test, held_out, train = known & (turn == 0), known & (turn == 1), known & (turn > 1)

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
    classifier = model.classifier
    with torch.no_grad():
        temperature = classifier.calibrate(model(images[held_out]), labels[held_out])  # 4: on held-out images
        classifier.set_thresholds(model(images[held_out]))  # 5: on new logits, divided by the temperature
        inside, outside = model(images[test]), model(images[~known])
    accuracy = (inside.argmax(1) == labels[test]).float().mean()
    confidence = classifier.probabilities(inside).amax(1).mean()
    scores = [classifier.scores(logits).numpy() for logits in (inside, outside)]  # larger = more like 0–6
    auroc = roc_auc_score(np.repeat([1, 0], [len(s) for s in scores]), np.concatenate(scores))
    rejected, rejected_ood = (~classifier.detect(logits, REJECT_RATE) for logits in (inside, outside))  # 6
    print(f"new images of 0–6: accuracy {accuracy:.1%}, mean confidence {confidence:.1%}, "
          f"temperature {temperature:.2f}")
    print(f"7–9 against 0–6: AUROC {auroc:.1%}")
    print(f"reject rate {REJECT_RATE:.0%}: rejected {rejected.float().mean():.1%} of 0–6 and "
          f"{rejected_ood.float().mean():.1%} of 7–9")


if __name__ == "__main__":
    main()
