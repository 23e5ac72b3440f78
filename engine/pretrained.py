"""torchvision's ImageNet networks: ResNet18 as a run, so that nobody needs a week of GPU time for the SoftMax row, and
ResNet50 as the start of SDDE's members."""
import torch

from engine import checkpoint
from engine.build import build_model, members_of
from recipes import METHODS, recipe_of
from utils import run_dir
from utils.io import UserError
from utils.run_dir import Run, run_folder

WEIGHTS = {"resnet18": "ResNet18_Weights.IMAGENET1K_V1", "resnet50": "ResNet50_Weights.IMAGENET1K_V1"}
NAME, SEED, CLASSES = "softmax", 0, 1000  # seed 0: no run that was trained here has it


def adopt(results_dir, file="", write=True):
    """The folder of the run, made if it is not there. `file`: the weights' file; "": torchvision downloads them.

    Its recipe is near the paper's (90 epochs, batch 256, steps of 30) but not the paper's: config.json says so, and no
    table puts it into a paper's row. UserError when the weights cannot be had or are another network's.
    """
    folder = run_folder(results_dir, "imagenet1k", "resnet18", NAME, SEED)
    if run_dir.is_finished(folder) or not write:
        return folder
    run = Run(folder, "imagenet1k", "resnet18", NAME, SEED, METHODS["softmax"], recipe_of("imagenet1k", "softmax"))
    model = build_model(run, CLASSES)
    try:
        model.load_state_dict(rename_keys(read(file)))
    except (RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"these are not weights of torchvision's ResNet18 for {CLASSES} classes: "
                        f"{str(error).splitlines()[0]}") from error
    unknown = dict.fromkeys(("best_accuracy", "last_accuracy", "wall_clock_seconds", "train_seconds"))
    used = f"torchvision's {WEIGHTS['resnet18']}"
    run_dir.write_json(folder / "config.json", {
        **run.record(), "overrides": {"weights": {"published": "trained by the recipe", "used": used}}, "data": {},
        "num_classes": CLASSES, "parameters": sum(p.numel() for p in model.parameters()),
        "best_epoch": run.recipe.epochs, **unknown,
        "sessions": [{"device": "none, not trained here", **run_dir.environment()}]})
    checkpoint.save_state(folder / "weights.pt", model.state_dict())
    return folder


def initialise(model, name, source, same_heads):
    """Start every member of an ImageNet network from trained weights, as SDDE does.

    Args:
        name: of the network, "resnet18" or "resnet50".
        source: "pretrained", torchvision's own, or a file of such weights.
        same_heads: whether the last layers are copied, too. Members that share every batch must differ somewhere, or
            they stay one network (published: they do).
    UserError when the weights cannot be had or are another network's.
    """
    if name not in WEIGHTS:
        raise UserError(f"--initial {source} is for {' and '.join(WEIGHTS)}, not for {name}")
    weights = read("" if source == "pretrained" else source, name)
    try:
        state = rename_keys(weights)
        for member in members_of(model):
            own = {} if same_heads else member.classifier.state_dict(prefix="classifier.")
            buffers = dict(member.classifier.named_buffers(prefix="classifier"))  # the temperature
            member.load_state_dict({**buffers, **state, **own})
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


def rename_keys(state):
    """torchvision's names of the parameters → ours."""
    head = {"classifier.weights": state["fc.weight"], "classifier.bias": state["fc.bias"]}
    return {f"body.{key}": value for key, value in state.items() if not key.startswith("fc.")} | head
