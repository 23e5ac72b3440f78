"""The limits of the machine: its matrix rate, its copy bandwidth, and the rate that a training step can reach."""
import re
import time
from dataclasses import dataclass

import torch

from engine import devices


@dataclass(frozen=True)
class Machine:
    """A device as measured at the start of a bench.

    device_type: "cpu", "cuda" … name: for instance "NVIDIA H100" or "AMD EPYC". threads: of the CPU. rates: number
    format → FLOP/s of large matrix products. bandwidth: bytes/s read and written by a large copy.
    """

    device_type: str
    name: str
    threads: int
    rates: dict
    bandwidth: float

    def bound(self, cost, number_format):
        """FLOP/s that a step cannot exceed when its operators read and write the device's memory: the roofline
        min(matrix rate, FLOP/byte × bandwidth) (Williams et al., CACM 52(4), 2009)."""
        return min(self.rates[number_format], cost.intensity * self.bandwidth)

    def shares(self, images_per_second, cost, number_format):
        """What a rate makes of the matrix rate and of the roofline, as fractions; for a row of results.

        On a CPU the share of the roofline may exceed 1: its caches hold what the count takes for memory traffic.
        """
        achieved = images_per_second * cost.flops
        return {"flops": cost.flops, "bytes": cost.bytes, "number_format": number_format,
                "of_matrix_rate": achieved / self.rates[number_format],
                "of_roofline": achieved / self.bound(cost, number_format)}

    def __str__(self):
        rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in self.rates.items())
        return (f"{self.name}, {self.threads} threads; large matrix products: {rates}; copies: "
                f"{self.bandwidth / 1e9:.3g} GB/s")


def measure(device):
    """The Machine of a device. bfloat16 is measured only where the device multiplies it, TF32 only on a GPU."""
    rates = {"float32": matrix_rate(device, torch.float32)}
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        rates["tf32"] = matrix_rate(device, torch.float32)
        torch.set_float32_matmul_precision("highest")
    if devices.multiplies_bfloat16(device):
        rates["bfloat16"] = matrix_rate(device, torch.bfloat16)
    return Machine(device.type, short_name(device), torch.get_num_threads(), rates, copy_bandwidth(device))


def short_name(device):
    """`devices.describe` without the threads."""
    return re.sub(r"^cpu \((.*), \d+ threads\)$", r"\1", devices.describe(device))


def matrix_rate(device, dtype, repeats=20):
    """FLOP/s of the fastest of some products of two large square matrices."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / least_seconds(lambda: a @ b, device, repeats)


def copy_bandwidth(device, repeats=20):
    """Bytes/s, read plus written, of the fastest of some copies of a block that no cache holds."""
    size = (1 << 30) if device.type == "cuda" else (256 << 20)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * size / least_seconds(lambda: target.copy_(source), device, repeats)


def least_seconds(function, device, repeats):
    best = float("inf")
    for _ in range(repeats):
        devices.synchronize(device)
        started = time.perf_counter()
        function()
        devices.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best
