"""Small claims about crops of image files, and what the readers of files report."""
import errno
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from claims_data import STATISTICS, encoded, pixels
from torchvision.transforms import v2

from data import decode, image_folder
from data.image_crops import Crops, collate, collate_arrays, random_box
from data.image_folder import FolderImages
from data.sampling import stream_seed
from utils.io import UserError

CPU = torch.device("cpu")


@pytest.fixture
def files(tmp_path):
    """Five files: CMYK, two broken ones, two good ones."""
    for k, content in enumerate((encoded(pixels(40, 50).convert("CMYK"), "JPEG"), b"", b"no", encoded(pixels(48, 40)),
                                 encoded(pixels(40, 40)))):
        (tmp_path / f"{k}.png").write_bytes(content)
    return [str(tmp_path / f"{k}.png") for k in range(5)]


def test_a_random_crop_is_a_function_of_seed_epoch_member_and_image(files):
    image = decode.read_rgb(files[3])[0]
    state = torch.get_rng_state()
    crop, label, unreadable, cmyk, failure = Crops(files, [5, 6, 7, 8, 9], 16, (3, 2), True)[1, 4]
    assert torch.equal(torch.get_rng_state(), state)
    assert label == 8 and [file for file, _ in unreadable] == files[1:3] and cmyk == [] and failure == ""
    torch.manual_seed(stream_seed(3, "augment", epoch=2, member=4, image=4))
    box = v2.RandomResizedCrop.get_params(image, scale=(0.08, 1.0), ratio=(0.75, 4 / 3))
    expected = v2.functional.resized_crop(image, *box, [16, 16])
    expected = v2.functional.horizontal_flip(expected) if torch.rand(()) < 0.5 else expected
    assert torch.equal(crop, v2.functional.pil_to_tensor(expected))


def test_flips_are_drawn_half_of_the_time_and_only_when_they_are_wanted():
    image = pixels(40, 50)
    drawn = [random_box(image, seed, True) for seed in range(400)]
    assert 160 < sum(flipped for _, flipped in drawn) < 240 and {flipped for _, flipped in drawn} == {True, False}
    assert not any(random_box(image, seed, False)[1] for seed in range(40))
    assert [random_box(image, seed, False)[0] for seed in range(5)] == [box for box, _ in drawn[:5]]


def test_training_takes_the_next_readable_file_and_testing_none(files):
    labels = [5, 6, 7, 8, 9]
    crop, label, unreadable, cmyk, failure = Crops(files, labels, 14)[1, 0]
    assert crop is None and label == 6 and len(unreadable) == 1 and unreadable[0][0] == files[1] and failure == ""
    crop, label, _, cmyk, _ = Crops(files, labels, 14)[0, 0]
    expected = decode.resize_center_crop(decode.read_rgb(files[0])[0], 14, 16)
    assert torch.equal(crop, v2.functional.pil_to_tensor(expected)) and (label, cmyk) == (5, files[:1])
    broken_last = [*files[3:], *files[1:3]]
    assert Crops(broken_last, [1, 2, 3, 4], 14, (1, 1))[2, 0][1] == 1, "the first comes after the last"
    crop, label, unreadable, _, _ = Crops(files[1:3], [3, 4], 14, (1, 1))[1, 0]
    assert crop is None and label == 4 and [file for file, _ in unreadable] == [files[2], files[1]]


def test_a_failure_of_the_system_is_handed_on(files, monkeypatch):
    def fail(source):
        raise UserError("no files left")

    monkeypatch.setattr("data.image_crops.read_rgb", fail)
    assert Crops(files, [5, 6, 7, 8, 9], 14, (1, 1))[2, 0] == (None, 7, [], [], "no files left")


def test_a_batch_is_what_could_be_read():
    crops = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    samples = [(crops[0], 4, [("a", "why")], [], ""), (None, 5, [("b", "so")], [], "first"),
               (crops[1], np.int64(6), [], ["c"], "second")]
    images, labels, unreadable, cmyk, failure = collate(samples)
    assert torch.equal(images, crops) and labels.tolist() == [4, 6] and labels.dtype == torch.int64
    assert (unreadable, cmyk, failure) == ([("a", "why"), ("b", "so")], ["c"], "first")
    arrays = collate_arrays(samples)
    assert np.array_equal(arrays[0], crops) and arrays[1].tolist() == [4, 6]
    assert arrays[2:] == (unreadable, cmyk, failure)
    images, labels, _, _, failure = collate([(None, 1, [], [], "")])
    assert images.shape == (0,) and images.dtype == torch.uint8 and len(labels) == 0 and failure == ""


# ---- FolderImages ----

def test_files_come_out_as_their_normalised_crops(files):
    images = FolderImages([files[4], files[3]], [7, 5], CPU, 14, STATISTICS, workers=0)
    (batch, labels), = images.eval_batches()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in STATISTICS)
    for shown, file in zip(batch, images.files, strict=True):
        crop = v2.functional.pil_to_tensor(decode.resize_center_crop(decode.read_rgb(file)[0], 14, 16))
        assert torch.allclose(shown, (crop / 255 - mean) / std, atol=1e-5)
    assert labels.tolist() == [7, 5]
    (batch, labels), = images.augmented(torch.tensor([[1, 0]]), [slice(0, 2)], 3, 2, 0, True)
    crop = Crops(images.files, [7, 5], 14, (3, 2), True)[1, 0][0]
    assert torch.allclose(batch[0], (crop / 255 - mean) / std, atol=1e-5) and labels.tolist() == [5, 7]


def folder(count=5, **options):
    return FolderImages([f"{k}.png" for k in range(count)], list(range(count)), CPU, 16, STATISTICS, **options)


def test_some_of_the_images(monkeypatch):
    whole = folder(workers=0)
    part = whole.subset([3, 1])
    assert part.files == ["3.png", "1.png"] and part.labels.tolist() == [3, 1] and len(part) == 2
    assert len(whole) == 5 and part.size == 16 and whole.subset(torch.tensor([4])).labels.tolist() == [4]


@pytest.mark.parametrize("cores, given, used", [(15, None, 15), (16, None, 16), (17, None, 16), (8, 0, 0), (8, 3, 3)])
def test_there_are_as_many_workers_as_cores_and_at_most_16(monkeypatch, cores, given, used):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert folder(workers=given).workers == used


@pytest.fixture
def asked(monkeypatch):
    """What FolderImages reads: [(Crops, batches)]; each batch comes as its keys."""
    seen = []

    def batches(self, crops, keys):
        seen.append((crops, list(keys)))
        for batch in seen[-1][1]:
            yield torch.tensor([image for image, _ in batch]), torch.tensor([member for _, member in batch])

    monkeypatch.setattr(FolderImages, "_batches", batches)
    return seen


def test_testing_goes_through_each_ranks_part_in_order(asked):
    list(folder(600).eval_batches())
    list(folder(10).eval_batches(2, (1, 3)))
    assert [len(batch) for batch in asked[0][1]] == [250, 250, 100]
    assert [image for batch in asked[0][1] for image, _ in batch] == list(range(600))
    assert asked[1][1] == [[(3, 0), (4, 0)], [(5, 0)]] and asked[1][0].seed_and_epoch is None


def test_training_gives_each_member_its_own_images(asked):
    order = torch.tensor([[0, 1, 2], [2, 0, 1]])
    found = list(folder().augmented(order, [slice(0, 2), slice(2, 3)], 7, 3, 0, True))
    assert asked[0][1] == [[(0, 0), (1, 0), (2, 1), (0, 1)], [(2, 0), (1, 1)]]
    assert found[0][0].tolist() == [[0, 1], [2, 0]] and found[1][1].tolist() == [[0], [1]]
    assert asked[0][0].seed_and_epoch == (7, 3) and asked[0][0].flip is True
    (images, _), = folder().augmented(order[:1], [slice(0, 3)], 7, 3, None, True)
    assert images.tolist() == [0, 1, 2] and asked[1][0].seed_and_epoch is None


@pytest.mark.parametrize("spare, fits", [(0, False), (1, True), (None, True)])
def test_shared_memory_must_hold_twice_what_the_workers_prefetch(monkeypatch, spare, fits):
    needed = 3 * 4 * 7 * 3 * 16**2
    monkeypatch.setattr(image_folder, "shared_memory_left", lambda: None if spare is None else 2 * needed + spare)
    assert folder(workers=3)._fits_shared_memory(7) == fits


def test_what_is_left_of_shared_memory(monkeypatch):
    monkeypatch.setattr("os.statvfs", lambda path: SimpleNamespace(f_bavail=3, f_frsize=5, path=path))
    assert image_folder.shared_memory_left() == 15

    def fail(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr("os.statvfs", fail)
    assert image_folder.shared_memory_left() is None
    monkeypatch.delattr("os.statvfs")
    assert image_folder.shared_memory_left() is None


@pytest.mark.parametrize("error, kind, said", [
    (RuntimeError("DataLoader worker (pid 7) was killed\nmore"), UserError, r"failed .DataLoader worker .pid 7. was "
     r"killed.\. Memory or /dev/shm may be too small: use fewer --workers, or --workers 0"),
    (OSError(errno.EIO, "lost"), UserError, "a process that reads images failed"),
    (OSError(errno.EMFILE, "too many"), UserError, "could not read the images: too many"),
    (RuntimeError("a mistake of ours"), RuntimeError, "a mistake of ours")])
def test_errors_of_the_workers_are_sentences(error, kind, said):
    def batches():
        yield 1
        raise error

    loader = image_folder.worker_errors_explained(batches())
    assert next(loader) == 1
    with pytest.raises(kind, match=said):
        next(loader)


def test_what_the_workers_report_is_noted_once(capsys):
    batch = torch.zeros(1), torch.zeros(1), [("a.png", "cut")], ["b.png"], ""
    images = folder(on_unreadable="skip")
    for said in ("skipped a.png: cut\n", ""):
        assert len(list(images._reported([batch]))) == 1 and capsys.readouterr().err == said
        assert images.unreadable == {"a.png": "cut"} and images.cmyk == {"b.png"}
    with pytest.raises(UserError, match=r"^a.png cannot be read \(cut\). Replace it, or .*--on-bad-image skip"):
        list(folder()._reported([batch]))
    with pytest.raises(UserError, match="^no memory$"):
        list(folder(on_unreadable="skip")._reported([(*batch[:4], "no memory")]))
