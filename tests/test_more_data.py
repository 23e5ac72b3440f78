"""Sets and splits at the places where one image more or less would go unnoticed."""
import gzip
import hashlib

import numpy as np
import pytest

from data import openood
from data.sources import formats
from engine.inference import Outputs


@pytest.mark.parametrize("dataset", ["imagenet1k", "imagenet200"])
def test_imagenets_textures_are_5160_of_the_5640(tmp_path, dataset):
    """Of DTD's 47 classes with 120 images each, four show what ImageNet has classes of; OpenOOD tests on the others."""
    overlapping = ("bubbly", "cobwebbed", "honeycombed", "spiralled")
    classes = [*overlapping, *(f"texture{k:02}" for k in range(43))]
    for name in classes:
        (tmp_path / "textures/test" / name).mkdir(parents=True)
        for k in range(120):
            (tmp_path / "textures/test" / name / f"{name}_{k:04}.jpg").touch()
    for name in ("n01443537", "n01484850"):  # of ImageNet-200, too
        for split in ("train", "val"):
            (tmp_path / "imagenet1k" / split / name).mkdir(parents=True)
            (tmp_path / "imagenet1k" / split / name / "ILSVRC2012_val_00000001.JPEG").touch()
    part, = openood.benchmark(dataset, tmp_path).groups["far"]
    assert (part.name, part.expected, len(part)) == ("textures", 5_160, 5_160)
    kept = {sorted(classes)[k // 120] for k in part.index["test"]}
    assert kept == set(classes) - set(overlapping)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 100])
def test_positions_beyond_the_end_of_a_shortened_set_are_left_out(count):
    """The position that equals the length is one beyond the end, too."""
    positions = np.array([0, 2, 4, 5])
    outputs = Outputs(np.zeros((2, count, 3), np.float32), np.zeros(count, np.int64), np.arange(count))
    assert outputs.rows(positions).tolist() == [k for k in (0, 2, 4, 5) if k in range(count)]
    outputs.logits[:, outputs.rows(positions)]  # and can be looked up


def test_a_file_that_was_packed_again_is_known_by_what_it_holds(tmp_path):
    content = bytes(range(256)) * 8_000  # more than is read at once
    for level in (1, 9):
        (tmp_path / "file.gz").write_bytes(gzip.compress(content, level))
        assert formats.md5_of_unpacked(tmp_path / "file.gz") == hashlib.md5(content).hexdigest()
    (tmp_path / "file.gz").write_bytes(content)
    assert formats.md5_of_unpacked(tmp_path / "file.gz") == "", "it is not packed"
