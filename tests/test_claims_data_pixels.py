"""Small claims about pictures: modes, limits, orientation, crops, and what the readers of files report."""
import contextlib
import errno
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from claims_data import encoded, pixels, rng
from PIL import Image, ImageOps
from torchvision.transforms import v2

from data import decode
from utils.io import UserError

CPU = torch.device("cpu")


def gray(image, *format):
    return np.asarray(decode.to_rgb(image, *format))[0].tolist()


def png(bits, color, row, transparent):
    """The bytes of a PNG of one row."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    width = 8 * len(row) // (bits * (3 if color else 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, color, 0, 0, 0)) + chunk(
        b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


# ---- decoding ----

@pytest.mark.parametrize(("bits", "row", "transparent", "shown"), [
    (4, b"\x05\xaf", 5, [0, 255, 170, 255]), (2, b"\x1b", 1, [0, 255, 170, 255]), (1, b"\x0f", 0, [255] * 8),
    (8, b"\0\x05\x55", 5, [0, 255, 85])])
def test_the_transparent_gray_of_a_png_counts_in_its_own_bits(bits, row, transparent, shown):
    image, _ = decode.read_rgb(png(bits, 0, row, struct.pack(">H", transparent)))
    assert np.asarray(image)[0, :, 0].tolist() == shown


def test_a_transparent_color_of_16_bits_is_refused():
    with pytest.raises(decode.UnreadableImage, match="16 bits a channel with a transparent color"):
        decode.read_rgb(png(16, 2, struct.pack(">6H", 1, 2, 3, 257, 514, 771), struct.pack(">3H", 1, 2, 3)))
    image, _ = decode.read_rgb(png(8, 2, b"\1\2\3\4\5\6", struct.pack(">3H", 1, 2, 3)))
    assert np.asarray(image)[0].tolist() == [[255] * 3, [4, 5, 6]]


def test_an_image_may_have_as_many_pixels_as_the_limit(monkeypatch):
    assert decode.MAX_PIXELS == Image.MAX_IMAGE_PIXELS and decode.LARGE_IMAGE == 2**24
    monkeypatch.setattr(decode, "MAX_PIXELS", 12)
    assert decode.read_rgb(encoded(pixels(3, 4)))[0].size == (4, 3)
    with pytest.raises(decode.UnreadableImage, match="^it has 13×1 pixels, more than 12$"):
        decode.read_rgb(encoded(pixels(1, 13)))


def test_only_larger_images_are_held_one_at_a_time(monkeypatch):
    held = []

    @contextlib.contextmanager
    def lock():
        held.append(True)
        yield
        held.pop()

    monkeypatch.setattr(decode, "LARGE_IMAGE", 12)
    for width, count in ((4, 0), (5, 1)):
        monkeypatch.setattr(decode, "_one_large_at_a_time", lock())
        with decode.open_rgb(encoded(pixels(3, width))) as image:
            assert len(held) == count and image.size == (width, 3)
        assert not held


def test_read_rgb_tells_how_an_image_is_stored(tmp_path):
    for mode, kind in (("L", "PNG"), ("CMYK", "JPEG"), ("RGB", "BMP")):
        (tmp_path / "x").write_bytes(encoded(pixels().convert(mode), kind))
        for source in (tmp_path / "x", (tmp_path / "x").read_bytes()):
            image, stored = decode.read_rgb(source)
            assert (image.mode, stored, image.info["format"]) == ("RGB", mode, kind)


def test_what_cannot_be_decoded_has_its_reason(tmp_path, monkeypatch):
    with pytest.raises(decode.UnreadableImage, match="it is not a regular file"):
        decode.read_rgb(tmp_path)
    path, content = tmp_path / "x.png", encoded(pixels())
    path.write_bytes(content)
    for source, name in ((path, str(path)), (content, "an image")):
        for error, kind, said in ((MemoryError(), UserError, f"no memory left to decode {name}. Use fewer workers"),
                                  (OSError(errno.EMFILE, "too many"), UserError, f"could not read {name}: too many. R"),
                                  (OSError(errno.EIO, "bad disk"), decode.UnreadableImage, "bad disk"),
                                  (ValueError(), decode.UnreadableImage, "^ValueError$"),
                                  (decode.UnreadableImage("so"), decode.UnreadableImage, "^so$")):
            def fail(*_, error=error):
                raise error

            monkeypatch.setattr(decode, "to_rgb", fail)
            with pytest.raises(kind, match=said):
                decode.read_rgb(source)


def test_16_bits_become_8():
    """0 is black, 65535 white, and steps are at odd multiples of 128.5."""
    values = np.array([[0, 1, 128, 129, 385, 386, 65_406, 65_407, 65_535]], np.uint16)
    expected = [0, 0, 0, 1, 1, 2, 254, 255, 255]
    assert gray(Image.fromarray(values)) == [[v] * 3 for v in expected]
    for kind in ("PNG", "PPM"):
        assert gray(Image.fromarray(values.astype(np.int32)), kind) == [[v] * 3 for v in expected]
    clear = Image.fromarray(values)
    clear.info["transparency"] = 129
    assert [v[0] for v in gray(clear)] == [0, 0, 0, 255, 1, 2, 254, 255, 255]


def test_32_bits_are_taken_as_they_are_where_they_may_be():
    assert gray(Image.fromarray(np.array([[0, 1]], np.int32))) == [[0] * 3, [1] * 3]
    assert gray(Image.fromarray(np.array([[0, 255]], np.int32)), "BMP") == [[0] * 3, [255] * 3]
    assert gray(Image.fromarray(np.array([[0, 0.5, 1]], np.float32))) == [[0] * 3, [128] * 3, [255] * 3]
    assert gray(Image.fromarray(np.array([[0, 1.6]], np.float32))) == [[0] * 3, [2] * 3]
    assert gray(Image.fromarray(np.array([[0, 255]], np.float32))) == [[0] * 3, [255] * 3]
    for values, said in (([[-1, 3]], "from -1 to 3"), ([[0, 256]], "from 0 to 256"), ([[0, np.nan]], "nan")):
        with pytest.raises(ValueError, match=f"{said}.*which value is white is unknown"):
            gray(Image.fromarray(np.array(values, np.float32)))


@pytest.mark.parametrize("tags, said", [
    ({258: (16,), 262: 1}, ""), ({258: (32,)}, ""), ({258: (16, 9)}, ""),
    ({258: (12,), 262: 1}, "12 bits a pixel, and"),
    ({258: (16,), 262: 0}, "16 bits a pixel, with white as 0, and"), ({258: (16,), 262: 3}, "16 bits a pixel, and"),
    ({}, "1 bits a pixel, and"), ({258: (32,), 262: 0}, "32 bits a pixel, with white as 0")])
def test_tiffs_of_other_whites_are_refused(tags, said):
    image = Image.fromarray(np.array([[0, 257]], np.uint16))
    image.tag_v2 = tags
    assert gray(image) == [[0] * 3, [1] * 3], "only TIFFs have tags"
    with pytest.raises(ValueError, match=f"it is a TIFF of {said}") if said else contextlib.nullcontext():
        assert gray(image, "TIFF") == [[0] * 3, [1] * 3]
    assert gray(Image.new("L", (1, 1), 7), "TIFF") == [[7] * 3], "8 bits are clear"


def test_every_way_to_be_transparent_is_shown_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 30, 60, 90])
    palette.putpixel((1, 0), 1)
    clear = palette.copy()
    clear.info["transparency"] = 0
    assert gray(palette) == [[9] * 3, [30, 60, 90]] and gray(clear) == [[255] * 3, [30, 60, 90]]
    half = Image.new("LA", (1, 1), (100, 51))
    for image in (half, half.convert("La")):
        assert gray(image)[0] == pytest.approx([224] * 3, abs=2), mode if (mode := image.mode) else ""
    assert gray(Image.new("RGBA", (1, 1), (10, 20, 255, 0))) == [[255] * 3]
    rgba = Image.new("RGBA", (1, 1), (10, 20, 30, 254))
    assert gray(rgba)[0] == pytest.approx([11, 21, 31], abs=1)
    assert gray(rgba.convert("RGBa"))[0] == pytest.approx([11, 21, 31], abs=1)


@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_upright(orientation):
    image, exif = pixels(5, 7), Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, exif=exif)
    with Image.open(io.BytesIO(content)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(np.asarray(decode.read_rgb(content)[0]), expected)


def test_damaged_exif_data_do_not_matter(monkeypatch):
    image = pixels(5, 7)
    monkeypatch.setattr(Image.Image, "getexif", lambda self: {0x0112: "upside down"})
    assert np.array_equal(np.asarray(decode.to_rgb(image)), np.asarray(image))


# ---- sizes ----

@pytest.mark.parametrize("shape", [(33, 28), (28, 35), (61, 90), (29, 28), (30, 31)])
@pytest.mark.parametrize("shorter", [None, 32])
def test_resizing_and_cropping_are_torchvisions(shape, shorter):
    image = pixels(*shape)
    ours = decode.resize_center_crop(image, 28, *([shorter] if shorter else []))
    theirs = v2.Compose([v2.Resize(shorter or 28), v2.CenterCrop(28)])(image)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_an_image_of_the_size_stays_unless_it_is_enlarged_first():
    image = pixels(28, 28)
    assert decode.resize_center_crop(image, 28) is image is decode.resize_center_crop(image, 28, 28)
    assert not np.array_equal(np.asarray(decode.resize_center_crop(image, 28, 32)), np.asarray(image))


@pytest.mark.parametrize("size, resized_from", [((200, 2), (200, 2)), ((201, 2), (200, 2)), ((2, 900), (2, 200))])
def test_images_a_hundred_times_as_long_as_wide_lose_their_ends_first(monkeypatch, size, resized_from):
    seen, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *how: seen.append((self.size, np.asarray(self))) or resize(
        self, *how))
    image = pixels(size[1], size[0])
    assert decode.resize_center_crop(image, 4).size == (4, 4)
    (found, content), = seen
    start = round((max(size) - 200) / 2)
    middle = np.asarray(image)[:, start : start + 200] if size[0] > 2 else np.asarray(image)[start : start + 200]
    assert found == resized_from and np.array_equal(content, middle)


def test_arrays_of_the_size_and_no_arrays_at_all():
    images = rng.integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    assert decode.resize_arrays(images, 28) is images
    assert decode.resize_arrays(images[:, :, :20], 28).shape == (2, 28, 28, 3)
    for channels in (1, 3):
        empty = decode.resize_arrays(np.zeros((0, 32, 32, channels), np.uint8), 28)
        assert empty.shape == (0, 28, 28, channels) and empty.dtype == np.uint8
