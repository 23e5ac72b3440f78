"""From an image file to its crop: the work of the worker processes of FolderImages."""
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import horizontal_flip, pil_to_tensor, resized_crop

from data.decode import UnreadableImage, read_rgb, resize_center_crop
from data.sampling import stream_seed
from utils.io import UserError


class Crops(Dataset):
    """Key (image, member) → (crop (3, size, size) uint8, label, unreadable files [(file, error)], CMYK files, failure).

    The crop is None when a test image cannot be read. In training the next readable file takes its place. `failure` is
    the message of a UserError, or "": an error would come out of a worker process with a traceback.

    Args:
        files, labels: of every image.
        seed_and_epoch: for random crops, which are then a function of (seed, epoch, image, member) alone; None for the
            centre.
    """

    def __init__(self, files, labels, size, seed_and_epoch=None, flip=False):
        self.files, self.labels, self.size = files, labels, size
        self.seed_and_epoch, self.flip = seed_and_epoch, flip

    def __getitem__(self, key):
        index, member = key
        unreadable = []
        for step in range(len(self.files) if self.seed_and_epoch else 1):
            image = (index + step) % len(self.files)
            file = self.files[image]
            try:
                crop, mode = self.crop(file, image, member)
                return crop, self.labels[image], unreadable, [file] * (mode == "CMYK"), ""
            except (UnreadableImage, UserError) as error:
                if isinstance(error, UserError):
                    return None, self.labels[index], unreadable, [], str(error)
                unreadable.append((file, str(error)))
        return None, self.labels[index], unreadable, [], ""

    def crop(self, file, image, member):
        rgb, mode = read_rgb(file)
        if self.seed_and_epoch is None:
            return pil_to_tensor(resize_center_crop(rgb, self.size, int(self.size / 0.875))), mode
        seed, epoch = self.seed_and_epoch
        box, flipped = random_box(rgb, stream_seed(seed, "augment", epoch=epoch, member=member, image=1 + image),
                                  self.flip)
        rgb = resized_crop(rgb, *box, [self.size, self.size])  # bilinear
        return pil_to_tensor(horizontal_flip(rgb) if flipped else rgb), mode


def random_box(image, seed, flip):
    """((top, left, height, width), flipped?) as RandomResizedCrop and RandomHorizontalFlip draw them."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        box = v2.RandomResizedCrop.get_params(image, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
        return box, flip and bool(torch.rand(()) < 0.5)


def collate(samples):
    """Samples of one batch → (crops (B, 3, s, s), labels (B), unreadable files, CMYK files, failure)."""
    readable = [(crop, label) for crop, label, *_ in samples if crop is not None]
    crops = torch.stack([crop for crop, _ in readable]) if readable else torch.empty(0, dtype=torch.uint8)
    return (crops, torch.tensor([int(label) for _, label in readable], dtype=torch.int64),
            [entry for sample in samples for entry in sample[2]], [file for sample in samples for file in sample[3]],
            next((sample[4] for sample in samples if sample[4]), ""))


def collate_arrays(samples):
    """The same as NumPy arrays, which go from a worker through a pipe and need no shared memory."""
    crops, labels, *rest = collate(samples)
    return crops.numpy(), labels.numpy(), *rest
