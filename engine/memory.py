"""How much memory a training step will take, before it is tried; and what to do when it was too much."""
import contextlib

import torch

from data.datasets import CATALOG
from data.sources.plan import in_words
from engine.build import model_of, objective_of
from recipes import DICE, SHARED_BATCH
from utils.io import UserError


@contextlib.contextmanager
def explained(device):
    """A block in which running out of memory is the person's at the terminal."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"{device} is out of memory ({str(error).splitlines()[0]}). Lower what a step takes: fewer --seeds; "
            "--micro-batch 16, which accumulates gradients over parts of a batch (BN then sees the parts); or go to "
            "several GPUs (torchrun). A smaller --batch-size is another recipe") from error


def estimate(config, recipe, bf16):
    """Bytes of a run's step by kind: {"weights, gradients, momentum": …, "kept for the backward pass": …}.

    The step is walked through on PyTorch's meta device, where tensors have shapes but no memory, and what autograd
    keeps is added up. Temporaries and what libraries reserve come on top. Under bf16 what is kept counts half, which
    is a little too little. DICE's discriminator is left out.
    """
    method = config["method"]
    if method["diversity"] in DICE:
        config = {**config, "method": {**method, "diversity": "none"}}
    with torch.device("meta"):
        model = model_of(config).train()
        objective = objective_of(model, config, recipe)
        size = min(recipe.micro_batch or recipe.batch_size, recipe.batch_size)
        side = CATALOG[config["run"]["dataset"]].size
        shared = method["members"] == 1 or method["diversity"] in SHARED_BATCH
        own = () if shared else (method["members"],)
        inputs, targets = torch.empty(*own, size, 3, side, side), torch.zeros(*own, size, dtype=torch.int64)
        shown = [None, None]
        if method["outliers"] != "none" or objective.terms and not shared:
            count = recipe.outlier_batch * size // recipe.batch_size if method["outliers"] != "none" else size
            shown = [torch.empty(count, 3, side, side), torch.zeros(count, dtype=torch.int64)]
        own_memory = {p.untyped_storage()._cdata: p.numel() * p.element_size() for p in model.parameters()}
        kept = {}

        def keep(tensor):
            kept[tensor.untyped_storage()._cdata] = tensor  # held, so that no other storage gets its address
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            objective(inputs, targets, *shown)
    activations = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own_memory)
    return {"weights, gradients, momentum": 3 * sum(own_memory.values()),
            "kept for the backward pass": activations // 2 if bf16 else activations}


def report(parts):
    """What `estimate` gives, as a sentence's end."""
    return f"about {in_words(sum(parts.values()))}: {', '.join(f'{in_words(n)} {kind}' for kind, n in parts.items())}"
