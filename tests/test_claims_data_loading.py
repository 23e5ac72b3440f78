"""Small claims about batches: which images, in which order, cropped and flipped how, on which rank."""
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_openood import give

from data import loaders, sampling, transforms
from data.image_folder import FolderImages
from data.loaders import OutlierLoader, ResidentImages, TrainLoader, draw_crops
from data.splits import Split
from utils.io import write_text

CPU = torch.device("cpu")
HALF = (0.5,) * 3, (0.5,) * 3
rng = np.random.default_rng(0)


def resident(count=10, size=4, channels=1):
    return ResidentImages(rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8), np.arange(count), CPU,
                          size, HALF)


# ---- random streams ----

def test_every_part_of_an_address_is_another_stream():
    """Seed, name, epoch, member, rank, step and image in this order, as published runs were drawn."""
    place = {"epoch": 1, "member": 2, "rank": 3, "step": 4, "image": 5}
    expected = np.random.SeedSequence((2, 9, 1, 2, 3, 4, 5))
    assert sampling.stream_seed(9, "augment", **place) == expected.generate_state(1, np.uint64)[0]
    drawn = np.random.Generator(np.random.PCG64(expected)).random(3)
    assert np.array_equal(sampling.stream(9, "augment", **place).random(3), drawn)
    assert sampling.stream_seed(9, "init") == np.random.SeedSequence((0, 9, 0, 0, 0, 0, 0)).generate_state(1, np.uint64)
    assert sampling.STREAMS == ("init", "shuffle", "augment", "mix", "auxiliary", "outliers", "resume")


def test_an_epochs_order_is_drawn_from_its_own_stream():
    labels = torch.arange(10) % 5
    order = sampling.epoch_order(labels, 4, 3, members=2)
    for member in range(2):
        expected = sampling.stream(4, "shuffle", epoch=3, member=member).permutation(10)
        assert order[member].tolist() == expected.tolist()
    other = sampling.epoch_order(labels, 4, 3, name="outliers", step=2)
    assert other[0].tolist() == sampling.stream(4, "outliers", epoch=3, step=2).permutation(10).tolist()
    balanced = sampling.epoch_order(labels, 4, 3, 2, 4, 2)
    assert balanced.shape == (2, 8)
    second = sampling.class_balanced(labels, 4, 2, sampling.stream(4, "shuffle", epoch=3, member=1))
    assert torch.equal(balanced[1], second)


def test_class_balanced_batches_have_as_many_classes_as_fit():
    labels = torch.tensor([2, 0, 2, 4, 0, 2, 4, 2, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        order = sampling.class_balanced(labels, 4, 2, np.random.default_rng(0))
    assert order.shape == (8,) and order.dtype == torch.int64
    for batch in labels[order].view(2, 2, 2).tolist():
        assert all(a == b for a, b in batch) and batch[0][0] != batch[1][0]
    assert sampling.class_balanced(labels, 9, 3, np.random.default_rng(0)).shape == (9,), "all three classes"
    with pytest.raises(ValueError, match="^3 images per class do not fill a batch of 4$"):
        sampling.class_balanced(labels, 4, 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="^a batch of 8 with 2 images per class needs 4 classes, the set has 3$"):
        sampling.class_balanced(labels, 8, 2, np.random.default_rng(0))


def test_class_balanced_draws_follow_the_sizes_of_the_classes():
    labels = torch.cat([torch.zeros(300), torch.ones(100)]).long()
    order = torch.cat([sampling.class_balanced(labels, 2, 2, np.random.default_rng(seed)) for seed in range(10)])
    assert 0.7 < (labels[order] == 0).double().mean() < 0.8
    counts = order.bincount(minlength=400)
    assert float(counts[:300].double().mean()) == pytest.approx(float(counts[300:].double().mean()), rel=0.15)
    assert (counts > 0).sum() > 390, "every image may come"


@pytest.mark.parametrize("count, size, per_class, steps", [
    (10, 5, 0, 2), (11, 5, 0, 3), (9, 5, 0, 2), (9, 5, 1, 1), (10, 5, 1, 2), (4, 5, 1, 0), (0, 5, 0, 0)])
def test_steps_of_an_epoch(count, size, per_class, steps):
    assert sampling.steps_of(count, size, per_class) == steps
    assert sampling.steps_of(count, size) == -(-count // size)


def test_slices_begin_at_a_step_and_end_at_the_last_image():
    def slices(*words, **how):
        return [(s.start, s.stop) for s in sampling.batch_slices(*words, **how)]

    assert slices(10, 4) == [(0, 4), (4, 8), (8, 10)] and slices(8, 4) == [(0, 4), (4, 8)]
    assert slices(10, 4, 1) == [(4, 8), (8, 10)] and slices(10, 4, 3) == []
    assert slices(10, 4, shard=(1, 2)) == [(2, 4), (6, 8), (9, 10)]
    assert slices(12, 6, shard=(0, 2), unit=2) == [(0, 2), (6, 8)] and slices(12, 6, 0, (1, 2), 2) == [(2, 6), (8, 12)]
    assert sampling.rank_slice(5, (2, 3), 2) == slice(4, 5) and sampling.rank_slice(5, (0, 3), 2) == slice(0, 2)


# ---- ResidentImages ----

def test_crops_and_flips_are_drawn_in_this_order():
    generator = sampling.stream(6, "augment", epoch=2, member=1)
    corners, chances = generator.integers(0, 7, (2, 50)), generator.random(50)
    top, left, flipped = draw_crops(50, 6, 2, 1, 3, True)
    assert np.array_equal(top, corners[0]) and np.array_equal(left, corners[1])
    assert np.array_equal(flipped, chances < 0.5) and {0, 6} <= set(top.tolist())
    assert not draw_crops(50, 6, 2, 1, 3, False)[2].any() and not draw_crops(50, 6, 2, 1, 0, True)[0].any()


@pytest.mark.parametrize("padding, flip", [(2, True), (0, True), (None, False), (1, False)])
def test_augmented_batches_are_those_crops_of_those_images(padding, flip):
    images = resident(6, 4, 3)
    order = torch.tensor([[5, 0, 3], [1, 2, 4]])
    found = list(images.augmented(order, [slice(1, 3), slice(0, 1)], 8, 2, padding, flip))
    wide = torch.nn.functional.pad(images.images, ((padding or 0),) * 4)
    for (inputs, targets), places in zip(found, ((1, 2), (0,)), strict=True):
        for member in range(2):
            top, left, flipped = draw_crops(3, 8, 2, member, padding or 0, flip)
            for row, place in enumerate(places):
                image = wide[order[member, place], :, top[place] : top[place] + 4, left[place] : left[place] + 4]
                image = image.flip(2) if flipped[place] else image
                assert torch.allclose(inputs[member, row], (image / 255 - 0.5) / 0.5, atol=1e-6)
                assert targets[member, row] == order[member, place]
    (one, labels), = images.augmented(order[:1], [slice(0, 3)], 8, 2, padding, flip)
    assert one.shape == (3, 3, 4, 4) and labels.tolist() == [5, 0, 3]


@pytest.mark.parametrize("size, batches", [(28, [256, 44]), (29, [32] * 9 + [12])])
def test_a_cpu_tests_in_batches_that_its_caches_hold(size, batches):
    images = ResidentImages(np.zeros((300, size, size, 1), np.uint8), np.arange(300), CPU, size, HALF)
    assert [len(labels) for _, labels in images.eval_batches()] == batches
    assert [len(labels) for _, labels in images.eval_batches(200)] == [200, 100]
    parts = [torch.cat([labels for _, labels in images.eval_batches(None, (k, 7))]) for k in range(7)]
    assert torch.cat(parts).tolist() == list(range(300))


def test_some_of_the_images_are_what_they_were():
    whole = resident(10, 4, 3)
    list(whole.augmented(torch.arange(10)[None], [slice(0, 10)], 1, 1, 2, True))
    part = whole.subset([7, 2])
    assert len(part) == 2 and part.labels.tolist() == [7, 2] and torch.equal(part.images, whole.images[[7, 2]])
    (images, labels), = part.augmented(torch.tensor([[1, 0]]), [slice(0, 2)], 1, 1, 2, False)
    assert labels.tolist() == [2, 7] and len(images) == 2 and len(whole) == 10
    (images, _), = part.augmented(torch.tensor([[0, 1]]), [slice(0, 2)], 1, 1, 0, False)
    assert torch.allclose(images, next(part.eval_batches())[0])


def test_images_keep_a_copy_of_what_they_were_given():
    pixels, labels = np.full((2, 4, 4, 1), 255, np.uint8), np.array([1, 2], np.uint8)
    images = ResidentImages(pixels, labels, CPU, 4, HALF)
    labels[:] = 0
    assert images.labels.tolist() == [1, 2] and images.labels.dtype == torch.int64
    assert images.mean.shape == (1,) and images.images.shape == (2, 1, 4, 4)
    assert images.images.is_contiguous() and next(images.eval_batches())[0].unique().tolist() == [1]
    other = ResidentImages(pixels, labels, CPU, 2, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.4)))
    assert other.mean.shape == (3,) and other.images.shape == (2, 1, 2, 2)
    assert resident(2, 4, 3).mean.shape == (3,), "of images with colours"


def test_all_of_it_is_on_the_device():
    meta = torch.device("meta")
    images = ResidentImages(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), meta, 4, HALF)
    files = FolderImages(["a"], np.array([3], np.int8), meta, 4, HALF, workers=0)
    for tensor in (images.images, images.labels, images.mean, images.std, files.mean, files.std):
        assert tensor.device == meta
    assert files.labels.dtype == torch.int64 and files.labels.tolist() == [3]


def test_padding_is_black_and_none_costs_nothing():
    images = torch.full((1, 1, 2, 2), 9, dtype=torch.uint8)
    assert transforms.pad(images, 0) is images
    assert transforms.pad(images, 1)[0, 0].tolist() == [[0] * 4, [0, 9, 9, 0], [0, 9, 9, 0], [0] * 4]


# ---- loaders ----

class Asked:
    """Stands in for a set of images and notes what it is asked."""

    def __init__(self, count=10):
        self.labels, self.calls = torch.arange(count) % 2, []

    def __len__(self):
        return len(self.labels)

    def augmented(self, order, slices, *words):
        self.calls.append((order, slices := list(slices), words))
        for part in slices:
            yield order[:, part], None


def test_a_train_loader_asks_for_its_epoch():
    for per_class, unit in ((0, 1), (2, 2)):
        data = Asked()
        recipe = SimpleNamespace(batch_size=4, per_class=per_class, padding=3, flip="maybe")
        list(TrainLoader(data, recipe, 5, 2, (1, 2)).epoch(7, 1))
        (order, slices, words), = data.calls
        assert torch.equal(order, sampling.epoch_order(data.labels, 5, 7, 2, 4, per_class))
        assert slices == list(sampling.batch_slices(order.shape[1], 4, 1, (1, 2), unit)) and words == (5, 7, 3, "maybe")
        assert len(TrainLoader(data, recipe, 5)) == (2 if per_class else 3)
        assert list(TrainLoader(data, recipe, 5).epoch(7))[0][0].shape == (1, 4)


def test_an_outlier_loader_goes_on_in_a_new_pass():
    data = Asked(5)
    loader = OutlierLoader(data, 2, 6, (0, 2)).epoch(3, 4)
    for _ in range(3):
        next(loader)
    orders = [sampling.epoch_order(data.labels, 6, 3, name="outliers", step=step) for step in (1, 2)]
    assert [torch.equal(order, ours) for (order, _, _), ours in zip(data.calls, orders)] == [True, True]
    assert [slices for _, slices, _ in data.calls] == [list(sampling.batch_slices(5, 2, start, (0, 2)))
                                                       for start in (1, 0)]
    assert data.calls[0][2] == (6, 3, None, False)
    next(OutlierLoader(data, 2, 6).epoch(3))
    assert data.calls[-1][1] == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_a_set_is_opened_for_the_networks_that_ask(tmp_path):
    give(tmp_path, "svhn", labels=np.array([3, 1]))
    plain, other, own = (loaders.open_set("svhn", "test", tmp_path, CPU, *how) for how in (
        ("cifar10",), ("mnist",), ("mnist", ((0.1, 0.2, 0.3), (1, 2, 4)))))
    assert (plain.size, other.size) == (32, 28) and plain.labels.tolist() == [3, 1] and plain.unreadable == {}
    assert plain.mean.tolist() == pytest.approx([0.491, 0.482, 0.446])
    assert plain.std.tolist() == pytest.approx([0.247, 0.243, 0.261]) and other.std.tolist() == [0.5] * 3
    assert own.mean.tolist() == pytest.approx([0.1, 0.2, 0.3]) and own.std.tolist() == [1, 2, 4]


def test_networks_of_imagenets_kind_read_files(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "ninco/test" / name).parent.mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "ninco/test" / name)
    split = Split.open("ninco", "test", tmp_path, "imagenet1k")
    opened = loaders.open_split(split, CPU, workers=0, on_unreadable="skip")
    assert type(opened) is FolderImages and opened.files == split.files and opened.labels.tolist() == [0, 1]
    assert (opened.size, opened.classes, opened.workers, opened.on_unreadable) == (224, ["a", "b"], 0, "skip")
    assert opened.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert opened.std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert loaders.open_split(split, CPU, (split.labels, split.labels), workers=0).mean.tolist() == [0, 1]


# ---- a folder of OOD images ----

def test_any_folder_is_an_ood_set(tmp_path, capsys):
    from data.ood_folder import OODFolder
    from utils.io import UserError

    for k, name in enumerate(("Cat/2.png", "Cat/1.png", "dog/more/3.png", "bad.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (k, 0, 0)).save(tmp_path / "in" / name)
    (tmp_path / "in/bad.png").write_bytes(b"no image")
    (tmp_path / "in/.4.png").write_bytes(b"")
    split = OODFolder("mine", tmp_path / "in", "cifar10")
    assert capsys.readouterr().err == f"left out {tmp_path}/in/.4.png: hidden\n"
    assert split.names == ["Cat/1.png", "Cat/2.png", "bad.png", "dog/more/3.png"] and len(split) == 4
    assert split.files == [f"{tmp_path}/in/{name}" for name in split.names]
    assert (split.name, split.split, split.size, split.source) == ("mine", "test", 32, f"folder {tmp_path}/in")
    assert split.note == "its folders Cat, dog have names of classes of CIFAR-10" and split.class_names is None
    for _ in range(2):
        assert split.images[:, 0, 0, 0].tolist() == [1, 0, 2] and split.images.shape == (3, 32, 32, 3)
    assert list(split.unreadable) == [split.files[2]] and split.labels.tolist() == [0] * 4
    assert capsys.readouterr().err.count("skipped ") == 1 and not split.verified and split.origin_note == ""
    opened = loaders.open_split(split, CPU)
    assert len(opened) == 3 and opened.unreadable is split.unreadable and opened.labels.tolist() == [0] * 3
    assert OODFolder("mine", tmp_path / "in", "cifar10").digest == split.digest
    (tmp_path / "in/bad.png").write_bytes(b"no imagf")
    assert OODFolder("mine", tmp_path / "in", "cifar10").digest != split.digest
    assert split.digest.startswith("4 files, ") and OODFolder("mine", tmp_path / "in", "digits").note == ""
    for name in ("bird", "deer", "frog", "horse", "ship", "truck"):
        write_text(tmp_path / f"six/{name}/1.png", "no image")
    assert OODFolder("mine", tmp_path / "six", "cifar10").note == (
        "its folders bird, deer, frog, horse, ship … have names of classes of CIFAR-10")
    with pytest.raises(UserError, match="^none of the 6 images below .*six can be read$"):
        OODFolder("mine", tmp_path / "six", "cifar10").images.sum()
    (tmp_path / "empty").mkdir()
    for folder, said in (("empty", "the folder holds no images"), ("gone", "there is no such folder")):
        with pytest.raises(UserError, match=f"^--ood mine={tmp_path}/{folder}: {said}$"):
            OODFolder("mine", tmp_path / folder, "cifar10")
    with pytest.raises(UserError, match="the name svhn is already in use"):
        OODFolder("svhn", tmp_path / "in", "cifar10")
