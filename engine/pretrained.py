"""torchvision's ImageNet networks: ResNet18 as the run of the SoftMax row, without a week of GPU time, and ResNet50 as
the start of SDDE's members."""
from engine.build import members_of
from engine.foreign_weights import adopt, load_renamed, read_weights
from recipes import METHODS, recipe_of
from utils.io import UserError
from utils.run_dir import Run, file_digest, run_folder

WEIGHTS = {"resnet18": "ResNet18_Weights.IMAGENET1K_V1", "resnet50": "ResNet50_Weights.IMAGENET1K_V1"}
CLASSES = 1000


def adopt_torchvision(results_dir, file="", write=True):
    """The folder of torchvision's ResNet18 as a run, made if it is not there.

    Args:
        file: the weights' file; "": torchvision downloads them.
        write: False only says which folder it is.

    Its recipe is near the paper's (90 epochs, batch 256, steps of 30) but not the paper's: config.json says so, and no
    table puts it into a paper's row. UserError when the weights cannot be had or are another network's.
    """
    folder = run_folder(results_dir, "imagenet1k", "resnet18", "softmax", 0)  # seed 0: no run that was trained here
    run = Run(folder, "imagenet1k", "resnet18", "softmax", 0, METHODS["softmax"], recipe_of("imagenet1k", "softmax"))
    if write:
        state = torchvision_weights(file)
        digest = file_digest(file) if file else WEIGHTS["resnet18"]
        adopt(run, CLASSES, state, f"torchvision's {WEIGHTS['resnet18']}", digest)
    return folder


def initialise(model, name, source, same_heads):
    """Start every member of an ImageNet network from trained weights, as SDDE does.

    Args:
        name: of the network, "resnet18" or "resnet50".
        source: "pretrained", torchvision's own, or a file of such weights.
        same_heads: whether the last layers are copied, too. Members that share every batch must differ somewhere, or
            they stay one network (published: they do).
    UserError when the weights cannot be had or are another network's.
    """
    if name not in WEIGHTS:
        raise UserError(f"--initial {source} is for {' and '.join(WEIGHTS)}, not for {name}")
    state = torchvision_weights("" if source == "pretrained" else source, name)
    for member in members_of(model):
        own = {key: value.clone() for key, value in member.classifier.state_dict().items()}
        load_renamed(member, state, name, source)
        if not same_heads:
            member.classifier.load_state_dict(own)


def torchvision_weights(file, name="resnet18"):
    """A state dict under torchvision's names."""
    if file:
        return read_weights(file)
    from torchvision import models

    weights = models.get_weight(WEIGHTS[name])
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"torchvision's weights could not be fetched ({error}). Fetch {weights.url} elsewhere and "
                        "name the file") from error
