"""LeNet's stages in a form that is fast on CPUs.

There most of such a small network's time goes into what surrounds the arithmetic: convolutions to six channels where
sixteen fit into one instruction, and max-pooling of their four times larger outputs. So the first two blocks are
computed in an equivalent way. The image is cut into cells of pixels, whose pixels count as channels. A small
convolution of cells then makes, for every pooled pixel, the four values that it is the largest of, side by side as
channels; and where those of four neighbours come together, they are a cell for the next block.
"""
import functools

import torch
import torch.nn.functional as F


def stages(net, images):
    """What LeNet.stages returns, of images (B, 3, 28, 28)."""
    # the four pooled pixels of a 2×2 cell, of cells of 4×4; a single pooled pixel, of cells of 2×2
    taps1, taps2 = kernel_taps(4, 2, ((0, 0), (0, 2), (2, 0), (2, 2))), kernel_taps(2, 3, ((0, 0),))
    kernels = net.conv1.weight
    if is_grayscale(images):  # one channel, with the three channels' kernels added up
        images, kernels = images[:, :1], kernels.sum(1, keepdim=True)
    cells = to_cells(F.pad(images, (2, 2, 2, 2)), 4)
    first = convolve_and_pool(cells, kernels, net.conv1.bias, taps1.to(kernels), 2)
    second = convolve_and_pool(first, net.conv2.weight, net.conv2.bias, taps2.to(kernels), 3)  # (B, 16, 5, 5)
    flat = second.permute(0, 2, 3, 1).flatten(1)  # (B, 400), in the order of memory
    third = F.relu(F.linear(flat, net.conv3.weight.permute(0, 2, 3, 1).flatten(1), net.conv3.bias))
    return [second, third[..., None, None]]  # (B, 120, 1, 1)


def is_grayscale(images):
    """Whether the three channels are known to be equal; not asked where each channel is to get its own gradient, or
    where torch.compile would have to stop for it."""
    if images.requires_grad:
        return False
    if images.stride(1) == 0:  # one channel, expanded
        return True
    return not torch.compiler.is_compiling() and all(torch.equal(images[:, 0], images[:, c]) for c in (1, 2))


def to_cells(images, side):
    """(B, C, H, W) → (B, side·side·C, H/side, W/side), channels_last; a cell's numbers in the order row, column, C."""
    b, c, h, w = images.shape
    parts = images.view(b, c, h // side, side, w // side, side).permute(0, 2, 4, 3, 5, 1)
    return parts.reshape(b, h // side, w // side, side * side * c).permute(0, 3, 1, 2)


@functools.cache
def kernel_taps(side, window, corners):
    """Zeros and ones (25, 4·P·window²·side²): which pixels the taps of a 5×5 kernel meet in a window of window × window
    cells, at each of the four positions of each of P poolings, whose top-left corners are given."""
    size = window * side
    with torch.inference_mode(False):  # what is kept must serve training, whoever asks first
        kernel = torch.eye(25, device="cpu").view(25, 5, 5)
        positions = [(y + p, x + q) for p in (0, 1) for q in (0, 1) for y, x in corners]  # 4·P
        placed = torch.stack([F.pad(kernel, (x, size - 5 - x, y, size - 5 - y)) for y, x in positions], 1)
        return placed.view(25, -1, window, side, window, side).transpose(3, 4).flatten(1)


def convolve_and_pool(cells, kernels, bias, taps, window):
    """5×5 convolution, 2×2 max-pooling and ReLU of images in cells.

    (B, side²·C, h, w), kernels (O, C, 5, 5), taps for 4·P positions → (B, P·O, h − window + 1, w − window + 1).
    """
    outputs, channels = kernels.shape[:2]
    spread = (kernels.flatten(2) @ taps).view(outputs, channels, -1, window, window, cells.shape[1] // channels)
    positions = spread.shape[2]
    spread = spread.permute(2, 0, 3, 4, 5, 1).reshape(positions * outputs, window, window, -1).permute(0, 3, 1, 2)
    four = F.conv2d(cells, spread, bias.repeat(positions)).permute(0, 2, 3, 1)  # (B, h', w', 4·P·O)
    b, h, w, width = four.shape
    four = four.reshape(b * h * w, 2, 2, width // 4).permute(0, 3, 1, 2)  # an image of 2×2 for every pooled pixel
    return F.relu(F.max_pool2d(four, 2).permute(0, 2, 3, 1).reshape(b, h, w, width // 4)).permute(0, 3, 1, 2)
