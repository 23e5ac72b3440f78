"""Small claims about pictures: modes, limits, orientation, crops, and what the readers of files report."""
import contextlib
import errno
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from data import decode, image_folder
from data.image_crops import Crops, collate, collate_arrays, random_box
from data.image_folder import FolderImages
from data.sampling import stream_seed
from utils.io import UserError

CPU = torch.device("cpu")
STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
rng = np.random.default_rng(0)


def pixels(height=8, width=8):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gray(image, *format):
    return np.asarray(decode.to_rgb(image, *format))[0].tolist()


# ---- decoding ----

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


# ---- crops of files ----

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
    assert len(list(images._reported([batch, batch]))) == 2
    assert images.unreadable == {"a.png": "cut"} and images.cmyk == {"b.png"}
    assert capsys.readouterr().err == "skipped a.png: cut\n"
    with pytest.raises(UserError, match=r"^a.png cannot be read \(cut\). Replace it, or .*--on-bad-image skip"):
        list(folder()._reported([batch]))
    with pytest.raises(UserError, match="^no memory$"):
        list(folder(on_unreadable="skip")._reported([(*batch[:4], "no memory")]))
