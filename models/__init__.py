"""The networks of both papers, by name. A network is given its head; it knows no loss."""
from .densenet import DenseNetBC100
from .ensemble import Ensemble
from .lenet import LeNet
from .resnet import ResNet18, ResNet18Small, ResNet34, ResNet50
from .resnet20 import ResNet20
from .wideresnet import WideResNet2810

MODELS = {
    "densenetbc100": DenseNetBC100,  # 32×32
    "resnet34": ResNet34,  # 32×32
    "wideresnet2810": WideResNet2810,  # 32×32
    "resnet20": ResNet20,  # 32×32
    "resnet18_32x32": ResNet18Small,  # 32×32
    "resnet18": ResNet18,  # ImageNet, 224×224
    "resnet50": ResNet50,  # ImageNet, 224×224
    "lenet": LeNet,  # 28×28
}


def build(name, num_classes, head):
    """A freshly initialised network whose `.classifier` is head(num_features, num_classes).

    `head` is a first-part class of `losses`, or anything called the same way, `torch.nn.Linear` for one.
    ValueError on an unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(MODELS)}")
    return MODELS[name](num_classes, head)


def build_ensemble(name, num_classes, head, members):
    """An Ensemble of so many networks, initialised one after another from one random stream. ValueError as `build`."""
    return Ensemble([build(name, num_classes, head) for _ in range(members)])
