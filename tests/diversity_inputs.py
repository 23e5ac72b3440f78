"""Logits and maps of the golden values of the diversity losses (sdde.md, section 1.7), and small members."""
import torch
from torch import nn

F64 = torch.float64
LABELS = torch.tensor([0, 3, 1, 4])


def grid(*sizes):
    return torch.meshgrid(*(torch.arange(s, dtype=F64) for s in sizes), indexing="ij")


def golden_logits():
    n, b, k = grid(3, 4, 5)
    return 2 * torch.sin(1.3 * n + 0.7 * b + 0.5 * k**2 + 0.2 * n * k)


def golden_maps(side=6):
    """Maps A, and logits that come from them."""
    n, b, c, h, w = grid(3, 4, 2, side, side)
    maps = [m.requires_grad_() for m in 1 + torch.sin(0.9 * n + 0.4 * b + 1.1 * c + 0.8 * h - 0.5 * w + 0.3 * h * w)]
    k, c = grid(5, 2)
    logits = torch.stack([torch.einsum("bc,kc->bk", (m**2 / 2).mean((2, 3)), torch.cos(0.6 * i + 1.7 * k + 0.5 * c))
                          for i, m in enumerate(maps)])
    return maps, logits


def member(seed):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh())
    return body, nn.Sequential(nn.Conv2d(4, 5, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 5))
