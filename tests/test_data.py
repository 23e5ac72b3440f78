"""Loading: the same crops that torchvision would make, every image once, missing and damaged files."""
import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import train_batches
from PIL import Image
from torchvision.transforms import v2

from data import decode, loaders, splits, transforms
from data.datasets import CATALOG
from utils.io import UserError, atomic_write

CPU = torch.device("cpu")


# ---- the embedded benchmark ----

def test_digits_are_real_disjoint_and_as_the_catalog_says(data_dir):
    for name in ("digits", "digits_789", "photo_patches"):
        for split, expected in CATALOG[name].counts.items():
            images, labels = splits.read_split(name, split, data_dir)
            assert len(images) == len(labels) == expected and images.shape[1:3] == (28, 28)
            assert sorted(set(labels)) == list(range(CATALOG[name].classes))
    train, test = (splits.read_split("digits", split, data_dir)[0] for split in ("train", "test"))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}
    assert train.max() == 255 and train.min() == 0


# ---- loading ----

def test_missing_and_damaged_sets_say_what_to_type(tmp_path, data_dir):
    with pytest.raises(UserError, match="python data/prepare.py svhn"):
        loaders.open_set("svhn", "test", tmp_path, CPU)
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    path = tmp_path / "digits" / "test.npz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="test.npz is damaged .* --fresh"):
        loaders.open_set("digits", "test", tmp_path, CPU)
    content = bytearray((data_dir / "digits" / "test.npz").read_bytes())
    content[5000] ^= 1  # one flipped bit
    path.write_bytes(content)
    with pytest.raises(UserError, match="test.npz is damaged"):
        loaders.open_set("digits", "test", tmp_path, CPU)


@pytest.mark.parametrize("padding, flip", [(4, True), (2, False), (0, False)])
def test_crop_and_flip_equal_torchvisions(padding, flip):
    """The one gather against pad, crop and hflip of torchvision, image by image, with the same offsets."""
    functional = v2.functional
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    index = torch.randint(0, 10, (50,))
    top, left = torch.randint(0, 2 * padding + 1, (2, 50))
    flipped = torch.rand(50) < 0.5
    ours = transforms.crop(transforms.pad(images, padding), index, top, left, 32)
    ours = transforms.flip(ours, flipped) if flip else ours
    for k in range(50):
        expected = functional.crop(functional.pad(images[index[k]], [padding] * 4), int(top[k]), int(left[k]), 32, 32)
        expected = functional.horizontal_flip(expected) if flip and flipped[k] else expected
        assert torch.equal(ours[k], expected)


def test_normalisation_equals_torchvisions():
    gray = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    mean, std = (0.491, 0.482, 0.446), (0.247, 0.243, 0.261)
    ours = transforms.normalise(gray, torch.tensor(mean), torch.tensor(std))
    theirs = v2.functional.normalize(gray.expand(5, 3, 28, 28) / 255, mean, std)
    assert ours.shape == (5, 3, 28, 28) and torch.allclose(ours, theirs, atol=1e-5)


def test_gray_images_with_one_mean_and_std_stay_one_channel_in_memory():
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    for mean, std, stride in (((0.5,) * 3, (0.5,) * 3, 0), ((0.5, 0.4, 0.5), (0.5,) * 3, 28 * 28)):
        (shown, _), = loaders.ResidentImages(images, np.zeros(5, int), CPU, 28, (mean, std)).eval_batches()
        expected = transforms.normalise(torch.from_numpy(images).permute(0, 3, 1, 2), *map(torch.tensor, (mean, std)))
        assert shown.shape == (5, 3, 28, 28) and shown.stride(1) == stride and torch.equal(shown, expected)


def test_ood_images_are_resized_as_torchvision_resizes_images():
    transform = v2.Compose([v2.Resize(28), v2.CenterCrop(28)])
    for shape in ((32, 32, 3), (64, 40, 3), (20, 20, 1)):
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        expected = np.asarray(transform(Image.fromarray(image.squeeze()))).reshape(28, 28, -1)
        assert np.array_equal(decode.resize_arrays(image[None], 28)[0], expected), shape


def test_an_epoch_is_every_image_once_and_a_function_of_seed_and_epoch(data_dir):
    digits = loaders.open_set("digits", "train", data_dir, CPU)
    def epoch(seed, number, start=0):
        return list(train_batches(digits, 64, seed, number, 2, False, start))

    first = epoch(1, 1)
    assert [len(t) for _, t in first] == [64] * 13 + [13], "the last batch is kept"
    assert torch.equal(torch.cat([t for _, t in first]).bincount(), digits.labels.bincount())
    assert all(torch.equal(a, b) for x, y in zip(first, epoch(1, 1)) for a, b in zip(x, y))
    assert not torch.equal(first[0][0], epoch(1, 2)[0][0]) and not torch.equal(first[0][0], epoch(2, 1)[0][0])
    assert all(torch.equal(a, b) for x, y in zip(first[5:], epoch(1, 1, start=5)) for a, b in zip(x, y))
    in_order = torch.cat([x for x, _ in digits.eval_batches(100)])
    assert torch.equal(in_order, transforms.normalise(digits.images, digits.mean, digits.std)), "in order, untouched"


def test_padding_may_change_between_epochs(data_dir):
    """What was padded for an earlier epoch is not cropped in a later one."""
    digits = loaders.open_set("digits", "train", data_dir, CPU)
    batches = []
    for padding in (0, 3, 1):
        (batch, _), (alone, _) = (next(train_batches(images, 16, 1, 1, padding, True)) for images in (
            digits, loaders.open_set("digits", "train", data_dir, CPU)))
        assert torch.equal(batch, alone)
        batches.append(batch)
    assert not torch.equal(batches[0], batches[1]) and not torch.equal(batches[1], batches[2])


@dataclass
class Settings:
    """What TrainLoader needs of a recipe."""

    batch_size: int = 64
    padding: int = 2
    flip: bool = True
    per_class: int = 0


def same_batches(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) for x, y in zip(ours, theirs) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("members, per_class, rank", [(1, 0, (0, 1)), (3, 0, (1, 2)), (1, 16, (2, 3)), (2, 16, (0, 1))])
def test_a_train_loader_gives_the_batches_of_its_epoch(data_dir, members, per_class, rank):
    digits = loaders.open_set("digits", "train", data_dir, CPU)
    loader = loaders.TrainLoader(digits, Settings(per_class=per_class), 5, members, rank)
    assert len(loader) == len(list(loader.epoch(2))) == (13 if per_class else 14)
    assert same_batches(loader.epoch(2, 3), list(loader.epoch(2))[3:])
    assert not same_batches(loader.epoch(2), loader.epoch(3))


def test_ranks_share_every_batch_and_each_image_once(data_dir):
    digits = loaders.open_set("digits", "train", data_dir, CPU)
    whole = list(loaders.TrainLoader(digits, Settings(), 1).epoch(1))
    parts = [list(loaders.TrainLoader(digits, Settings(), 1, rank=(k, 5)).epoch(1)) for k in range(5)]
    for batch, *ranks in zip(whole, *parts, strict=True):
        assert torch.equal(batch[0], torch.cat([images for images, _ in ranks]))
        assert torch.equal(batch[1], torch.cat([labels for _, labels in ranks]))


def test_outliers_come_in_a_new_order_at_each_pass_and_go_on_where_they_were(data_dir):
    patches = loaders.open_set("photo_patches", "test", data_dir, CPU, "digits")  # 660 images: 3 batches a pass
    loader = loaders.OutlierLoader(patches, 256, 1)
    first = list(itertools.islice(loader.epoch(4), 7))
    assert [len(images) for images in first] == [256, 256, 148, 256, 256, 148, 256]
    everything = transforms.normalise(patches.images, patches.mean, patches.std)
    for start in (0, 3):
        one_pass = torch.cat(first[start : start + 3])
        assert torch.equal(one_pass.sum((1, 2, 3)).sort().values, everything.sum((1, 2, 3)).sort().values), "each once"
    assert not torch.equal(first[0], first[3]) and not torch.equal(first[0], next(loader.epoch(5)))
    assert all(torch.equal(a, b) for a, b in zip(first[4:], loader.epoch(4, start=4)))


# ---- whole or absent ----

def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "file"
    with atomic_write(path) as file:
        file.write(b"first")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"second, cut sh")
        raise RuntimeError("the process has other worries")
    assert path.read_bytes() == b"first" and [p.name for p in path.parent.iterdir()] == ["file"]
    killed = subprocess.Popen(["true"])
    killed.wait()
    (path.parent / f"file.{killed.pid}.part").write_bytes(b"of a process that was killed")
    (path.parent / f"file.{os.getppid()}.part").write_bytes(b"of a process that is alive")
    with atomic_write(path) as file:
        file.write(b"third")
    assert sorted(p.name for p in path.parent.iterdir()) == ["file", f"file.{os.getppid()}.part"]


@pytest.mark.parametrize("host", ["node7", "node7.cluster.org", "node_7", "a/b"])
def test_what_a_killed_writer_left_is_removed_on_its_host_only(tmp_path, monkeypatch, host):
    killed = subprocess.Popen(["true"])
    killed.wait()
    left = []
    for name in ("elsewhere", host):
        monkeypatch.setattr("socket.gethostname", lambda name=name: name)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: killed.pid)
            left.append(atomic_write(tmp_path / "file"))
            left[-1].__enter__()  # and never leaves
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"file.elsewhere.{killed.pid}.part"]
