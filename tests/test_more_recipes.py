"""Which score each method is read by, as its paper or its released script says; by value, not by the table itself."""
import pytest

from losses import LOSSES
from recipes import dismax_score, sdde_score

# DisMax, section 4 and the repository's notes; IsoMax: arXiv 1908.05569; IsoMax+: arXiv 2105.14399
OWN = {"softmax": "MPS", "isomax": "ES", "isomaxplus": "MDS", "dismax": "MMLES", "dismax_fpr": "MMLES"}


@pytest.mark.parametrize("loss", OWN)
def test_each_loss_is_read_by_its_own_score(loss):
    assert set(LOSSES) == set(OWN)
    assert LOSSES[loss][0](4, 3).score_type == OWN[loss], "what classifier.scores returns"
    for dataset in ("cifar10", "cifar100", "digits"):
        for group in ("far", "very_far"):
            assert dismax_score(dataset, loss, group) == OWN[loss]
        near = "MPS" if loss in ("dismax", "dismax_fpr") else OWN[loss]
        assert dismax_score(dataset, loss, "near") == near, "what the repository's notes imply for DisMax"
    assert dismax_score("imagenet1k", loss, "near") == OWN[loss], "stated for ImageNet-O"


@pytest.mark.parametrize(("name", "small", "imagenet"), [
    ("de", "average", "logit-average"), ("ncl", "average", "average"), ("adp", "average", "average"),
    ("dice", "average", "average"), ("gradcam", "minmax", "logit-average"), ("oe", "logit-average", "logit-average"),
    ("gradcam_oe", "logit-average", "logit-average"), ("softmax", "logit-average", "logit-average"),
    ("input_gradient", "logit-average", "logit-average"), ("dismax-5-gradcam", "logit-average", "logit-average")])
def test_each_ensemble_is_read_by_the_score_of_its_script(name, small, imagenet):
    """The evaluation configs of SDDE's repository (see sdde_score); a method without a script by the paper's MAL."""
    assert [sdde_score(dataset, name) for dataset in ("mnist", "cifar10", "cifar100")] == [small] * 3
    assert [sdde_score(dataset, name) for dataset in ("imagenet1k", "imagenet200")] == [imagenet] * 2
