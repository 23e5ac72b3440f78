"""From an image file to its crop: what FolderImages' workers do, and what they may leave to the device."""
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import center_crop, horizontal_flip, pil_to_tensor, resize, resized_crop

from data.sampling import stream_seed
from utils.io import UserError


class Crops(Dataset):
    """Key (image, member) → (crop (3, size, size) uint8, label, unreadable files [(file, error)], CMYK files).

    The crop is None when a test image cannot be read; in training the next readable file takes its place.

    Args:
        files, labels: of every image.
        chance: (seed, epoch) for random crops, which are then a function of (seed, epoch, image, member) alone; None
            for the centre.
        whole: decode and cut here; else the crop is a tuple (the file's bytes or its pixels, box, mirrored?) for
            `finished`.
    """

    def __init__(self, files, labels, size, chance=None, flip=False, whole=True):
        self.files, self.labels, self.size = files, labels, size
        self.chance, self.flip, self.whole = chance, flip, whole

    def __getitem__(self, key):
        index, member = key
        bad = []
        for step in range(len(self.files) if self.chance else 1):
            at = (index + step) % len(self.files)
            file = self.files[at]
            try:
                seed = None
                if self.chance:
                    seed = stream_seed(self.chance[0], "augment", epoch=self.chance[1], member=member, image=1 + at)
                crop, mode = self.crop(file, seed)
                return crop, self.labels[at], bad, [file] * (mode == "CMYK")
            except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
                bad.append((file, str(error) or type(error).__name__))
        return None, self.labels[index], bad, []

    def crop(self, file, seed):
        with Image.open(file) as image:
            box, mirrored = random_box(image, seed, self.flip) if self.chance else (None, False)
            mode = image.mode
            if not self.whole and image.format == "JPEG" and mode in ("RGB", "L"):
                with open(file, "rb") as content:
                    encoded = bytearray(content.read())
                if encoded.endswith(b"\xff\xd9"):  # else it may be cut: Pillow will know
                    return (torch.frombuffer(encoded, dtype=torch.uint8), box, mirrored), mode
            image = image.convert("RGB")
            if not self.whole:
                return (pil_to_tensor(image), box, mirrored), mode
            return pil_to_tensor(cut(image, box, self.size, mirrored)), mode


def random_box(image, seed, flip):
    """((top, left, height, width), mirrored?) as RandomResizedCrop and RandomHorizontalFlip draw them."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        box = v2.RandomResizedCrop.get_params(image, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
        return box, flip and bool(torch.rand(()) < 0.5)


def cut(image, box, size, mirrored):
    """A size × size crop of an image or tensor, bilinear and antialiased; box None: resize to size/0.875, centre."""
    if box is None:
        return center_crop(resize(image, [int(size / 0.875)]), [size])
    image = resized_crop(image, *box, [size, size])
    return horizontal_flip(image) if mirrored else image


def finished(parts, size, device):
    """[(bytes or pixels, box, mirrored?)] → (B, 3, size, size) uint8 on the device; on a GPU nvJPEG decodes."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg  # here, because torchvision announces to drop them
    except ImportError as error:
        raise UserError("this torchvision cannot decode JPEGs any more: --decode cpu") from error
    encoded = [k for k, (content, *_) in enumerate(parts) if content.dim() == 1]
    try:
        decoded = decode_jpeg([parts[k][0] for k in encoded], ImageReadMode.RGB, device=device) if encoded else []
    except RuntimeError as error:
        raise UserError(f"a file of this batch cannot be decoded on the device ({error}). "
                        "--decode cpu names it, or skips it") from error
    pixels = dict(zip(encoded, decoded))
    return torch.stack([cut(pixels[k] if k in pixels else content.to(device), box, size, mirrored)
                        for k, (content, box, mirrored) in enumerate(parts)])


def as_tensors(samples):
    """Samples of one batch → (crops (B, 3, s, s), labels (B), unreadable files, CMYK files), the readable ones only."""
    crops, labels, bad, converted = as_lists(samples)
    return torch.stack(crops) if crops else torch.empty(0), labels, bad, converted


def as_lists(samples):
    """The same with the crops as a list."""
    readable = [(crop, label) for crop, label, _, _ in samples if crop is not None]
    return ([crop for crop, _ in readable], torch.tensor([int(label) for _, label in readable]),
            [entry for sample in samples for entry in sample[2]], [file for sample in samples for file in sample[3]])
