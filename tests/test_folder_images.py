"""ImageNet's files, as users keep them and as they sometimes are: read, numbered, cropped, named when broken."""
import csv
import dataclasses
import json
from hashlib import md5

import numpy as np
import pytest
import torch
from conftest import run_like, script, train_batches
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.transforms import v2

from data import loaders
from data.datasets import IMAGENET200, sets_of
from data.image_files import class_level, labelled_files
from data.image_folder import FolderImages
from data.splits import Split
from engine.inference import LogitsCache
from utils.io import UserError

CPU = torch.device("cpu")
STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(k, mode="RGB", size=(200, 150)):
    left, top = 40 * k, 20 * k
    picture = Image.fromarray(load_sample_images().images[k % 2])
    return picture.crop((left, top, left + size[0], top + size[1])).convert(mode)


def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=95)


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """$IMAGENET_DIR/{train,val}/<wnid>/<name>.JPEG: three classes, grey and CMYK among the files."""
    root = tmp_path / "imagenet"
    for split in ("train", "val"):
        for k, mode in enumerate(("RGB", "L", "CMYK")):
            save(photo(k, mode, (200, 150) if mode != "L" else (80, 300)), root / split / f"n{k:08}" / "x.JPEG")
    monkeypatch.setenv("IMAGENET_DIR", str(root))
    return root


def folder_images(root, **options):
    files, labels, _ = labelled_files(root)
    return FolderImages(files, labels, CPU, 224, STATISTICS, **{"workers": 0, **options})


# ---- which file is which class ----

def test_class_folders(imagenet, tmp_path):
    train = loaders.open_set("imagenet1k", "train", tmp_path, CPU, workers=2)
    batches = list(train_batches(train, 2, 1, 1, 0, True))
    assert [tuple(x.shape) for x, _ in batches] == [(2, 3, 224, 224), (1, 3, 224, 224)]
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == [0, 1, 2]
    test = loaders.open_set("imagenet1k", "test", tmp_path, CPU)
    (images, labels), = test.eval_batches()
    assert images.shape == (3, 3, 224, 224) and labels.tolist() == [0, 1, 2] and images.isfinite().all()
    assert Split.open("imagenet1k", "test", tmp_path).digest.startswith("3 files in 3 folders, names ")
    assert [name.rsplit("/")[-2] for name in test.cmyk] == ["n00000002"], "CMYK files are counted"


def test_a_test_folder_with_fewer_classes_keeps_the_training_numbers(imagenet, tmp_path):
    (imagenet / "val/n00000000/x.JPEG").unlink()
    (imagenet / "val/n00000000").rmdir()
    assert loaders.open_set("imagenet1k", "test", tmp_path, CPU).labels.tolist() == [1, 2]
    save(photo(0), imagenet / "val/n99999999/x.JPEG")
    with pytest.raises(UserError, match="1 classes that the training folder does not have, for instance n99999999"):
        loaders.open_set("imagenet1k", "test", tmp_path, CPU)


@pytest.mark.parametrize("name, split", [("imagenet1k", "train"), ("imagenet1k", "test"), ("imagenet800", "train")])
def test_a_folder_of_another_kind_among_imagenets_classes_is_refused(imagenet, tmp_path, name, split):
    """With it and without one class there are a thousand, as there should be, and most have a wrong number."""
    save(photo(0), imagenet / "train/holiday/x.JPEG")
    with pytest.raises(UserError, match="holiday, which is no class of ImageNet, among 4 classes"):
        loaders.open_set(name, split, tmp_path, CPU, id_dataset="imagenet200" if name == "imagenet800" else None)


def write_kaggle(root, wnids):
    rows = "".join(f"ILSVRC2012_val_{k + 1:08},{wnid} 1 2 3 4\n" for k, wnid in enumerate(wnids))
    (root.parent / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows)


def write_numbers(root, wnids):
    (root / "val.txt").write_text("".join(
        f"ILSVRC2012_val_{k + 1:08}.JPEG {sorted(set(wnids)).index(wnid)}\n" for k, wnid in enumerate(wnids)))


def write_names(root, wnids):
    (root / "val_map.txt").write_text("".join(
        f"ILSVRC2012_val_{k + 1:08}.JPEG {wnid}\n" for k, wnid in enumerate(wnids)))


def write_in_order(root, wnids):
    (root.parent / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(wnids) + "\n")


def write_devkit(root, wnids):
    """Its numbers are not the sorted ones: meta.mat says which wnid each is."""
    folder = root.parent / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    numbered = sorted(set(wnids), reverse=True)
    meta = np.array([(k + 1, wnid) for k, wnid in enumerate(numbered)], dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O")])
    savemat(folder / "meta.mat", {"synsets": meta})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "".join(f"{numbered.index(wnid) + 1}\n" for wnid in wnids))


@pytest.mark.parametrize("write", [write_kaggle, write_numbers, write_names, write_in_order, write_devkit])
def test_a_flat_folder_with_its_labels_is_read_where_it_lies(tmp_path, write):
    root, wnids = tmp_path / "val", ["n02", "n01", "n03", "n01"]
    for k in range(4):
        save(photo(k), root / f"ILSVRC2012_val_{k + 1:08}.JPEG")
    before = sorted(root.iterdir())
    write(root, wnids)
    files, labels, classes = labelled_files(root, ["n01", "n02", "n03"])
    assert labels == [1, 0, 2, 0] and classes == ["n01", "n02", "n03"]
    assert [file[-6] for file in files] == ["1", "2", "3", "4"]
    assert set(before) <= set(root.iterdir())


def test_labels_that_are_missing_or_unclear_are_refused(tmp_path):
    root = tmp_path / "val"
    with pytest.raises(UserError, match="no class folders with images.*Get it"):
        labelled_files(root, advice="Get it so.")
    for k in range(3):
        save(photo(k), root / f"ILSVRC2012_val_{k + 1:08}.JPEG")
    with pytest.raises(UserError, match="3 images without class folders: put a file of labels"):
        labelled_files(root)
    (root / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 0\n")
    with pytest.raises(UserError, match="numbers its classes, but there is no training folder"):
        labelled_files(root)
    with pytest.raises(UserError, match="has no label for 2 of the 3 images"):
        labelled_files(root, ["a", "b"])
    (root / "val.txt").rename(root / "synset_labels.txt")
    with pytest.raises(UserError, match="has 1 lines, and there is an image number 3: they do not belong together"):
        labelled_files(root, ["a", "b"])


# ---- crops ----

def test_crops_are_torchvisions_and_depend_on_seed_epoch_and_image_alone(imagenet):
    data = folder_images(imagenet / "train")
    def epoch(data, seed=1, number=1, **how):
        return dict(zip(*(torch.cat(parts) for parts in zip(
            *((y, x) for x, y in train_batches(data, 2, seed, number, 0, True, **how)))), strict=True))

    def same(a, b):
        return all(torch.equal(a[k], b[k]) for k in a)

    images = {int(k): x for k, x in epoch(data).items()}
    assert same(images, {int(k): x for k, x in epoch(folder_images(imagenet / "train", workers=2)).items()})
    assert not torch.equal(images[0], {int(k): x for k, x in epoch(data, number=2).items()}[0])
    assert not torch.equal(images[0], {int(k): x for k, x in epoch(data, seed=2).items()}[0])
    test = next(data.eval_batches())[0]
    expected = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
                           v2.Normalize(*STATISTICS)])
    for image, file in zip(test, data.files):
        assert torch.allclose(image, expected(Image.open(file).convert("RGB")), atol=1e-5)


def test_each_member_has_its_own_order_and_crops(imagenet):
    data = folder_images(imagenet / "train")
    (images, labels), = train_batches(data, 3, 1, 1, 0, True, members=4)
    assert images.shape == (4, 3, 3, 224, 224) and labels.shape == (4, 3)
    assert labels.sort(1).values.tolist() == [[0, 1, 2]] * 4
    of_class_0 = [images[n][labels[n] == 0] for n in range(4)]
    assert not any(torch.equal(of_class_0[0], other) for other in of_class_0[1:])


# ---- broken files ----

@pytest.fixture
def broken(imagenet):
    """A cut JPEG, an empty file and a text, in a folder of six."""
    content = (imagenet / "train/n00000000/x.JPEG").read_bytes()
    for name, part in (("cut", content[:2000]), ("empty", b""), ("text", b"<html>404</html>")):
        (imagenet / f"train/n00000000/{name}.JPEG").write_bytes(part)
    return imagenet / "train"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_stops_with_its_name(broken, workers):
    with pytest.raises(UserError, match=r"n00000000/(cut|empty|text).JPEG cannot be read.*--on-bad-image skip"):
        list(train_batches(folder_images(broken, workers=workers), 2, 1, 1, 0, True))
    with pytest.raises(UserError, match="cannot be read"):
        list(folder_images(broken, workers=workers).eval_batches())


def test_or_is_skipped_named_and_counted(broken, capsys):
    data = folder_images(broken, on_unreadable="skip", workers=2)
    for epoch in (1, 2):
        assert [len(y) for _, y in train_batches(data, 4, 1, epoch, 0, True)] == [4, 2], "another file takes its place"
    names = {file.rsplit("/")[-1] for file in data.unreadable}
    assert names == {"cut.JPEG", "empty.JPEG", "text.JPEG"}
    said = capsys.readouterr().err
    assert said.count("skipped ") == 3, "each is named once"
    (images, labels), = folder_images(broken, on_unreadable="skip").eval_batches()
    assert labels.tolist() == [0, 1, 2] and len(images) == 3, "a test without them"


def test_a_test_counts_what_it_could_not_read(broken, tmp_path):
    """When the network is run, and again when its logits are read from their file."""
    run = dataclasses.replace(run_like("softmax", "resnet18", "imagenet1k"), folder=tmp_path / "run")
    split = Split.open("imagenet1k", "train", tmp_path)
    for model in (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), None):
        cache = LogitsCache(run, {"num_classes": 3}, "last", CPU, loader_options={
            "on_unreadable": "skip", "workers": 0})
        cache._model, cache._weights_digest = model, "of these weights"
        assert len(cache.outputs(split).labels) == 3 and cache.unreadable == {"imagenet1k_train": 3}


def test_nothing_readable_at_all(tmp_path):
    (tmp_path / "n0").mkdir()
    (tmp_path / "n0/x.JPEG").write_bytes(b"no image")
    batches = list(folder_images(tmp_path, on_unreadable="skip").eval_batches())
    assert [len(y) for _, y in batches] == [0]


@pytest.mark.parametrize("names, others", [
    (("cat", "dog"), {"known": ("cat", "dog", "cow")}), (("cat", "dog"), {"expected": 2}),
    (("n01440764", "n01443537"), {})])
def test_folders_inside_of_class_folders_are_no_classes(names, others):
    """Where the classes are known by their names, their number or their WordNet numbers; else the user is asked."""
    paths = [f"{name}/{part}/{k}.png" for name in names for k, part in enumerate(("front", "back"))]
    assert class_level(paths, **others) == 0
    assert class_level([f"photos/{path}" for path in paths], **others) == 1
    with pytest.raises(UserError, match="cat"):
        class_level([f"{name}/{part}/1.png" for name in ("cat", "dog") for part in ("front", "back")])


# ---- torchvision's trained ResNet18 ----

def test_pretrained_resnet18_is_torchvisions(imagenet, tmp_path):
    from torchvision.models import resnet18

    for k in range(3, 1000):  # its numbers are those of all classes
        (imagenet / f"train/n{k:08}").mkdir()
        (imagenet / f"train/n{k:08}/x.JPEG").symlink_to(imagenet / "train/n00000000/x.JPEG")
    theirs = resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    words = ["evaluate.py", "--pretrained", tmp_path / "resnet18.pth", "--results-dir", tmp_path / "results",
             "--device", "cpu", "--workers", 0]
    script(*words)
    run = tmp_path / "results/imagenet1k/resnet18/softmax/seed0"
    (images, labels), = loaders.open_set("imagenet1k", "test", tmp_path, CPU).eval_batches()
    with np.load(run / "logits/imagenet1k.npz") as content:
        assert np.allclose(content["logits"][0], theirs(images).detach().numpy(), atol=1e-4)
    assert (run / "metrics.csv").exists()
    said = script("analyze.py", "--results-dir", tmp_path / "results").stdout
    assert "CHANGED: weights not trained here" in said and "69.9" in said
    with open(tmp_path / "results/tables/dismax_imagenet1k.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "softmax" and row["ours_n"] == "1"]
    assert rows and all(row["verdict"] == "" and "not trained here" in row["changed"] for row in rows), \
        "never in the paper's row"
    torch.save(resnet18(num_classes=5).state_dict(), tmp_path / "other.pth")
    done = script(*[word if word != tmp_path / "resnet18.pth" else tmp_path / "other.pth" for word in words[:3]],
                  "--results-dir", tmp_path / "elsewhere", check=False)
    assert done.returncode == 1 and "does not fit resnet18" in done.stderr
    assert not list((tmp_path / "elsewhere").rglob("config.json"))
    assert json.loads((run / "config.json").read_text())["sessions"][0]["device"] == "none, not trained here"


def test_weights_from_elsewhere_refuse_a_part_of_the_classes(imagenet, tmp_path):
    """Three of the thousand classes would be numbered 0 to 2, and most labels would be wrong."""
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    done = script("evaluate.py", "--pretrained", tmp_path / "resnet18.pth", "--results-dir", tmp_path / "results",
                  "--device", "cpu", "--workers", 0, check=False)
    assert done.returncode == 1 and not list(tmp_path.rglob("metrics.csv"))
    assert "has weights for 1000 classes, and the images of imagenet1k have 3" in done.stderr


def test_imagenet200_and_the_other_classes_are_parts_of_the_same_folders(tmp_path, monkeypatch):
    ours = ["n01443537", "n01484850"]  # goldfish and white shark, numbers 1 and 2 of ImageNet-1k; 0 is the tench
    for split in ("train", "val"):
        for k, wnid in enumerate(["n01440764", *ours]):
            save(photo(k), tmp_path / "imagenet" / split / wnid / "x.JPEG")
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "imagenet"))
    id_set = loaders.open_set("imagenet200", "test", tmp_path, CPU, workers=0)
    assert id_set.classes == sorted(IMAGENET200) and id_set.classes[:2] == ours and id_set.labels.tolist() == [0, 1]
    others = loaders.open_set("imagenet800", "train", tmp_path, CPU, id_dataset="imagenet200", workers=0)
    assert others.classes == ["n01440764"] and len(others) == 1
    assert Split.open("imagenet200", "train", tmp_path).digest.startswith("2 files in 2 folders")
    assert Split.open("imagenet800", "train", tmp_path, "imagenet200").digest.startswith("1 files in 1 folders")
    assert Split.open("imagenet200", "test", tmp_path).names == [f"{wnid}/x.JPEG" for wnid in ours]

    for wnid in ("n01440764", *ours):  # the same from a flat folder, whose labels count all classes
        folder = tmp_path / "imagenet/val" / wnid
        (folder / "x.JPEG").rename(tmp_path / "imagenet/val" / f"{wnid}.JPEG")
        folder.rmdir()
    (tmp_path / "imagenet/val.txt").write_text("n01440764.JPEG 0\nn01443537.JPEG 1\nn01484850.JPEG 2\n")
    assert loaders.open_set("imagenet200", "test", tmp_path, CPU, workers=0).labels.tolist() == [0, 1]


def test_imagenet200_has_the_classes_of_imagenet_r():
    """The MD5 is that of timm 1.0.31's imagenet_r_synsets.txt, sorted; the same classes as OpenOOD's lists name."""
    assert len(IMAGENET200) == 200
    assert md5(" ".join(sorted(IMAGENET200)).encode()).hexdigest() == "89bea71d1a121dc5537929c54d7f2e51"
    assert sets_of("openood", "imagenet200")[0] == "imagenet1k", "what prepare.py is asked for is the whole"
