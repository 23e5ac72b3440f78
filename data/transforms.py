"""Crop, flip and normalize whole batches of uint8 images on their device."""
import torch


def pad(images, padding):
    """(n, C, H, W) → (n, C, H + 2·padding, W + 2·padding), black around; the same tensor for padding 0."""
    return torch.nn.functional.pad(images, (padding,) * 4) if padding else images


def crop(padded, index, top, left, size):
    """One gather: of image index[b] the size × size window at (top[b], left[b]); (n, C, P, P) → (B, C, size, size)."""
    n, channels, side, _ = padded.shape
    per_image, per_channel, per_row, per_pixel = padded.stride()
    shifts = side - size + 1
    windows = padded.as_strided(  # a view of every window of every image: (n, C, shifts, shifts, size, size)
        (n, channels, shifts, shifts, size, size), (per_image, per_channel, per_row, per_pixel, per_row, per_pixel)
    )
    channel = torch.arange(channels, device=padded.device)
    return windows[index[:, None], channel, top[:, None], left[:, None]]


def flip(images, flipped):
    """Mirror the images whose `flipped` (B) is true, left to right."""
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def normalise(images, mean, std):
    """uint8 (B, C, H, W) → float32 (B, 3, H, W), (pixel/255 − mean)/std with mean and std (3), or (1) for all channels.

    Grey becomes three equal channels: with mean and std (1) the same memory, seen three times.
    """
    mean, std = mean.view(-1, 1, 1) * 255, std.view(-1, 1, 1) * 255
    return torch.sub(images, mean).mul_(1 / std).expand(-1, 3, -1, -1)
