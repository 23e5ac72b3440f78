"""Fractional probability regularisation: images and targets of four quarters (DisMax paper, section 3)."""
import torch


def mix_quadrants(images):
    """Every image keeps its top-left quadrant and takes the other three, in place, from the three images before it.

    (m, C, H, W) → new (m, C, H, W): bottom-left from image i−1, top-right from i−2, bottom-right from i−3, modulo m;
    rows are cut at ⌊H/2⌋, columns at ⌊W/2⌋. ValueError unless 4-D with H, W ≥ 2.
    """
    if images.dim() != 4 or images.shape[2] < 2 or images.shape[3] < 2:
        raise ValueError(
            "fractional probability regularisation mixes quadrants of images (B, C, H, W) of at least 2×2 pixels, "
            f"got {tuple(images.shape)}: for other data use regularization=None"
        )
    h, w = images.shape[2] // 2, images.shape[3] // 2
    mixed = images.clone()
    mixed[:, :, h:, :w] = images[:, :, h:, :w].roll(1, 0)
    mixed[:, :, :h, w:] = images[:, :, :h, w:].roll(2, 0)
    mixed[:, :, h:, w:] = images[:, :, h:, w:].roll(3, 0)
    return mixed


def fractional_targets(targets, num_classes, dtype=torch.float32):
    """¼ for the class of each of the four images in a mixed one: (m) int64 → (m, C), rows sum to 1.

    The same class twice adds up to ½, and so on.
    """
    four = torch.stack([targets.roll(k) for k in range(4)], 1)  # (m, 4)
    quarters = torch.full(four.shape, 0.25, dtype=dtype, device=targets.device)
    return torch.zeros(len(four), num_classes, dtype=dtype, device=targets.device).scatter_add_(1, four, quarters)
