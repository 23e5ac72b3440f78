"""A corpus of damaged, deep, huge and odd picture files, made by seed, and what the readers of pictures say of them.

  python -m tests.faults --only pictures --pictures 2600

Every picture is decoded, or named with a reason; nothing else is raised, and memory and time stay bounded. A folder
also holds what is no picture: FIFOs, links in a circle, links to nowhere, AppleDouble files, names that are not UTF-8.
"""
import io
import os
import random
import shutil
import struct
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from data.decode import UnreadableImage, open_rgb, resize_center_crop
from utils.io import UserError

SECONDS = 20  # that one picture may take
FORMATS = {
    "PNG": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16"), "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"), "BMP": ("1", "L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"), "PPM": ("L", "RGB", "I"), "GIF": ("L", "P")}
ENDINGS = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "PPM": "ppm", "GIF": "png"}


def whole(rng):
    """(bytes, format) of a picture of random size, mode and content."""
    name = rng.choice(list(FORMATS))
    mode = rng.choice(FORMATS[name])
    size = rng.choice([(1, 1), (28, 28), (40, 30), (1, 60), (60, 1), (97, 13)])
    pixels = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode in ("I", "F", "I;16"):
        values = pixels[..., 0].astype(np.float32)
        image = Image.fromarray({"I": values.astype(np.int32), "F": values, "I;16": values.astype(np.uint16)}[mode])
    elif mode in ("LA", "PA"):
        image = Image.fromarray(pixels[..., :3]).convert("LA" if mode == "LA" else "P").convert(mode)
    else:
        image = Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)
    buffer, options = io.BytesIO(), {}
    if name in ("JPEG", "PNG", "WEBP") and rng.random() < 0.2:
        exif = Image.Exif()
        exif[0x0112] = rng.choice([1, 3, 6, 8, 9, 0, 65535])
        options["exif"] = exif
    try:
        image.save(buffer, name, **options)
    except (OSError, ValueError, KeyError):  # a format that does not take the mode
        Image.fromarray(pixels[..., :3]).save(buffer, name)
    return buffer.getvalue(), name


def mutated(content, rng):
    """The bytes with a mistake or several."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(max(len(content), 1))
        kind = rng.randrange(7)
        if not content or kind == 0:
            content = content[:place]
        elif kind == 1:
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            content[place : place + rng.randrange(1, 64)] = b""
        elif kind == 3:
            content[place:place] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 4:  # a number in a header
            content[place : place + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(
                [0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 100_000, rng.randrange(1 << 32)]))
        elif kind == 5:
            content[place : place + 64] = bytes(64)
        else:
            content += rng.randbytes(rng.randrange(1, 200))
    return bytes(content)


def png(width, height, rows=b""):
    """A PNG whose header says so much, with a valid check sum."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def strange():
    """{name: bytes} of pictures that are whole and yet not as others are."""
    def saved(image, name="PNG", **options):
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        return buffer.getvalue()

    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * (3 << 20), zip=True)
    return {
        "bomb.png": png(20_000, 20_000), "announced.png": png(2**31 - 1, 2**31 - 1),
        "text.png": saved(Image.new("RGB", (40, 40)), pnginfo=text), "empty.png": b"", "html.jpg": b"<html></html>",
        "long.png": saved(Image.new("L", (1_000_000, 1))), "high.png": saved(Image.new("RGB", (1, 1_000_000))),
        "long.jpg": saved(Image.new("RGB", (65_500, 1)), "JPEG"), "no_size.png": png(0, 0),
        "pickle.jpg": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x04exec\x94\x93\x94."}


def odd_entries(folder):
    """Put what is no picture into a folder; returns the names, which end as those of pictures do."""
    os.mkfifo(folder / "fifo.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "nowhere.png").symlink_to("/nowhere/at/all.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "._mac.png").write_bytes(b"\0\5\26\7\0\2\0\0")
    (folder / "folder.png").mkdir()
    (folder / "up").symlink_to(folder, target_is_directory=True)
    return ["fifo.png", "circle.png", "nowhere.png", "zero.png", "._mac.png"]


def not_utf8(folder, content):
    """A picture whose name is Latin-1; the path as text."""
    path = os.fsencode(folder) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(content)
    return os.fsdecode(path)


def decode(path):
    """"decoded", "named" or what broke the promise."""
    started = time.monotonic()
    try:
        with open_rgb(path) as image:
            size = np.asarray(resize_center_crop(image, 28)).shape
        verdict = "decoded" if size == (28, 28, 3) else f"BROKEN: shape {size}"
    except UnreadableImage as error:
        verdict = "named" if str(error) else "BROKEN: no reason"
    except UserError as error:
        verdict = f"BROKEN: ends a run: {error}"
    except Exception as error:
        verdict = f"BROKEN: {error!r}"
    return verdict if time.monotonic() - started < SECONDS else "BROKEN: too slow"


def corpus(count, seed, folder):
    """Write so many mutated pictures; their paths."""
    rng, paths = random.Random(seed), []
    for k in range(count):
        content, name = whole(rng)
        path = Path(folder) / f"{k:05d}.{ENDINGS[name]}"
        path.write_bytes(mutated(content, rng))
        paths.append(path)
    return paths


def run(count, seed):
    """(verdicts, the broken promises in words) of `count` mutated pictures and the strange ones, each decoded here."""
    folder = Path(tempfile.mkdtemp(prefix="pictures-"))
    try:
        paths = corpus(count, seed, folder)
        for name, content in strange().items():
            (folder / name).write_bytes(content)
            paths.append(folder / name)
        (folder / "odd").mkdir()
        paths += [folder / "odd" / name for name in odd_entries(folder / "odd")]
        verdicts = [(path, decode(path)) for path in paths]
        broken = [f"{path.name}: {verdict}" for path, verdict in verdicts if verdict.startswith("BROKEN")]
        return Counter(f"pictures {verdict.split(':')[0]}" for _, verdict in verdicts), broken
    finally:
        shutil.rmtree(folder, ignore_errors=True)
