"""The source of each data set: addresses, checksums, layouts of archives and mirrors, terms, and citation.

No address and no checksum here is ours: `read_in` of a File says who publishes it (a test compares torchvision's).
Where none is published, `by_hand` says so, and how to place the files.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """One official file."""

    path: str  # its official name; with folders, its place in the archive around it or in torchvision's layout
    md5: str = ""  # empty: none is published (the archive around the file is checked)
    url: str = ""  # where it is downloaded by itself
    size: int = 0  # bytes, for plans and progress; 0: not published. The MD5 decides whether a file is right
    read_in: str = "torchvision"  # who publishes address and MD5
    raw_md5: str = ""  # of a .gz: the MD5 of its content, for copies that are unpacked or packed again


@dataclass(frozen=True)
class Source:
    terms: str
    cite: str
    parts: dict = None  # split → Files of arrays; None: images in files, or made by `prepare`
    archive: File = None  # the one file that holds everything
    inside: dict = None  # split → the folder of the archive that holds its image files; "" for all of it
    layouts: dict = None  # split → folders of a mirror where its image files may lie, beside <name>/<split>
    idx: tuple = ()  # folders of a mirror where idx files may lie that no checksum is published for
    by_hand: str = ""  # why the set can't be downloaded, and how to place it
    role: str = ""  # beyond what the tables of data/datasets.py say


def _mnist(folder, base, md5s, raw_md5s, sizes):
    names = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    files = [File(f"{folder}/raw/{name}", md5, base + name, size, raw_md5=raw)
             for name, md5, raw, size in zip(names, md5s, raw_md5s, sizes)]
    return {"train": files[:2], "test": files[2:]}


def _emnist(split):
    return [File(f"gzip/emnist-letters-{split}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")]


def _classic(name):
    """OpenOOD's folders of both splits."""
    return {split: (f"images_classic/{name}/{split}",) for split in ("train", "test")}


# addresses that are published with http. The hosts have https, too: that is asked first, and http where it fails
HTTP_TOO = ("ufldl.stanford.edu", "cs231n.stanford.edu", "data.csail.mit.edu", "pages.cs.wisc.edu")
IMAGENET_TERMS = "ImageNet's: non-commercial research and education"
POOD_RELEASE, DETECTORS_RELEASE = "pytorch-ood 0.4.0", "detectors 0.1.11"
UNCERTAINTY_RELEASE = "torch-uncertainty 0.13.0"
DRIVE = ("OpenOOD keeps it on Google Drive, which has no stable address, and publishes no checksum: fetch it with "
         "OpenOOD's download script and give that folder as --mirror")

SOURCES = {
    "cifar10": Source(
        "none stated", "Krizhevsky 2009",
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
        layouts=_classic("cifar10"),
    ),
    "cifar100": Source(
        "none stated", "Krizhevsky 2009",
        archive=File("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85",
                     "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", 169_001_437),
        parts={
            "train": [File("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d")],
            "test": [File("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc")],
        },
        layouts=_classic("cifar100"),
    ),
    "svhn": Source(
        "non-commercial use", "Netzer et al. 2011",
        parts={
            "train": [File("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373",
                           "https://ufldl.stanford.edu/housenumbers/train_32x32.mat", 182_040_794)],
            "test": [File("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3",
                          "https://ufldl.stanford.edu/housenumbers/test_32x32.mat", 64_275_384)],
        },
        layouts=_classic("svhn"),
    ),
    "mnist": Source(
        "none stated", "LeCun et al. 1998",
        parts=_mnist(
            "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/", (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"), (
                "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
            (9_912_422, 28_881, 1_648_877, 4_542)),
        layouts=_classic("mnist"),
    ),
    "fashion_mnist": Source(
        "MIT", "Xiao et al. 2017",
        parts=_mnist(
            "FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"), (
                "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
            (26_421_880, 29_515, 4_422_102, 5_148)),
        layouts=_classic("fashionmnist"),
    ),
    "notmnist": Source(
        "none stated; glyphs of third-party fonts", "Bulatov 2011",
        archive=File("notMNIST_small.zip", "3de91fb69221d9c2d5c57387101ebc6c",
                     "https://zenodo.org/record/8274268/files/notMNIST_small.zip", read_in=UNCERTAINTY_RELEASE),
        inside={"test": ""},
        layouts={"test": ("notMNIST_small", "notMNIST", "images_classic/notmnist")},
        idx=("notMNIST", "notMNIST/raw"),
    ),
    "emnist_letters": Source(
        "none stated (NIST Special Database 19)", "Cohen et al. 2017",
        archive=File("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e",
                     "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip", 561_753_746),
        parts={split: _emnist(split) for split in ("train", "test")},
        idx=("EMNIST", "EMNIST/raw"),
        role="outliers to train MNIST with (`--outliers`): in no table of the papers",
    ),
    "tinyimagenet": Source(
        IMAGENET_TERMS, "Le and Yang 2015",
        archive=File("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de",
                     "https://cs231n.stanford.edu/tiny-imagenet-200.zip", 248_100_043, POOD_RELEASE),
        inside={"test": "tiny-imagenet-200/val"},
        layouts={"test": ("tiny-imagenet-200/val", "images_classic/tin/val")},
    ),
    "tinyimagenet_resize": Source(
        IMAGENET_TERMS, "Liang et al. 2018 (ODIN)",
        archive=File("Imagenet_resize.tar.gz", "0f9ff11d45babf2eff5fe12281d1ac31",
                     "https://www.dropbox.com/s/raw/kp3my3412u5k9rl/Imagenet_resize.tar.gz", read_in=POOD_RELEASE),
        inside={"test": ""},
        layouts={"test": ("Imagenet_resize",)},
    ),
    "lsun_resize": Source(
        "none stated", "Liang et al. 2018 (ODIN)",
        archive=File("LSUN_resize.tar.gz", "278b7b31c8cb7e804a1465a8ce03a2dc",
                     "https://www.dropbox.com/s/raw/moqh2wh8696c3yl/LSUN_resize.tar.gz", read_in=POOD_RELEASE),
        inside={"test": ""},
        layouts={"test": ("LSUN_resize",)},
    ),
    "textures": Source(
        "research", "Cimpoi et al. 2014 (DTD)",
        archive=File("dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1",
                     "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz", 625_239_812),
        inside={"test": "dtd/images"},
        layouts={"test": ("dtd/images", "dtd/dtd/images", "images_classic/texture", "images_largescale/texture")},
    ),
    "places365": Source(
        "non-commercial research and education", "Zhou et al. 2018",
        archive=File("val_256.tar", "e27b17d8d44f4af9a78502beb927f808",
                     "https://data.csail.mit.edu/places/places365/val_256.tar", 525_158_400),
        inside={"test": "val_256"},
        layouts={"test": ("val_256", "images_classic/places365", "places365", "places")},
    ),
    "tinyimagenet597": Source(
        IMAGENET_TERMS, "Zhang et al. 2023 (OpenOOD)",
        layouts={"train": ("images_classic/tin597/test", "images_classic/tin597/train", "tin597")},
        by_hand=DRIVE,
    ),
    "cifar10_c": Source(
        "CC BY 4.0", "Hendrycks and Dietterich 2019",
        archive=File("CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499",
                     "https://zenodo.org/record/2535967/files/CIFAR-10-C.tar", 2_918_471_680, POOD_RELEASE),
    ),
    "cifar100_c": Source(
        "CC BY 4.0", "Hendrycks and Dietterich 2019",
        archive=File("CIFAR-100-C.tar", "11f0ed0f1191edbf9fa23466ae6021d3",
                     "https://zenodo.org/record/3555552/files/CIFAR-100-C.tar", 2_918_800_000, POOD_RELEASE),
    ),
    "imagenet1k": Source(
        IMAGENET_TERMS, "Russakovsky et al. 2015",
        layouts={"train": ("imagenet/train", "imagenet1k/train", "images_largescale/imagenet_1k/train"),
                 "test": ("imagenet/val", "imagenet1k/val", "images_largescale/imagenet_1k/val")},
        by_hand="given out by image-net.org to those who sign its terms: link train/ and val/ at data/imagenet1k, or "
                "set IMAGENET_DIR to where they are",
    ),
    "imagenet200": Source(IMAGENET_TERMS, "Zhang et al. 2023 (OpenOOD)"),
    "imagenet800": Source(IMAGENET_TERMS, "Zhang et al. 2023 (OpenOOD)"),
    "imagenet_o": Source(
        "MIT", "Hendrycks et al. 2021",
        archive=File("imagenet-o.tar", "86bd7a50c1c4074fb18fc5f219d6d50b",
                     "https://people.eecs.berkeley.edu/~hendrycks/imagenet-o.tar", read_in=POOD_RELEASE),
        inside={"test": "imagenet-o"},
        layouts={"test": ("imagenet-o",)},
    ),
    "inaturalist": Source(
        "iNaturalist 2017's: non-commercial research and education", "Huang and Li 2021 (MOS)",
        archive=File("iNaturalist.tar.gz", "5be6ea8aa027d7b631916427b32cb335",
                     "https://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/iNaturalist.tar.gz",
                     read_in=DETECTORS_RELEASE),
        inside={"test": ""},
        layouts={"test": ("iNaturalist", "images_largescale/inaturalist")},
    ),
    "openimage_o": Source(
        "annotations CC BY 4.0, images CC BY 2.0", "Wang et al. 2022 (ViM)",
        archive=File("OpenImage-O.zip", "c0abd7cd4b6f218a7149adc718d70e6e",
                     "https://zenodo.org/records/10540831/files/OpenImage-O.zip", read_in=UNCERTAINTY_RELEASE),
        inside={"test": ""},
        layouts={"test": ("OpenImage-O", "images_largescale/openimage_o")},
    ),
    "ssb_hard": Source(
        IMAGENET_TERMS, "Vaze et al. 2022",
        layouts={"test": ("images_largescale/ssb_hard",)},
        by_hand=DRIVE,
    ),
    "ninco": Source(
        "CC BY 4.0", "Bitterwolf et al. 2023",
        archive=File("NINCO_all.tar.gz", "b9ffae324363cd900a81ce3c367cd834",
                     "https://zenodo.org/record/8013288/files/NINCO_all.tar.gz", read_in=POOD_RELEASE),
        inside={"test": "NINCO/NINCO_OOD_classes"},
        layouts={"test": ("NINCO/NINCO_OOD_classes", "images_largescale/ninco")},
    ),
    "digits": Source("CC BY 4.0", "Alpaydin and Kaynak 1998"),
    "digits_789": Source("CC BY 4.0", "Alpaydin and Kaynak 1998"),
    "photo_patches": Source("CC BY 2.0", "scikit-learn's two photographs"),
}
