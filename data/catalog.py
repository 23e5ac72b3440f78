"""What each data set is: where it comes from, how it is checked, how its images are normalised, and which sets are
near and far from it. Addresses and checksums are those that torchvision publishes; tests compare them."""
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One file of a split as its publisher lays it out; `url` where it is downloaded by itself."""

    path: str
    md5: str
    url: str = ""


@dataclass(frozen=True)
class DataSet:
    title: str
    classes: int
    size: int  # images are size × size pixels
    counts: dict  # split → number of images
    terms: str
    mean: tuple = ()  # per channel, of pixels in [0, 1]; empty: never trained on
    std: tuple = ()
    parts: dict = None  # split → Parts; None: made by `prepare` without any download
    archive: Part = None  # the one file that holds all parts, if there is one
    folders: bool = False  # too large to lie on the device: read as <split>/<class>/<image> where the user keeps it


def _mnist(folder, base, md5s):
    names = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    parts = [Part(f"{folder}/raw/{name}", md5, base + name) for name, md5 in zip(names, md5s)]
    return {"train": parts[:2], "test": parts[2:]}


CATALOG = {
    "cifar10": DataSet(
        "CIFAR-10", 10, 32, {"train": 50_000, "test": 10_000}, "no licence stated; cite Krizhevsky 2009",
        mean=(0.491, 0.482, 0.446), std=(0.247, 0.243, 0.261),
        archive=Part("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",
                     "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"),
        parts={
            "train": [
                Part("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f"),
                Part("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                Part("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                Part("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a"),
                Part("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ],
            "test": [Part("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e")],
        },
    ),
    "cifar100": DataSet(
        "CIFAR-100", 100, 32, {"train": 50_000, "test": 10_000}, "no licence stated; cite Krizhevsky 2009",
        mean=(0.507, 0.486, 0.440), std=(0.267, 0.256, 0.276),
        archive=Part("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85",
                     "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"),
        parts={
            "train": [Part("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d")],
            "test": [Part("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc")],
        },
    ),
    "svhn": DataSet(
        "SVHN", 10, 32, {"train": 73_257, "test": 26_032}, "non-commercial use; cite Netzer et al. 2011",
        parts={
            "train": [Part("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373",
                           "http://ufldl.stanford.edu/housenumbers/train_32x32.mat")],
            "test": [Part("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3",
                          "http://ufldl.stanford.edu/housenumbers/test_32x32.mat")],
        },
    ),
    "mnist": DataSet(
        "MNIST", 10, 28, {"train": 60_000, "test": 10_000}, "cite LeCun et al. 1998",
        mean=(0.5,) * 3, std=(0.5,) * 3,
        parts=_mnist("MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/", (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c")),
    ),
    "fashion_mnist": DataSet(
        "FashionMNIST", 10, 28, {"train": 60_000, "test": 10_000}, "MIT; cite Xiao et al. 2017",
        mean=(0.5,) * 3, std=(0.5,) * 3,
        parts=_mnist("FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310")),
    ),
    "imagenet1k": DataSet(
        "ImageNet-1k", 1000, 224, {"train": 1_281_167, "test": 50_000}, "non-commercial research; the user's own copy",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), folders=True,
    ),
    "imagenet_o": DataSet(
        "ImageNet-O", 200, 224, {"test": 2_000}, "MIT; cite Hendrycks et al. 2021", folders=True),
    # the embedded benchmark: real images that scikit-learn ships, so that everything can be seen to work in a minute
    "digits": DataSet(
        "digits 0–6", 7, 28, {"train": 845, "test": 419}, "UCI optical digits; inside scikit-learn",
        mean=(0.5,) * 3, std=(0.5,) * 3,
    ),
    "digits_789": DataSet(
        "digits 7–9", 3, 28, {"test": 533}, "UCI optical digits; inside scikit-learn"),
    "photo_patches": DataSet(
        "photograph patches", 2, 28, {"test": 660}, "two photographs, CC BY 2.0; inside scikit-learn"),
}

# in-distribution set → group → out-of-distribution sets, all by their test split (DisMax paper, Table 2 and section 4)
OUTLIERS = {
    "cifar10": {"near": ["cifar100"], "far": ["tinyimagenet_resize", "lsun_resize"], "very_far": ["svhn"]},
    "cifar100": {"near": ["cifar10"], "far": ["tinyimagenet_resize", "lsun_resize"], "very_far": ["svhn"]},
    "imagenet1k": {"near": ["imagenet_o"]},
    "digits": {"near": ["digits_789"], "far": ["photo_patches"]},
    "mnist": {"near": ["fashion_mnist"], "far": ["cifar10"]},  # ours: the paper has no such row
    "fashion_mnist": {"near": ["mnist"], "far": ["cifar10"]},
}


def image_folder(name, split, data_dir):
    """Where the class folders of a `folders` set lie: below $IMAGENET_DIR (ImageNet-1k, if set) or data_dir/<name>."""
    if name == "imagenet1k":
        return Path(os.environ.get("IMAGENET_DIR") or Path(data_dir) / name) / {"train": "train", "test": "val"}[split]
    return Path(data_dir) / name


def how_to_get(name, data_dir="data"):
    """The sentence that every message about a missing set ends with."""
    if not CATALOG[name].folders:
        return f"Prepare it: python data/prepare.py {name} (or make prepare-data DATASETS={name})"
    place = "train/ and val/" if name == "imagenet1k" else "its images, in class folders,"
    or_else = " or set IMAGENET_DIR to where they are" if name == "imagenet1k" else ""
    return f"{CATALOG[name].title} is used where you keep it: link {place} at {Path(data_dir) / name}{or_else}"
