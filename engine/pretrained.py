"""torchvision's ImageNet networks: ResNet18 as a run, so that nobody needs a week of GPU time for the SoftMax row, and
ResNet50 as what SDDE's members start from."""
import torch

from data.datasets import CATALOG
from engine import checkpoint
from engine.build import members_of, model_of
from recipes import METHODS, recipe_of
from utils import run_dir
from utils.io import UserError

WEIGHTS = {"resnet18": "ResNet18_Weights.IMAGENET1K_V1", "resnet50": "ResNet50_Weights.IMAGENET1K_V1"}
NAME = "resnet18"  # DisMax's


def adopt(results_dir, file="", write=True):
    """The folder of the run, made if it is not there. `file`: the weights' file; "": torchvision downloads them.

    Its recipe is near the paper's (90 epochs, batch 256, steps of 30) but not the paper's: config.json says so, and no
    table puts it into a paper's row. UserError when the weights cannot be had or are another network's.
    """
    run = run_dir.folder(results_dir, "imagenet1k", "resnet18", "softmax-torchvision", 1)
    if run_dir.finished(run) or not write:
        return run
    config = {
        "run": {"dataset": "imagenet1k", "model": "resnet18", "method": "softmax-torchvision", "seed": 1},
        "method": vars(METHODS["softmax"]),
        "recipe": recipe_of("imagenet1k", "softmax").as_dict(),
        "overrides": {"weights": {"published": "trained by the recipe", "used": f"torchvision's {WEIGHTS[NAME]}"}},
    }
    epochs = config["recipe"]["epochs"]
    model = model_of(config)
    try:
        model.load_state_dict(in_our_keys(read(file)))
    except (RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"these are not weights of torchvision's ResNet18 for {CATALOG['imagenet1k'].classes} classes: "
                        f"{str(error).splitlines()[0]}") from error
    unknown = dict.fromkeys(("best_accuracy", "last_accuracy", "wall_clock_seconds", "train_seconds"))
    run_dir.write_json(run / "config.json", {
        **config, "parameters": sum(p.numel() for p in model.parameters()), "selection_split": "test",
        "best_epoch": epochs, **unknown,
        "sessions": [{"device": "none, not trained here", **run_dir.environment()}]})
    checkpoint.save_state(run / "weights.pt", model.state_dict())
    return run


def initialise(model, name, source, same_heads):
    """Start every member of an ImageNet network from trained weights, as SDDE does.

    Args:
        name: of the network, "resnet18" or "resnet50".
        source: "pretrained", torchvision's own, or a file of such weights.
        same_heads: whether the last layers are taken over, too. Members that share every batch must differ somewhere,
            or they stay one network (published: they do).
    UserError when the weights cannot be had or are another network's.
    """
    if name not in WEIGHTS:
        raise UserError(f"--initial {source} is for {' and '.join(WEIGHTS)}, not for {name}")
    weights = read("" if source == "pretrained" else source, name)
    try:
        state = in_our_keys(weights)
        for member in members_of(model):
            own = {} if same_heads else member.classifier.state_dict(prefix="classifier.")
            member.load_state_dict({**state, **own})
    except (RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"these are not weights of torchvision's {name}, or the head is not softmax: "
                        f"{str(error).splitlines()[-1].strip()}") from error


def read(file, name="resnet18"):
    if file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds
            raise UserError(f"{file} cannot be read as weights: {error}") from error
    from torchvision import models

    weights = models.get_weight(WEIGHTS[name])
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"torchvision's weights could not be fetched ({error}). Fetch {weights.url} elsewhere and "
                        "name the file") from error


def in_our_keys(state):
    head = {"classifier.weights": state["fc.weight"], "classifier.bias": state["fc.bias"]}
    return {f"body.{key}": value for key, value in state.items() if not key.startswith("fc.")} | head
