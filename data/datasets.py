"""What each data set is: where it comes from, how it is checked, under which terms, how its images are normalised; and
which sets the two benchmarks test and train with.

No address and no checksum here is ours: `read_in` of a file says who publishes it (tests compare torchvision's). Where
none is published, `by_hand` says so, and how to place the files.
"""
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """One file of a publisher."""

    path: str  # its official name; with folders, its place in the archive around it or in torchvision's layout
    md5: str = ""  # empty: nobody publishes one (the archive around it is checked)
    url: str = ""  # where it is downloaded by itself
    size: int = 0  # bytes; 0: not published. For plans and progress; whether a file is right, its MD5 says
    read_in: str = "torchvision"  # who publishes address and MD5
    raw_md5: str = ""  # of a .gz: the MD5 of what is in it, for those who keep it unpacked


@dataclass(frozen=True)
class DataSet:
    title: str
    classes: int
    size: int  # images are size × size pixels; 0: photographs of any size
    counts: dict  # split → number of images, 0: not published; "test" is what networks are tested on, whatever its
    # publisher calls it
    terms: str
    cite: str
    mean: tuple = ()  # per channel, of pixels in [0, 1]; empty: never trained on
    std: tuple = ()
    parts: dict = None  # split → Files of arrays; None: images in files, or made by `prepare`
    archive: File = None  # the one file that holds everything
    inside: dict = None  # split → the folder of the archive that holds its image files; "" for all of it
    layouts: dict = None  # split → folders of a mirror where its image files may lie, beside <name>/<split>
    idx: tuple = ()  # folders of a mirror where idx files may lie that no checksum is published for
    sizes: tuple = ()  # photographs: the sizes that they are prepared in
    folders: bool = False  # for ImageNet: kept as <split>/<class>/<image>
    by_hand: str = ""  # why it can't be downloaded, and how to place it
    part_of: str = ""  # the set whose folders hold it: those classes for which `keeps(class name)` is true
    keeps: Callable = None
    role: str = ""  # beyond what OUTLIERS, OPENOOD, EXPOSURE and CORRUPTED say


def _mnist(folder, base, md5s, raw_md5s, sizes):
    names = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    files = [File(f"{folder}/raw/{name}", md5, base + name, size, raw_md5=raw)
             for name, md5, raw, size in zip(names, md5s, raw_md5s, sizes)]
    return {"train": files[:2], "test": files[2:]}


def _emnist(split):
    return [File(f"gzip/emnist-letters-{split}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")]


# wnids, sorted. Those that OpenOOD's test_imagenet200_v2.txt numbers 0 to 199; the same as ImageNet-R's (timm 1.0.31)
IMAGENET200 = frozenset((Path(__file__).parent / "imagenet200.txt").read_text().split())

IMAGENET_TERMS = "ImageNet's: non-commercial research and education"
POOD, DETECTORS, UNCERTAINTY = "pytorch-ood 0.4.0", "detectors 0.1.11", "torch-uncertainty 0.13.0"
DRIVE = ("OpenOOD keeps it on Google Drive, which has no stable address, and publishes no checksum: fetch it with "
         "OpenOOD's download script and give that folder as --mirror")

CATALOG = {
    "cifar10": DataSet(
        "CIFAR-10", 10, 32, {"train": 50_000, "test": 10_000}, "none stated", "Krizhevsky 2009",
        mean=(0.491, 0.482, 0.446), std=(0.247, 0.243, 0.261),
        archive=File("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",
                     "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", 170_498_071),
        parts={
            "train": [
                File("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f"),
                File("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                File("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                File("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a"),
                File("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ],
            "test": [File("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e")],
        },
        layouts={split: (f"images_classic/cifar10/{split}",) for split in ("train", "test")},
    ),
    "cifar100": DataSet(
        "CIFAR-100", 100, 32, {"train": 50_000, "test": 10_000}, "none stated", "Krizhevsky 2009",
        mean=(0.507, 0.486, 0.440), std=(0.267, 0.256, 0.276),
        archive=File("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85",
                     "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", 169_001_437),
        parts={
            "train": [File("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d")],
            "test": [File("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc")],
        },
        layouts={split: (f"images_classic/cifar100/{split}",) for split in ("train", "test")},
    ),
    "svhn": DataSet(
        "SVHN", 10, 32, {"train": 73_257, "test": 26_032}, "non-commercial use", "Netzer et al. 2011",
        parts={
            "train": [File("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373",
                           "http://ufldl.stanford.edu/housenumbers/train_32x32.mat", 182_040_794)],
            "test": [File("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3",
                          "http://ufldl.stanford.edu/housenumbers/test_32x32.mat", 64_275_384)],
        },
        layouts={split: (f"images_classic/svhn/{split}",) for split in ("train", "test")},
    ),
    "mnist": DataSet(
        "MNIST", 10, 28, {"train": 60_000, "test": 10_000}, "none stated", "LeCun et al. 1998",
        mean=(0.5,) * 3, std=(0.5,) * 3,
        parts=_mnist(
            "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/", (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"), (
                "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
            (9_912_422, 28_881, 1_648_877, 4_542)),
        layouts={split: (f"images_classic/mnist/{split}",) for split in ("train", "test")},
    ),
    "fashion_mnist": DataSet(
        "FashionMNIST", 10, 28, {"train": 60_000, "test": 10_000}, "MIT", "Xiao et al. 2017",
        mean=(0.5,) * 3, std=(0.5,) * 3,
        parts=_mnist(
            "FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"), (
                "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
            (26_421_880, 29_515, 4_422_102, 5_148)),
        layouts={split: (f"images_classic/fashionmnist/{split}",) for split in ("train", "test")},
    ),
    "notmnist": DataSet(
        "notMNIST", 10, 28, {"test": 18_724}, "none stated; glyphs of third-party fonts", "Bulatov 2011",
        archive=File("notMNIST_small.zip", "3de91fb69221d9c2d5c57387101ebc6c",
                     "https://zenodo.org/record/8274268/files/notMNIST_small.zip", read_in=UNCERTAINTY),
        inside={"test": ""}, layouts={"test": ("notMNIST_small", "notMNIST", "images_classic/notmnist")},
        idx=("notMNIST", "notMNIST/raw"),
    ),
    "emnist_letters": DataSet(
        "EMNIST-letters", 26, 28, {"train": 124_800, "test": 20_800}, "none stated (NIST Special Database 19)",
        "Cohen et al. 2017",
        archive=File("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e",
                     "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip", 561_753_746),
        parts={split: _emnist(split) for split in ("train", "test")},
        idx=("EMNIST", "EMNIST/raw"), role="outliers to train MNIST with (`--outliers`): in no table of the papers",
    ),
    "tinyimagenet": DataSet(
        "Tiny ImageNet", 200, 64, {"test": 10_000}, IMAGENET_TERMS, "Le and Yang 2015",
        archive=File("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de",
                     "http://cs231n.stanford.edu/tiny-imagenet-200.zip", 248_100_043, POOD),
        inside={"test": "tiny-imagenet-200/val"},
        layouts={"test": ("tiny-imagenet-200/val", "images_classic/tin/val")},
    ),
    "tinyimagenet_resize": DataSet(
        "TinyImageNet-r", 1, 32, {"test": 10_000}, IMAGENET_TERMS, "Liang et al. 2018 (ODIN)",
        archive=File("Imagenet_resize.tar.gz", "0f9ff11d45babf2eff5fe12281d1ac31",
                     "https://www.dropbox.com/s/raw/kp3my3412u5k9rl/Imagenet_resize.tar.gz", read_in=POOD),
        inside={"test": ""}, layouts={"test": ("Imagenet_resize",)},
    ),
    "lsun_resize": DataSet(
        "LSUN-r", 1, 32, {"test": 10_000}, "none stated", "Liang et al. 2018 (ODIN)",
        archive=File("LSUN_resize.tar.gz", "278b7b31c8cb7e804a1465a8ce03a2dc",
                     "https://www.dropbox.com/s/raw/moqh2wh8696c3yl/LSUN_resize.tar.gz", read_in=POOD),
        inside={"test": ""}, layouts={"test": ("LSUN_resize",)},
    ),
    "textures": DataSet(
        "Textures", 47, 0, {"test": 5_640}, "research", "Cimpoi et al. 2014 (DTD)",
        archive=File("dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1",
                     "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz", 625_239_812),
        inside={"test": "dtd/images"},
        layouts={"test": ("dtd/images", "dtd/dtd/images", "images_classic/texture", "images_largescale/texture")},
        sizes=(28, 32), folders=True,
    ),
    "places365": DataSet(
        "Places365", 365, 0, {"test": 36_500}, "non-commercial research and education", "Zhou et al. 2018",
        archive=File("val_256.tar", "e27b17d8d44f4af9a78502beb927f808",
                     "http://data.csail.mit.edu/places/places365/val_256.tar", 525_158_400),
        inside={"test": "val_256"}, layouts={"test": ("val_256", "images_classic/places365", "places365", "places")},
        sizes=(28, 32),
    ),
    "tinyimagenet597": DataSet(
        "TinyImageNet-597", 597, 0, {"train": 29_850}, IMAGENET_TERMS, "Zhang et al. 2023 (OpenOOD)",
        layouts={"train": ("images_classic/tin597/test", "images_classic/tin597/train", "tin597")},
        sizes=(32,),
        by_hand=DRIVE,
    ),
    "cifar10_c": DataSet(
        "CIFAR-10-C", 10, 32, {"test": 950_000}, "CC BY 4.0", "Hendrycks and Dietterich 2019",
        archive=File("CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499",
                     "https://zenodo.org/record/2535967/files/CIFAR-10-C.tar", 2_918_471_680, POOD),
    ),
    "cifar100_c": DataSet(
        "CIFAR-100-C", 100, 32, {"test": 950_000}, "CC BY 4.0", "Hendrycks and Dietterich 2019",
        archive=File("CIFAR-100-C.tar", "11f0ed0f1191edbf9fa23466ae6021d3",
                     "https://zenodo.org/record/3555552/files/CIFAR-100-C.tar", 2_918_800_000, POOD),
    ),
    "imagenet1k": DataSet(
        "ImageNet-1k", 1000, 224, {"train": 1_281_167, "test": 50_000}, IMAGENET_TERMS, "Russakovsky et al. 2015",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), folders=True,
        layouts={"train": ("imagenet/train", "imagenet1k/train", "images_largescale/imagenet_1k/train"),
                 "test": ("imagenet/val", "imagenet1k/val", "images_largescale/imagenet_1k/val")},
        by_hand="given out by image-net.org to those who sign its terms: link train/ and val/ at data/imagenet1k, or "
                "set IMAGENET_DIR to where they are",
    ),
    "imagenet200": DataSet(
        "ImageNet-200", 200, 224, {"train": 0, "test": 10_000}, IMAGENET_TERMS, "Zhang et al. 2023 (OpenOOD)",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), folders=True,
        part_of="imagenet1k", keeps=lambda wnid: wnid in IMAGENET200,
    ),
    "imagenet800": DataSet(
        "ImageNet-1k without ImageNet-200", 800, 224, {"train": 0}, IMAGENET_TERMS, "Zhang et al. 2023 (OpenOOD)",
        folders=True, part_of="imagenet1k", keeps=lambda wnid: wnid not in IMAGENET200,
    ),
    "imagenet_o": DataSet(
        "ImageNet-O", 200, 0, {"test": 2_000}, "MIT", "Hendrycks et al. 2021", folders=True,
        archive=File("imagenet-o.tar", "86bd7a50c1c4074fb18fc5f219d6d50b",
                     "https://people.eecs.berkeley.edu/~hendrycks/imagenet-o.tar", read_in=POOD),
        inside={"test": "imagenet-o"}, layouts={"test": ("imagenet-o",)},
    ),
    "inaturalist": DataSet(
        "iNaturalist", 1, 0, {"test": 10_000}, "iNaturalist 2017's: non-commercial research and education",
        "Huang and Li 2021 (MOS)", folders=True,
        archive=File("iNaturalist.tar.gz", "5be6ea8aa027d7b631916427b32cb335",
                     "http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/iNaturalist.tar.gz", read_in=DETECTORS),
        inside={"test": ""}, layouts={"test": ("iNaturalist", "images_largescale/inaturalist")},
    ),
    "openimage_o": DataSet(
        "OpenImage-O", 1, 0, {"test": 17_632}, "annotations CC BY 4.0, images CC BY 2.0", "Wang et al. 2022 (ViM)",
        folders=True,
        archive=File("OpenImage-O.zip", "c0abd7cd4b6f218a7149adc718d70e6e",
                     "https://zenodo.org/records/10540831/files/OpenImage-O.zip", read_in=UNCERTAINTY),
        inside={"test": ""}, layouts={"test": ("OpenImage-O", "images_largescale/openimage_o")},
    ),
    "ssb_hard": DataSet(
        "SSB-hard", 980, 0, {"test": 49_000}, IMAGENET_TERMS, "Vaze et al. 2022", folders=True,
        layouts={"test": ("images_largescale/ssb_hard",)},
        by_hand=DRIVE,
    ),
    "ninco": DataSet(
        "NINCO", 64, 0, {"test": 5_879}, "CC BY 4.0", "Bitterwolf et al. 2023", folders=True,
        archive=File("NINCO_all.tar.gz", "b9ffae324363cd900a81ce3c367cd834",
                     "https://zenodo.org/record/8013288/files/NINCO_all.tar.gz", read_in=POOD),
        inside={"test": "NINCO/NINCO_OOD_classes"},
        layouts={"test": ("NINCO/NINCO_OOD_classes", "images_largescale/ninco")},
    ),
    # the embedded benchmark: real images that scikit-learn ships, so that everything can be seen to work in a minute
    "digits": DataSet(
        "digits 0–6", 7, 28, {"train": 845, "test": 419}, "CC BY 4.0", "Alpaydin and Kaynak 1998",
        mean=(0.5,) * 3, std=(0.5,) * 3,
    ),
    "digits_789": DataSet(
        "digits 7–9", 3, 28, {"test": 533}, "CC BY 4.0", "Alpaydin and Kaynak 1998"),
    "photo_patches": DataSet(
        "photograph patches", 2, 28, {"test": 660}, "CC BY 2.0", "scikit-learn's two photographs"),
}

# The `dismax` benchmark: in-distribution set → group → outlier sets, all by their test split (Table 2 and section 4)
OUTLIERS = {
    "cifar10": {"near": ["cifar100"], "far": ["tinyimagenet_resize", "lsun_resize"], "very_far": ["svhn"]},
    "cifar100": {"near": ["cifar10"], "far": ["tinyimagenet_resize", "lsun_resize"], "very_far": ["svhn"]},
    "imagenet1k": {"near": ["imagenet_o"]},
    "digits": {"near": ["digits_789"], "far": ["photo_patches"]},
    "mnist": {"near": ["fashion_mnist"], "far": ["cifar10"]},  # ours: the paper has no such row
    "fashion_mnist": {"near": ["mnist"], "far": ["cifar10"]},
}

# The `openood` benchmark (OpenOOD v1.5, used by SDDE); which images of each set, data/openood.py knows
OPENOOD = {
    "mnist": {"near": ["notmnist", "fashion_mnist"], "far": ["textures", "cifar10", "tinyimagenet", "places365"]},
    "cifar10": {"near": ["cifar100", "tinyimagenet"], "far": ["mnist", "svhn", "textures", "places365"]},
    "cifar100": {"near": ["cifar10", "tinyimagenet"], "far": ["mnist", "svhn", "textures", "places365"]},
    "imagenet1k": {"near": ["ssb_hard", "ninco"], "far": ["inaturalist", "textures", "openimage_o"]},
}
OPENOOD["imagenet200"] = OPENOOD["imagenet1k"]
# what SDDE's outlier exposure trains with
EXPOSURE = {"cifar10": "tinyimagenet597", "cifar100": "tinyimagenet597", "imagenet200": "imagenet800"}
CORRUPTED = {"cifar10": "cifar10_c", "cifar100": "cifar100_c"}  # what SDDE's calibration under corruption is tested on


def sets_of(benchmark, dataset=None):
    """Every set that a benchmark needs, for one in-distribution set or for all of them; the whole in place of a part.

    Args:
        benchmark: dismax, openood (with the sets of outlier exposure), or all (with the corrupted sets, 3 GB each).
    """
    names = []
    for inside in [dataset] if dataset else list(dict.fromkeys([*OUTLIERS, *OPENOOD])):
        for which, table in (("dismax", OUTLIERS), ("openood", OPENOOD)):
            if inside in table and benchmark in (which, "all"):
                names += [inside, *(name for group in table[inside].values() for name in group)]
        names += [EXPOSURE[inside]] if inside in EXPOSURE and benchmark != "dismax" else []
        names += [CORRUPTED[inside]] if inside in CORRUPTED and benchmark == "all" else []
    return list(dict.fromkeys(CATALOG[name].part_of or name for name in names))


def image_folder(name, split, data_dir):
    """Where the class folders of a `folders` set lie, a part's among its whole's: data_dir/<name>/<split>; those of
    ImageNet-1k also below IMAGENET_DIR, as train/ and val/."""
    name = CATALOG[name].part_of or name
    if name == "imagenet1k":
        return Path(os.environ.get("IMAGENET_DIR") or Path(data_dir) / name) / {"train": "train", "test": "val"}[split]
    return Path(data_dir) / name / split


def array_file(name, split, data_dir, size=0):
    """The file that holds a split as arrays; of photographs there is one for every size that they are prepared in."""
    return Path(data_dir) / name / (f"{split}_{size}.npz" if CATALOG[name].sizes else f"{split}.npz")


def how_to_get(name, data_dir="data"):
    """The sentence that every message about a missing set ends with."""
    name = CATALOG[name].part_of or name
    if name == "imagenet1k":
        return (f"{CATALOG[name].title} is used where you keep it: link train/ and val/ at {Path(data_dir) / name} or "
                "set IMAGENET_DIR to where they are")
    return f"Prepare it: python data/prepare.py {name} (or make prepare-data DATASETS={name})"
