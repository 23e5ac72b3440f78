"""Weights that were trained elsewhere: read, renamed, and turned into a run for evaluate.py and the tables.

Read are state dicts of PyTorch and of safetensors, alone or inside a checkpoint, of the DisMax release, of OpenOOD and
SDDE, of torchvision and timm (ResNet18 and ResNet50), and our own.
"""
import hashlib
import re
import zipfile

import torch
from safetensors.torch import load_file

from engine import checkpoint
from engine.build import build_model
from utils import run_dir
from utils.environment import environment
from utils.io import UserError, refuse_endless, write_bytes

CIFAR_RESNET = [(r"conv1\.", "stem.0."), (r"bn1\.", "stem.1."), (r"layer(\d)\.", lambda m: f"layers.{int(m[1]) - 1}.")]
IMAGENET_RESNET = [(r"(conv1|bn1|layer\d)\.", r"body.\1.")]
# network → what the beginning of a foreign name becomes; heads below
RENAMED = {
    "resnet34": CIFAR_RESNET, "resnet18_32x32": CIFAR_RESNET, "resnet18": IMAGENET_RESNET, "resnet50": IMAGENET_RESNET,
    "densenetbc100": [
        (r"conv1\.", "stem."), (r"bn1\.", "bn."), (r"block(\d)\.layer\.", lambda m: f"blocks.{int(m[1]) - 1}."),
        (r"trans(\d)\.(bn|conv)1\.", lambda m: f"transitions.{int(m[1]) - 1}.{m[2]}.")],
    "wideresnet2810": [
        (r"conv1\.", "stem."), (r"bn1\.", "bn."),
        (r"layer(\d)\.(\d)\.shortcut\.0\.", lambda m: f"groups.{int(m[1]) - 1}.{m[2]}.shortcut."),
        (r"layer(\d)\.", lambda m: f"groups.{int(m[1]) - 1}.")],
    "lenet": [(r"block(\d)\.0\.", r"conv\1."), (r"fc\.", "classifier."), (r"classifier1\.", "fc.")],
}
HEAD = [(r"(fc|linear|head)\.", "classifier.")]  # a layer of PyTorch or a first part of ours
INSIDE = ("state_dict", "model", "net", "model_state_dict", "params")  # where checkpoints keep the state dict
OWN_KEYS = {"lenet": r"conv1\.", "densenetbc100": r"blocks\.", "wideresnet2810": r"groups\.", "resnet18": r"body\.",
            "resnet50": r"body\."}  # what only our own names have; others: "layers."


def read_weights(file):
    """name → tensor of a state dict, wherever the file keeps it. UserError when there is none; never runs code."""
    refuse_endless(file)
    try:
        if str(file).endswith(".safetensors"):
            content = load_file(file)
        else:
            if zipfile.is_zipfile(file):  # what torch.save writes since version 1.6 has check sums
                checkpoint.check_whole(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except UserError as error:
        raise UserError(str(error).split(". The other files")[0]) from error
    except Exception as error:  # torch and safetensors raise many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if reason.startswith("Weights only load failed"):  # torch goes on with how to run the file's code
            reason = "it is of another kind, or holds more than tensors, names and numbers"
        raise UserError(f"{file} cannot be read as weights: {reason}") from error
    while inner := [key for key in INSIDE if isinstance(content, dict) and isinstance(content.get(key), dict)]:
        content = content[inner[0]]
    if not isinstance(content, dict) or not content or not all(map(torch.is_tensor, content.values())):
        raise UserError(f"{file} holds no state dict, neither by itself nor under {', '.join(INSIDE)}")
    return content


def rename(state, model):
    """A foreign state dict under our names; our own stays as it is. What only a training needs is left out."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"^(module|_orig_mod)\.", "", name)
        if name.startswith("discriminator."):
            continue
        member, own = re.fullmatch(r"((?:nets|members)\.\d+\.)?(.*)", name).groups()
        rules = [] if is_ours(state, model) else [*RENAMED.get(model, []), *HEAD]
        for pattern, replacement in rules:
            own, found = re.subn(f"^{pattern}", replacement, own)
            if found:
                break
        if own == "classifier.weight":
            own = "classifier.weights"
        renamed[(member or "").replace("nets.", "members.") + own] = tensor
    return renamed


def is_ours(state, model):
    pattern = rf"((module|_orig_mod)\.)?(members\.\d+\.)?{OWN_KEYS.get(model, 'layers.')}"
    return any(re.match(pattern, name) for name in state)


def load_renamed(network, state, model, what):
    """Put a foreign state dict into a network or Ensemble. UserError, naming the names that do not fit."""
    found, own = rename(state, model), network.state_dict()
    buffers = {name for name, _ in network.named_buffers() if ".classifier." in f".{name}"}  # temperature, thresholds
    problems = {
        "missing": own.keys() - found.keys() - buffers,
        "not known": found.keys() - own.keys(),
        "of another shape": [f"{name} {tuple(found[name].shape)} instead of {tuple(own[name].shape)}"
                             for name in (own.keys() & found.keys()) - buffers if own[name].shape != found[name].shape],
        "of another type": [f"{name} {found[name].dtype}" for name in (own.keys() & found.keys()) - buffers
                            if own[name].is_floating_point() and not found[name].is_floating_point()
                            or found[name].layout != torch.strided],
    }
    if any(problems.values()):
        parts = [f"{title}: {', '.join(sorted(names)[:5])}{f' and {len(names) - 5} more' * (len(names) > 5)}"
                 for title, names in problems.items() if names]
        raise UserError(f"{what} does not fit {model}: {'; '.join(parts)}. Choose another --model, --method or "
                        "--dataset")
    network.load_state_dict({name: found[name] if name in found and found[name].shape == own[name].shape else own[name]
                             for name in own})


def adopt(run, num_classes, state, source, digest):
    """Make a finished run of weights that were trained elsewhere; nothing where the folder has it already.

    Args:
        source: where they come from, for config.json.
        digest: of the file; another file for the same folder is refused.
    """
    if run_dir.is_finished(run.folder):
        before = run_dir.load_run(run.folder)[1]
        if before.get("weights_from", {}).get("sha256") == digest:
            return
        raise UserError(f"{run} holds another run: choose another --seed or --results-dir")
    network = build_model(run, num_classes)
    load_renamed(network, state, run.model, source)
    checkpoint.check_finite(network, source)
    content = checkpoint.as_bytes(network.state_dict())
    unknown = dict.fromkeys(("best_accuracy", "last_accuracy", "wall_clock_seconds", "train_seconds"))
    run_dir.write_json(run.folder / "config.json", {
        **run.record(), "overrides": {"weights": {"published": "trained by the recipe", "used": "not trained here"}},
        "weights_from": {"source": source, "sha256": digest}, "data": {}, "num_classes": num_classes,
        "parameters": sum(p.numel() for p in network.parameters()), "best_epoch": run.recipe.epochs, **unknown,
        "sessions": [{"device": "none, not trained here", **environment()}],
        "sha256": {"weights.pt": hashlib.sha256(content).hexdigest()}})
    write_bytes(run.folder / "weights.pt", content)
