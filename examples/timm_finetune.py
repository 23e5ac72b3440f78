"""Fine-tune a network of timm with the DisMax loss.

  python examples/timm_finetune.py                                        digits, a tiny network with random weights
  python examples/timm_finetune.py --model resnet18 --pretrained --size 224 --data DIR      your images, on a GPU

DIR holds train/<class>/<image> and val/<class>/<image>. This example needs timm: pip install timm.
"""
import argparse
import sys
from pathlib import Path

import timm
import torch
import torchvision
from sklearn.datasets import load_digits
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from losses import attach  # after `pip install .`: from dismax import attach


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test_resnet", help="a name from timm.list_models() (default: test_resnet)")
    parser.add_argument("--pretrained", action="store_true", help="download timm's pretrained weights")
    parser.add_argument("--data", type=Path, metavar="DIR", help="class folders (default: scikit-learn's digits)")
    parser.add_argument("--size", type=int, default=32, help="image size in pixels (default: 32)")
    parser.add_argument("--epochs", type=int, default=5, help="default: 5")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate of the head (default: 0.05)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cpu …")
    args = parser.parse_args()
    torch.manual_seed(0)

    model = timm.create_model(args.model, pretrained=args.pretrained)
    config = timm.data.resolve_model_data_config(model)
    train, val, class_names = data_sets(args.data, args.size, config["mean"], config["std"])
    criterion = attach(model, "dismax", num_classes=len(class_names), regularization="fpr")  # before the optimizer
    model.to(args.device)

    head = list(criterion.model_classifier.parameters())
    body = [p for p in model.parameters() if all(p is not q for q in head)]
    slower = 0.1 if args.pretrained else 1  # a pretrained body needs a lower learning rate than the new head
    optimizer = torch.optim.SGD([{"params": body, "lr": args.lr * slower}, {"params": head, "lr": args.lr}],
                                momentum=0.9, nesterov=True, weight_decay=1e-4)
    for epoch in range(1, args.epochs + 1):
        model.train()
        for images, labels in torch.utils.data.DataLoader(train, 32, shuffle=True, drop_last=True):
            images, labels = criterion.preprocess(images.to(args.device), labels.to(args.device))
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss:.3f}")

    # half of the validation images fit temperature and thresholds, the other half is evaluated
    logits, labels = predict(model, val, args.device)
    kept = torch.arange(len(labels)) % 2 == 0
    classifier = criterion.model_classifier.cpu()
    temperature = classifier.calibrate(logits[kept], labels[kept])
    logits = logits / temperature  # as the network returns them from now on
    classifier.set_thresholds(logits[kept])
    accuracy = (logits[~kept].argmax(1) == labels[~kept]).float().mean()
    rejected = (~classifier.detect(logits[~kept], reject_rate=0.05)).float().mean()
    print(f"{len(class_names)} classes: accuracy {accuracy:.1%}, temperature {temperature:.2f}, "
          f"rejected {rejected:.1%} of known images (reject rate 5 %)")


@torch.no_grad()
def predict(model, data, device):
    """Logits (n, C) and labels (n) of a data set, on the CPU."""
    model.eval()
    batches = [(model(images.to(device)).cpu(), labels) for images, labels in torch.utils.data.DataLoader(data, 64)]
    logits, labels = zip(*batches)
    return torch.cat(logits), torch.cat(labels)


def data_sets(folder, size, mean, std):
    """Training set, validation set and class names."""
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    if folder:
        crop = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), *steps])
        center = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size), *steps])
        train = torchvision.datasets.ImageFolder(folder / "train", crop)
        return train, torchvision.datasets.ImageFolder(folder / "val", center), train.classes
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 16  # (n, 3, 8, 8)
    images = v2.functional.normalize(v2.functional.resize(images, [size, size], antialias=True), mean, std)
    labels, test = torch.tensor(digits.target), torch.arange(len(digits.target)) % 4 == 0
    sets = (torch.utils.data.TensorDataset(images[which], labels[which]) for which in (~test, test))
    return *sets, [str(name) for name in digits.target_names]


if __name__ == "__main__":
    main()
