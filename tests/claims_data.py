"""What several files of small claims about data share."""
import email.message
import io
import struct
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from data.datasets import CATALOG
from data.sources import download
from data.sources.download import RetryPolicy
from data.sources.find import Found

URL = "http://host.example/file"
POLICY = RetryPolicy(timeout=10, slowest=100, tries=3, pause=2)
STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def catalog():
    """CATALOG as it was, afterwards."""
    before = dict(CATALOG)
    yield
    CATALOG.clear()
    CATALOG.update(before)


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """The pauses, which are not made, and no chance in them."""
    pauses = []
    monkeypatch.setattr(download, "_unreachable", {})
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr("random.uniform", lambda low, high: low + high)
    return pauses


def headers(**values):
    message = email.message.Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


def tree(root, **counts):
    """Images of a colour of their own in each: {class: how many}."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            Image.new("RGB", (9, 8), tuple(crc32(f"{name}{k}".encode()).to_bytes(4, "big")[:3])).save(
                root / name / f"{k:02}.png")
    return root


def found(count, source="a source", verified=False):
    return Found((np.zeros((count, 28, 28, 1), np.uint8), np.arange(count) % 7), source, verified)


def pixels(height=8, width=8):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, kind="PNG", **options):
    """The bytes of its file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(value=0, side=8, kind="PNG"):
    """The bytes of a red one."""
    return encoded(Image.new("RGB", (side, side), (value, 0, 0)), kind)


def idx(array, kind=8):
    """The bytes of an idx file."""
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
