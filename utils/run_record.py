"""What config.json of a finished run must hold before a network is built from it, or an image is read for it."""
from utils.recipe import is_a

METHOD = {"head": str, "members": int, "diversity": str, "outliers": str}
IMAGES = {"size": int, "shorter_side": int}
LARGEST_SIDE = 4096  # pixels; more would fill the memory
MOST = 1_000_000  # classes or members; no tensor has the size of larger numbers


def check_record(config):
    """ValueError, naming the entry, when one is missing or of another type than train.py writes."""
    _check("", config, {"run": dict, "method": dict, "num_classes": int, "best_epoch": int})
    _check("run.", config["run"], {"dataset": str, "model": str, "method": str, "seed": int})
    _check("method.", config["method"], METHOD)
    if config["method"]["members"] < 1 or config["num_classes"] < 1:
        raise ValueError("method.members or num_classes is less than 1")
    if max(config["method"]["members"], config["num_classes"]) > MOST:
        raise ValueError(f"method.members or num_classes is more than {MOST:,}")
    overrides = config.get("overrides", {})
    _check("overrides.", overrides, dict.fromkeys(overrides if is_a(overrides, dict) else (), dict))
    if not all(map(is_override, overrides.values())):
        raise ValueError("an override does not say what is published and what was used")
    digests = config.get("sha256", {})
    _check("sha256.", digests, dict.fromkeys(digests if is_a(digests, dict) else (), str))
    _check("data.", config.get("data", {}), {})
    if "images" in config:
        _check_images(config["images"])


def is_override(change):
    """Whether an entry of `overrides` has the two values of a field of the recipe, which are of one type."""
    if not is_a(change, dict) or not {"used", "published"} <= set(change):
        return False
    used, published = change["used"], change["published"]
    return type(used) is type(published) or is_a(used, float) and is_a(published, float)


def _check_images(images):
    _check("images.", images, IMAGES)
    if not 1 <= images["size"] <= images["shorter_side"] <= LARGEST_SIDE:
        raise ValueError("images.size or images.shorter_side is no number of pixels")
    names = images.get("class_names", 0)
    if names is not None and not (is_a(names, list) and all(is_a(name, str) for name in names)):
        raise ValueError("images.class_names are no names")


def _check(where, entries, kinds):
    if not is_a(entries, dict):
        raise ValueError(f"{where.rstrip('.') or 'it'} is no object")
    for name, kind in kinds.items():
        if not is_a(entries.get(name), kind):
            raise ValueError(f"{where}{name} is missing or of another type")
