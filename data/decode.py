"""From an image file to pixels, in one way for all readers: modes, orientation, limits, size.

The same picture gives the same pixels in whatever mode and orientation it is stored.
"""
import contextlib
import io
import os
import stat
import threading
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.io import OUT_OF_RESOURCES, UserError, system_error

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte as RGB
LARGE_IMAGE = 1 << 24  # pixels; images of more are decoded one at a time
MAX_ASPECT_RATIO = 100  # of what is resized: the ends of longer images would be cropped away afterwards
ORIENTATION = 0x0112  # EXIF tag
TRANSPOSE = Image.Transpose
UPRIGHT = {2: TRANSPOSE.FLIP_LEFT_RIGHT, 3: TRANSPOSE.ROTATE_180, 4: TRANSPOSE.FLIP_TOP_BOTTOM, 5: TRANSPOSE.TRANSPOSE,
           6: TRANSPOSE.ROTATE_270, 7: TRANSPOSE.TRANSVERSE, 8: TRANSPOSE.ROTATE_90}

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such images are refused here
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged tags beside the pixels
_one_large_at_a_time = threading.RLock()


class UnreadableImage(Exception):
    """An image file that cannot be decoded; the message is the reason."""


@contextlib.contextmanager
def open_rgb(source):
    """The RGB image in a file (a path) or in its bytes, upright, for the duration of the block.

    UnreadableImage when it cannot be decoded, UserError when the system has run out of files or memory. Images of more
    than LARGE_IMAGE pixels are held by one thread at a time, so that memory stays bounded.
    """
    with contextlib.ExitStack() as held:
        yield _decoded(source, held)


def read_rgb(source):
    """(RGB image, the mode that it is stored in); errors as of open_rgb."""
    with contextlib.ExitStack() as held:
        image = _decoded(source, held)
        return image, image.info["stored_mode"]


def _decoded(source, held):
    try:
        if not isinstance(source, bytes) and not stat.S_ISREG(os.stat(source).st_mode):
            raise UnreadableImage("it is not a regular file")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImage(f"it has {width}×{height} pixels, more than {MAX_PIXELS:,}")
            if width * height > LARGE_IMAGE:
                held.enter_context(_one_large_at_a_time)
            stored_mode, image_format = image.mode, image.format
            rgb = to_rgb(image, image_format)
            rgb.info = {"stored_mode": stored_mode, "format": image_format}
            return rgb
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:  # its own words name an object in memory
        raise UnreadableImage("it is no image, or of an unknown kind") from error
    except MemoryError as error:
        raise UserError(f"there is no memory left to decode {_name(source)}. Use fewer workers or jobs") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
            raise system_error(error, _name(source)) from error
        raise UnreadableImage(str(error) or type(error).__name__) from error


def _name(source):
    return "an image" if isinstance(source, bytes) else source


def to_rgb(image, image_format=None):
    """An image of any mode → RGB, 8 bits a channel, turned upright by its EXIF orientation.

    16-bit grayscale is scaled to 8 bits. Transparent pixels are shown on white. ValueError for numbers whose range
    cannot be known.
    """
    _scale_transparency(image)
    image.load()
    image_format = image_format or image.format
    if image.mode[0] in "IF" and image_format == "TIFF":
        _refuse_other_whites(image.tag_v2)
    if image.mode.startswith("I;16") or image.mode == "I" and image_format in ("PNG", "PPM"):
        values = np.asarray(image).astype(np.int64)
        gray = ((values + 128) // 257).clip(0, 255)  # 65535 → 255
        gray[values == image.info.get("transparency", -1)] = 255
        rgb = Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    elif image.mode in ("I", "F"):
        rgb = Image.fromarray(_scaled(np.asarray(image))).convert("RGB")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgb = _on_white(image.convert("LA") if image.mode == "La" else image)
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    transpose = UPRIGHT.get(_orientation(image))
    return rgb.transpose(transpose) if transpose is not None else rgb


def _scale_transparency(image):
    """Give the transparent gray of a PNG of 2 or 4 bits the 8 bits that Pillow gives its pixels. Not yet loaded."""
    if image.format == "PNG" and "transparency" in image.info and image.tile:
        bits = image.tile[0][3]
        if bits == "RGB;16B":  # colors that differ in the lower bits only would be transparent, too
            raise ValueError("it is a PNG of 16 bits a channel with a transparent color, and which pixels have it "
                             "cannot be known")
        image.info["transparency"] = image.info["transparency"] * {"L;2": 85, "L;4": 17}.get(bits, 1)


def _refuse_other_whites(tags):
    """ValueError for TIFFs of more than 8 bits whose white Pillow does not know: 0 in it, or 4095 of 12 bits."""
    bits, zero_is = tags.get(258, (1,))[0], tags.get(262, 1)
    if zero_is != 1 or bits not in (16, 32):
        raise ValueError(f"it is a TIFF of {bits} bits a pixel{', with white as 0' * (zero_is == 0)}, and what is "
                         "white cannot be known")


def _scaled(values):
    """Pixels of 32 bits: from 0 to 255 they are taken as they are, floats from 0 to 1 as fractions."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):  # NaN, too
        raise ValueError(f"its pixels range from {low:g} to {high:g}, and which value is white is unknown")
    return (values * (255 if values.dtype.kind == "f" and high <= 1 else 1)).round().astype(np.uint8)


def _on_white(image):
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _orientation(image):
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data do not make the picture unreadable
        return 1


def resize_center_crop(image, size, shorter_side=None):
    """A PIL image → size × size, with the bits of torchvision's Resize(shorter_side or size) and CenterCrop(size).

    Images that are more than MAX_ASPECT_RATIO times as long as wide lose their ends first: memory stays bounded.
    """
    shorter_side = shorter_side or size
    if image.size == (size, size) and shorter_side == size:
        return image
    short, long = min(image.size), max(image.size)
    if long > MAX_ASPECT_RATIO * short:
        image = _center_crop(image, [min(side, MAX_ASPECT_RATIO * short) for side in image.size])
    sides = [shorter_side * side // short for side in image.size]
    return _center_crop(image.resize(sides, Image.Resampling.BILINEAR), (size, size))


def _center_crop(image, sides):
    left, top = (round((have - want) / 2) for have, want in zip(image.size, sides))
    return image.crop((left, top, left + sides[0], top + sides[1]))


def resize_arrays(images, size):
    """(n, H, W, C) uint8 → (n, size, size, C), each as resize_center_crop does it."""
    if images.shape[1:3] == (size, size):
        return images
    squeezed = images.squeeze(-1) if images.shape[-1] == 1 else images
    resized = [np.asarray(resize_center_crop(Image.fromarray(image), size)) for image in squeezed]
    return np.stack(resized).reshape(len(images), size, size, -1) if len(images) else np.zeros(
        (0, size, size, images.shape[-1]), np.uint8)
