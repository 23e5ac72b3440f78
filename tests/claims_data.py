"""What several files of small claims about data share."""
import email.message
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
