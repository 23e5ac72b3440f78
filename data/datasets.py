"""The data sets: classes, image size and number of images; and the sets of the two benchmarks.

Where the sets come from, and under which terms, data/sources/registry.py says.
"""
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSet:
    title: str
    classes: int
    size: int  # images are size × size pixels; 0: natural images of any size
    counts: dict  # split → number of images, 0: not published. Networks are tested on "test", whatever it is called
    mean: tuple = ()  # of each channel, for pixels in [0, 1]; empty: no set to train on
    std: tuple = ()
    sizes: tuple = ()  # of natural images: the sizes that they are prepared in
    folders: bool = False  # for networks of ImageNet's kind: kept as <split>/<class>/<image>
    part_of: str = ""  # the set whose folders hold it: those classes for which `keeps(class name)` is true
    keeps: Callable = None
    class_names: tuple = ()  # in label order, where they are known without the files
    made_from: str = ""  # the folder that a set of the user's own was made from


# wnids, sorted. Those that OpenOOD's test_imagenet200_v2.txt numbers 0 to 199; the same as ImageNet-R's (timm 1.0.31)
IMAGENET200 = frozenset((Path(__file__).parent / "imagenet200.txt").read_text("utf-8").split())
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5,) * 3
DIGIT_NAMES = tuple("0123456789")
# in label order, which is alphabetical; OpenOOD's folders have these names
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(_CIFAR100.split())
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

CATALOG = {
    "cifar10": DataSet("CIFAR-10", 10, 32, {"train": 50_000, "test": 10_000},
                       (0.491, 0.482, 0.446), (0.247, 0.243, 0.261), class_names=CIFAR10),
    "cifar100": DataSet("CIFAR-100", 100, 32, {"train": 50_000, "test": 10_000},
                        (0.507, 0.486, 0.440), (0.267, 0.256, 0.276), class_names=CIFAR100),
    "svhn": DataSet("SVHN", 10, 32, {"train": 73_257, "test": 26_032}, class_names=DIGIT_NAMES),
    "mnist": DataSet("MNIST", 10, 28, {"train": 60_000, "test": 10_000}, HALF, HALF, class_names=DIGIT_NAMES),
    "fashion_mnist": DataSet("FashionMNIST", 10, 28, {"train": 60_000, "test": 10_000}, HALF, HALF,
                             class_names=CLOTHES),
    "notmnist": DataSet("notMNIST", 10, 28, {"test": 18_724}, class_names=tuple("ABCDEFGHIJ")),
    "emnist_letters": DataSet("EMNIST-letters", 26, 28, {"train": 124_800, "test": 20_800},
                              class_names=tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
    "tinyimagenet": DataSet("Tiny ImageNet", 200, 64, {"test": 10_000}),
    "tinyimagenet_resize": DataSet("TinyImageNet-r", 1, 32, {"test": 10_000}),
    "lsun_resize": DataSet("LSUN-r", 1, 32, {"test": 10_000}),
    "textures": DataSet("Textures", 47, 0, {"test": 5_640}, sizes=(28, 32), folders=True),
    "places365": DataSet("Places365", 365, 0, {"test": 36_500}, sizes=(28, 32)),
    "tinyimagenet597": DataSet("TinyImageNet-597", 597, 0, {"train": 29_850}, sizes=(32,)),
    "cifar10_c": DataSet("CIFAR-10-C", 10, 32, {"test": 950_000}),
    "cifar100_c": DataSet("CIFAR-100-C", 100, 32, {"test": 950_000}),
    "imagenet1k": DataSet("ImageNet-1k", 1000, 224, {"train": 1_281_167, "test": 50_000},
                          IMAGENET_MEAN, IMAGENET_STD, folders=True),
    "imagenet200": DataSet("ImageNet-200", 200, 224, {"train": 0, "test": 10_000}, IMAGENET_MEAN, IMAGENET_STD,
                           folders=True, part_of="imagenet1k", keeps=lambda wnid: wnid in IMAGENET200,
                           class_names=tuple(sorted(IMAGENET200))),
    "imagenet800": DataSet("ImageNet-1k without ImageNet-200", 800, 224, {"train": 0}, folders=True,
                           part_of="imagenet1k", keeps=lambda wnid: wnid not in IMAGENET200),
    "imagenet_o": DataSet("ImageNet-O", 200, 0, {"test": 2_000}, folders=True),
    "inaturalist": DataSet("iNaturalist", 1, 0, {"test": 10_000}, folders=True),
    "openimage_o": DataSet("OpenImage-O", 1, 0, {"test": 17_632}, folders=True),
    "ssb_hard": DataSet("SSB-hard", 980, 0, {"test": 49_000}, folders=True),
    "ninco": DataSet("NINCO", 64, 0, {"test": 5_879}, folders=True),
    # real images that scikit-learn ships, so that everything can be seen to work in a minute
    "digits": DataSet("digits 0–6", 7, 28, {"train": 845, "test": 419}, HALF, HALF, class_names=DIGIT_NAMES[:7]),
    "digits_789": DataSet("digits 7–9", 3, 28, {"test": 533}, class_names=DIGIT_NAMES[7:]),
    "photo_patches": DataSet("photograph patches", 2, 28, {"test": 660}),
}

# The `dismax` benchmark: in-distribution set → group → OOD sets, all by their test split (Table 2 and section 4)
OUTLIERS = {
    "cifar10": {"near": ["cifar100"], "far": ["tinyimagenet_resize", "lsun_resize"], "very_far": ["svhn"]},
    "cifar100": {"near": ["cifar10"], "far": ["tinyimagenet_resize", "lsun_resize"], "very_far": ["svhn"]},
    "imagenet1k": {"near": ["imagenet_o"]},
    "digits": {"near": ["digits_789"], "far": ["photo_patches"]},
    "mnist": {"near": ["fashion_mnist"], "far": ["cifar10"]},  # ours: the paper has no such row
    "fashion_mnist": {"near": ["mnist"], "far": ["cifar10"]},
}

# The `openood` benchmark (OpenOOD v1.5, used by SDDE); data/openood.py says which images of each set
OPENOOD = {
    "mnist": {"near": ["notmnist", "fashion_mnist"], "far": ["textures", "cifar10", "tinyimagenet", "places365"]},
    "cifar10": {"near": ["cifar100", "tinyimagenet"], "far": ["mnist", "svhn", "textures", "places365"]},
    "cifar100": {"near": ["cifar10", "tinyimagenet"], "far": ["mnist", "svhn", "textures", "places365"]},
    "imagenet1k": {"near": ["ssb_hard", "ninco"], "far": ["inaturalist", "textures", "openimage_o"]},
}
OPENOOD["imagenet200"] = OPENOOD["imagenet1k"]
# the sets of SDDE's outlier exposure, and of its calibration under corruption
EXPOSURE = {"cifar10": "tinyimagenet597", "cifar100": "tinyimagenet597", "imagenet200": "imagenet800"}
CORRUPTED = {"cifar10": "cifar10_c", "cifar100": "cifar100_c"}


def sets_of(benchmark, dataset=None):
    """Every set that a benchmark needs, for one in-distribution set or for all of them; a part's whole in its place.

    Args:
        benchmark: dismax, openood (with the sets of outlier exposure), or all (with the corrupted sets, 3 GB each).
    """
    names = []
    for id_dataset in [dataset] if dataset else list(dict.fromkeys([*OUTLIERS, *OPENOOD])):
        for which, table in (("dismax", OUTLIERS), ("openood", OPENOOD)):
            if id_dataset in table and benchmark in (which, "all"):
                names += [id_dataset, *(name for group in table[id_dataset].values() for name in group)]
        names += [EXPOSURE[id_dataset]] if id_dataset in EXPOSURE and benchmark != "dismax" else []
        names += [CORRUPTED[id_dataset]] if id_dataset in CORRUPTED and benchmark == "all" else []
    return list(dict.fromkeys(CATALOG[name].part_of or name for name in names))


def image_folder(name, split, data_dir):
    """Where the class folders of a `folders` set lie: data_dir/<name>/<split>, a part's among its whole's.

    Those of ImageNet-1k are called train and val, and may lie below $IMAGENET_DIR.
    """
    name = CATALOG[name].part_of or name
    if name == "imagenet1k":
        return Path(os.environ.get("IMAGENET_DIR") or Path(data_dir) / name) / {"train": "train", "test": "val"}[split]
    return Path(data_dir) / name / split


def array_file(name, split, data_dir, size=0):
    """The file that holds a split as arrays. Natural images have one for every size that they are prepared in."""
    return Path(data_dir) / name / (f"{split}_{size}.npz" if CATALOG[name].sizes else f"{split}.npz")


def how_to_get(name, data_dir="data"):
    """The sentence that every message about a missing set ends with."""
    name = CATALOG[name].part_of or name
    if name == "imagenet1k":
        return (f"{CATALOG[name].title} is used where you keep it: link train/ and val/ at {Path(data_dir) / name} or "
                "set IMAGENET_DIR to where they are")
    if folder := CATALOG[name].made_from:
        return f"Prepare it: python data/prepare.py --folder {name}={folder} --size {CATALOG[name].size}"
    return f"Prepare it: python data/prepare.py {name} (or make prepare-data DATASETS={name})"
