"""A file of the user's adds a network, a head, a diversity loss: one entry each, and every script knows it."""
import json

import pytest
from conftest import script
from PIL import Image

import recipes
from reporting import names
from utils.io import UserError

PLUGIN = '''
import torch
from torch import nn

from losses.base import LossSecondPart
from losses import SoftMaxLossFirstPart
from losses.diversity import NCLDiversityLoss
from models.network import BaseNetwork
from recipes import DIVERSITIES, HEADS, METHODS, NETWORKS, Diversity, Head, Method, Network


class Tiny(BaseNetwork):
    def __init__(self, num_classes, head):
        super().__init__(16, num_classes, head)
        self.first, self.second = nn.Conv2d(3, 8, 5, 2), nn.Conv2d(8, 16, 5, 2)

    def stages(self, images):
        first = torch.relu(self.first(images))
        return [first, torch.relu(self.second(first))]


class LogitNormSecondPart(LossSecondPart):
    def loss_of(self, logits, targets):
        return nn.functional.cross_entropy(logits / logits.norm(dim=1, keepdim=True) / 0.04, targets)


NETWORKS["tiny"] = Network("Tiny", Tiny)
HEADS["logitnorm"] = Head(SoftMaxLossFirstPart, LogitNormSecondPart)
METHODS["logitnorm"] = Method("logitnorm", title="LogitNorm", paper="dismax")
DIVERSITIES["mine"] = Diversity(NCLDiversityLoss, weight=0.1, shared_batch=True)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(PLUGIN)
    return path


@pytest.mark.parametrize(("method", "folder"), [("logitnorm", "logitnorm"), ("logitnorm-2-mine", "logitnorm-2-mine")])
def test_a_new_network_loss_and_diversity_train_evaluate_and_have_a_row(tmp_path, data_dir, plugin, method, folder):
    words = ["--data-dir", data_dir, "--device", "cpu", "--plugin", plugin]
    script("train.py", "--dataset", "digits", "--model", "tiny", "--method", method, "--epochs", 2, "--results-dir",
           tmp_path, *words)
    run = tmp_path / "digits/tiny" / folder / "seed1"
    assert json.loads((run / "config.json").read_text())["plugins"] == [str(plugin)]
    without = script("evaluate.py", run, *words[:-2], check=False)
    assert without.returncode == 1 and "One of a plugin needs --plugin FILE" in without.stderr
    script("evaluate.py", run, *words)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    answers = script("detect.py", run, tmp_path / "red.png", "--plugin", plugin).stdout.splitlines()
    assert len(answers) == 2 and answers[1].rpartition(",")[2] in ("in", "out")


def test_a_plugin_that_fails_says_where(tmp_path, data_dir):
    (tmp_path / "broken.py").write_text("x = 1\nimport nothing_of_this_name\n")
    words = ["train.py", "--dataset", "digits", "--model", "lenet", "--method", "softmax", "--data-dir", data_dir]
    done = script(*words, "--plugin", tmp_path / "broken.py", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "broken.py, line 2: ModuleNotFoundError: No module named 'nothing_of_this_name'" in done.stderr
    done = script(*words, "--plugin", tmp_path / "absent.py", check=False)
    assert done.returncode == 1 and "absent.py: there is no such file" in done.stderr


def test_names_of_a_plugin_are_listed_where_a_name_is_unknown(tmp_path, data_dir, plugin):
    done = script("train.py", "--dataset", "digits", "--model", "tiny", "--method", "logitnrm", "--plugin", plugin,
                  "--data-dir", data_dir, check=False)
    assert done.returncode == 1 and "unknown method 'logitnrm'" in done.stderr and "logitnorm" in done.stderr


@pytest.mark.parametrize(("content", "message"), [
    ("x = 1\ndef (", "broken.py, line 2: SyntaxError"), ("raise SystemExit(3)", "broken.py, line 1: SystemExit"),
    ("from recipes import METHODS\nMETHODS['mine'] = 3", "'mine' is registered as a int, expected a Method"),
    ("from recipes import METHODS\nMETHODS['../x'] = METHODS['softmax']", "'../x' cannot be a name"),
    ("from recipes import NETWORKS\nNETWORKS['mine'] = 3", "'mine' is registered as a int, expected a Network"),
    ("import recipes, utils.recipe as r\nrecipes.NETWORKS['lenet'] = r.Network('', 'nowhere:Nothing')",
     "'nowhere:Nothing' of the registry is no module:class"),
    ("import recipes, torch, utils.recipe as r\nrecipes.NETWORKS['lenet'] = r.Network('', lambda *a: torch.nn.ReLU())",
     "the network lenet has no .classifier"),
    ("import recipes, utils.recipe as r\ndef build(*a):\n  1 / 0\nrecipes.NETWORKS['lenet'] = r.Network('', build)",
     "broken.py, line 3: ZeroDivisionError")])
def test_mistakes_of_a_plugin_are_sentences(tmp_path, data_dir, content, message):
    (tmp_path / "broken.py").write_text(content)
    done = script("train.py", "--dataset", "digits", "--model", "lenet", "--method", "softmax", "--data-dir", data_dir,
                  "--results-dir", tmp_path, "--device", "cpu", "--plugin", tmp_path / "broken.py", check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(("score", "found"), [
    (lambda z: z, "a tensor of shape \\(4, 3\\)"), (lambda z: z.sum(-1) * float("nan"), "NaN or infinity"),
    (lambda z: 3, "a int")])
def test_a_score_that_is_no_number_an_image_is_refused(monkeypatch, score, found):
    import numpy as np

    from engine.metric_rows import every_score
    from losses import calibration

    monkeypatch.setitem(calibration.SCORES, "mine", score)
    with pytest.raises(UserError, match=f"the score mine must give 4 finite numbers .* and gives {found}$"):
        every_score(np.zeros((4, 3), np.float32))


@pytest.mark.parametrize("question", [recipes.score_of, names.is_known])
def test_a_wrong_entry_of_a_plugin_is_named_and_does_not_make_the_other_methods_unknown(monkeypatch, question):
    monkeypatch.setitem(recipes.NETWORKS, "mine", 3)
    with pytest.raises(UserError, match="'mine' is registered as a int"):
        question("dismax-5-gradcam")
