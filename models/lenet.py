"""LeNet for 28×28 images of three channels, as SDDE trains it (grey digits arrive as three equal channels).

On a CPU most of such a small network's time goes into what surrounds the arithmetic: convolutions to six channels where
sixteen fit into one instruction, and max-pooling of their four times larger outputs. So the first two blocks are
computed in another, equivalent way. The image is cut into cells of pixels, whose pixels count as channels. A small
convolution of cells then makes, for every pooled pixel, the four values that it is the largest of, side by side as
channels; and where those of four neighbours come together, they are a cell for the next block.
"""
import torch
import torch.nn.functional as F

from .network import Network


class LeNet(Network):
    """Convolutions 3 → 6 → 16 → 120 of 5×5, then 120 → 84; F = 84. The stages' maps: 16×5×5 and 120×1×1.

    The 6×14×14 maps before them exist in another order only, as cells.
    """

    image_size = 28

    def __init__(self, num_classes, head):
        super().__init__(84, num_classes, head)
        self.conv1 = torch.nn.Conv2d(3, 6, 5, padding=2)
        self.conv2 = torch.nn.Conv2d(6, 16, 5)
        self.conv3 = torch.nn.Conv2d(16, 120, 5)
        self.fc = torch.nn.Linear(120, 84)
        # the four pooled pixels of a 2×2 cell, of cells of 4×4; a single pooled pixel, of cells of 2×2
        self.register_buffer("taps1", taps(4, 2, [(2 * u, 2 * v) for u in (0, 1) for v in (0, 1)]), persistent=False)
        self.register_buffer("taps2", taps(2, 3, [(0, 0)]), persistent=False)

    def stages(self, images):
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(f"LeNet takes images (B, 3, 28, 28), got {tuple(images.shape)}")
        kernels = self.conv1.weight
        if are_grey(images):  # one channel, with the three channels' kernels added up
            images, kernels = images[:, :1], kernels.sum(1, keepdim=True)
        first = convolve_and_pool(cells(F.pad(images, (2, 2, 2, 2)), 4), kernels, self.conv1.bias, self.taps1, 2)
        second = convolve_and_pool(first, self.conv2.weight, self.conv2.bias, self.taps2, 3)  # (B, 16, 5, 5)
        flat = second.permute(0, 2, 3, 1).flatten(1)  # (B, 400), in the order of memory
        third = F.relu(F.linear(flat, self.conv3.weight.permute(0, 2, 3, 1).flatten(1), self.conv3.bias))
        return [second, third[..., None, None]]  # (B, 120, 1, 1)

    def embed(self, maps):
        return F.relu(self.fc(maps.flatten(1)))  # (B, 84)


def are_grey(images):
    """Whether the three channels are known to be equal; not asked where that would have a device waited for or stop
    torch.compile, nor where each channel is to get its own gradient."""
    if images.requires_grad:
        return False
    if images.stride(1) == 0:  # one channel, expanded
        return True
    looking_is_free = images.device.type == "cpu" and not torch.compiler.is_compiling()
    return looking_is_free and all(torch.equal(images[:, 0], images[:, c]) for c in (1, 2))


def cells(images, side):
    """(B, C, H, W) → (B, side·side·C, H/side, W/side), channels_last; a cell's numbers in the order row, column, C."""
    b, c, h, w = images.shape
    parts = images.view(b, c, h // side, side, w // side, side).permute(0, 2, 4, 3, 5, 1)
    return parts.reshape(b, h // side, w // side, side * side * c).permute(0, 3, 1, 2)


def taps(side, window, corners):
    """Zeros and ones (25, 4·P·window²·side²): which pixels the taps of a 5×5 kernel meet in a window of window × window
    cells, at each of the four positions of each of P poolings, whose top-left corners are given."""
    size = window * side
    kernel = torch.eye(25).view(25, 5, 5)
    places = [(y + p, x + q) for p in (0, 1) for q in (0, 1) for y, x in corners]  # (4, P)
    placed = torch.stack([F.pad(kernel, (x, size - 5 - x, y, size - 5 - y)) for y, x in places], 1)
    return placed.view(25, -1, window, side, window, side).transpose(3, 4).flatten(1)


def convolve_and_pool(cells, kernels, bias, taps, window):
    """5×5 convolution, 2×2 max-pooling and ReLU of images in cells.

    (B, side²·C, h, w), kernels (O, C, 5, 5), taps for 4·P places → (B, P·O, h − window + 1, w − window + 1).
    """
    outputs, channels = kernels.shape[:2]
    spread = (kernels.flatten(2) @ taps).view(outputs, channels, -1, window, window, cells.shape[1] // channels)
    places = spread.shape[2]
    spread = spread.permute(2, 0, 3, 4, 5, 1).reshape(places * outputs, window, window, -1).permute(0, 3, 1, 2)
    four = F.conv2d(cells, spread, bias.repeat(places)).permute(0, 2, 3, 1)  # (B, h', w', 4·P·O)
    b, h, w, width = four.shape
    four = four.reshape(b * h * w, 2, 2, width // 4).permute(0, 3, 1, 2)  # an image of 2×2 for every pooled pixel
    return F.relu(F.max_pool2d(four, 2).permute(0, 2, 3, 1).reshape(b, h, w, width // 4)).permute(0, 3, 1, 2)
