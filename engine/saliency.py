"""GradCAM maps of an ensemble's members for the report: saliency.npz in the run's folder (analyze.py --saliency)."""
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

from data.loaders import open_split
from data.openood import OpenSplits, benchmark
from engine.inference import CHECKPOINT_FILES, arrays_of_source, load_model
from utils import run_dir
from utils.io import UserError, atomic_write

IMAGES_SHOWN = 2  # images of a set that are kept with their maps
COUNTED = 256  # images of a set whose correlations are kept
PADDING = 1  # border of a map that the correlation leaves out, as SDDE's loss does


def gradcam_maps(model, images):
    """GradCAM maps (N, B, h, w) ≥ 0 of an Ensemble's N members, of the class that the ensemble predicts; and these
    classes (B). The maps are those of SDDE's equation 3: relu(Σ_c w_c A_c), w_c the mean over pixels of ∂logit/∂A_c.
    """
    with torch.enable_grad():
        logits, _, maps = model(images, return_features=True)  # (N, B, C), …, N × (B, c, h, w)
        predicted = logits.detach().mean(0).argmax(1)  # (B)
        own = logits.gather(2, predicted[None, :, None].expand(len(logits), -1, 1)).sum()
        gradients = torch.autograd.grad(own, maps)
    weighted = [torch.relu((gradient.mean((2, 3), keepdim=True) * a).sum(1)) for gradient, a in zip(gradients, maps)]
    return torch.stack(weighted).detach(), predicted


def pairwise_correlations(maps):
    """(N, B, h, w) → (B, N, N): the correlation of members' maps without their border; 0 where a map is constant."""
    side = min(maps.shape[2:])
    padding = PADDING if side > 2 * PADDING + 1 else 0
    cut = maps[:, :, padding : maps.shape[2] - padding, padding : maps.shape[3] - padding].flatten(2)
    z = F.normalize(cut - cut.mean(2, keepdim=True), dim=2)
    return torch.einsum("nbd,mbd->bnm", z, z)


def mean_over_pairs(correlations):
    """(B, N, N) → (B)"""
    pairs = list(combinations(range(correlations.shape[1]), 2))
    return torch.stack([correlations[:, n, m] for n, m in pairs]).mean(0)


def write_saliency(folder, data_dir, device="cpu"):
    """Write saliency.npz of an ensemble's best epoch, on the in-distribution test images and on all OOD sets that are
    prepared; False when the file was there already, made from the same weights and images.

    Images are taken at equal distances from each set of the openood benchmark, so they are the same for every run.
    UserError when weights or images are missing, or when the run is no ensemble.
    """
    run, config = run_dir.load_run(folder)
    if run.method.members < 2:
        raise UserError(f"{folder} is a single network: maps are compared between members of an ensemble")
    which = "last" if config["best_epoch"] == run.recipe.epochs else "best"
    weights = run.folder / CHECKPOINT_FILES[which]
    if not weights.exists():
        raise UserError(f"{weights} is missing")
    listed = benchmark(run.dataset, data_dir, OpenSplits(data_dir, run.dataset))
    sets = [("id", listed.test), *((group, subset) for group, subsets in listed.groups.items() for subset in subsets
                                   if len(subset))]
    digests = [split.digest for _, subset in sets for split in subset.splits.values()]
    source = " ".join([run_dir.file_digest(weights), str(COUNTED), str(IMAGES_SHOWN), *digests])
    if arrays_of_source(run.folder / "saliency.npz", source, ("sets",)) is not None:
        return False
    model = load_model(run, config["num_classes"], weights).to(device).eval()
    content = [maps_of(model, subset, run.recipe, device) for _, subset in sets]
    with atomic_write(run.folder / "saliency.npz") as file:
        np.savez(file, source=source, sets=[subset.name for _, subset in sets], groups=[group for group, _ in sets],
                 checkpoint=which, **{key: np.stack([of_set[key] for of_set in content]) for key in content[0]})
    return True


def maps_of(model, subset, recipe, device):
    """What saliency.npz keeps of one set.

    Returns:
        images (n, H, W, 3) uint8, maps (n, N, h, w), predicted (n) and correlations (n, N, N), n = IMAGES_SHOWN;
        mean_correlations (COUNTED), NaN where the set has fewer images.
    """
    split_name = max(subset.index, key=lambda name: len(subset.index[name]))  # of a set from two splits the larger one
    index = subset.index[split_name]
    chosen = index[np.linspace(0, len(index) - 1, min(COUNTED, len(index))).round().astype(int)]
    whole = open_split(subset.splits[split_name], device, (recipe.mean, recipe.std))
    images, maps, predicted = [], [], []
    for batch, _ in whole.subset(chosen).eval_batches():
        found, classes = gradcam_maps(model, batch)
        images.append(batch.cpu())
        maps.append(found.cpu())
        predicted.append(classes.cpu())
    images, maps, predicted = torch.cat(images), torch.cat(maps, 1), torch.cat(predicted)
    correlations = pairwise_correlations(maps)
    shown = torch.linspace(0, len(images) - 1, IMAGES_SHOWN).round().long()
    means = np.full(COUNTED, np.nan, np.float32)
    means[: len(images)] = mean_over_pairs(correlations).numpy()
    mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.mean, recipe.std))
    pixels = ((images[shown] * std + mean).clamp(0, 1) * 255).round().byte()  # (IMAGES_SHOWN, 3, H, W)
    return {"images": pixels.permute(0, 2, 3, 1).numpy(), "maps": maps[:, shown].transpose(0, 1).numpy(),
            "predicted": predicted[shown].numpy(), "correlations": correlations[shown].numpy(),
            "mean_correlations": means}
