"""Training of ensembles: what a step minimises, what each method is shown, and that a network is an ensemble of one."""
import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_like, script

from data.datasets import CATALOG, EXPOSURE, OPENOOD, OUTLIERS
from data.loaders import ResidentImages
from engine import checkpoint
from engine.batches import batches_of, outlier_batches
from engine.build import build_ensemble, build_model, build_network, build_training_loss
from engine.discriminator import DiscriminatorTrainer
from engine.pretrained import initialise
from engine.training_loss import frozen_statistics
from losses import LOSSES
from losses.diversity import DiceDiscriminator, NCLDiversityLoss
from recipes import METHODS, RECIPES, method_of, name_of, recipe_of
from utils.io import UserError

CPU = torch.device("cpu")


def training_loss_of(name, model="lenet", **choices):
    torch.manual_seed(0)
    run = run_like(name, model, choices=choices)
    return build_training_loss(build_model(run, 7), run)


# ---- recipes (sdde.md section 2.4) ----

def test_published_recipes():
    for dataset, epochs in (("mnist", 50), ("cifar10", 100), ("cifar100", 100)):
        for method in ("de", "ncl", "adp", "dice", "gradcam"):
            recipe = recipe_of(dataset, method)
            assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (epochs, 128, 0.1, 5e-4)
            assert recipe.milestones == () and recipe.final_lr == 1e-6 and recipe.select_on == "openood"
            assert (recipe.padding, recipe.flip) == (4, True), "digits are mirrored, too"
    weights = {name: recipe_of("cifar10", name).diversity_weight for name in ("de", "ncl", "adp", "dice", "gradcam")}
    assert weights == {"de": 0, "ncl": 0.1, "adp": 0.1, "dice": 0.2, "gradcam": 0.005}
    assert recipe_of("mnist", "gradcam").diversity_weight == 0.1
    assert (recipe_of("cifar10", "adp").adp_alpha, recipe_of("cifar10", "adp").adp_beta) == (2, 0.5)
    dice = {name: recipe_of(name, "dice") for name in ("mnist", "cifar10", "cifar100", "imagenet1k")}
    assert {name: r.per_class for name, r in dice.items()} == {
        "mnist": 16, "cifar10": 16, "cifar100": 2, "imagenet1k": 2}
    assert {name: r.discriminator_lr for name, r in dice.items()} == {
        "mnist": 1e-3, "cifar10": 1e-5, "cifar100": 1e-5, "imagenet1k": 1e-5}
    assert all((r.clip, r.ramp_epochs) == (1.0, 20) for r in dice.values()) and dice["imagenet1k"].epochs == 100
    imagenet = recipe_of("imagenet1k", "gradcam")
    assert (imagenet.epochs, imagenet.lr, imagenet.batch_size, imagenet.micro_batch, imagenet.initial) == (
        30, 1e-3, 512, 32, "pretrained")
    assert recipe_of("imagenet1k", "de").micro_batch == 16
    outlier = recipe_of("cifar10", "gradcam_oe")
    assert (outlier.outlier_weight, outlier.outlier_batch, outlier.diversity_weight) == (0.5, 256, 0.005)
    assert EXPOSURE == {"cifar10": "tinyimagenet597", "cifar100": "tinyimagenet597", "imagenet200": "imagenet800"}
    outlier = recipe_of("imagenet200", "oe")
    assert (outlier.epochs, outlier.lr, outlier.batch_size, outlier.outlier_batch, outlier.micro_batch) == (
        90, 0.1, 256, 256, 32)
    assert outlier.initial == "random" and outlier.select_on == "openood"
    assert all(METHODS[name].members == 5 and METHODS[name].head == "softmax" for name in METHODS
               if METHODS[name].paper == "sdde")


def test_the_cosine_falls_step_by_step_to_its_end():
    recipe = recipe_of("cifar10", "de")
    t, total = 12 * 391 + 100, 100 * 391
    m = 1e-6 / 0.1
    assert recipe.lr_at(13, 100, 391) == pytest.approx(0.1 * (m + (1 - m) * 0.5 * (1 + np.cos(np.pi * t / total))))
    assert recipe.lr_at(1, 0, 391) == pytest.approx(0.1) and recipe.lr_at(101, 0, 391) == pytest.approx(1e-6)


def test_labels_of_methods():
    """A published triple has one name, whichever way it was asked for; another has its choices for a name."""
    assert name_of("de", METHODS["de"].changed(diversity="gradcam")) == "gradcam"
    assert name_of("gradcam", METHODS["gradcam"].changed(members=3)) == "de-3-gradcam"
    assert name_of("softmax", METHODS["softmax"].changed(members=5)) == "softmax-5-none", "by the other paper's recipe"
    assert method_of("de-1-none")[1].choices() == METHODS["softmax"].choices()
    assert name_of(*method_of("de-1-none")) == "de-1-none"
    free = METHODS["dismax"].changed(members=5, diversity="gradcam")
    assert name_of("dismax", free) == "dismax-5-gradcam" and method_of("dismax-5-gradcam") == ("dismax", free)
    assert method_of("isomax-3-none-svhn")[1].outliers == "svhn"
    for wrong in ("dismax-5", "dismax-x-gradcam", "dismax-5-cam", "ndismax"):
        with pytest.raises(ValueError, match="unknown method"):
            method_of(wrong)


def test_members_start_from_trained_weights(tmp_path):
    """All from the same, as SDDE's; those that share their batches with heads of their own."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(num_classes=7)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    for same_heads in (True, False):
        net = build_ensemble("resnet18", 7, LOSSES["softmax"][0], 2)
        initialise(net, "resnet18", str(tmp_path / "weights.pth"), same_heads)
        x = torch.randn(2, 3, 64, 64)
        logits = net.eval()(x)
        assert torch.allclose(logits[0], theirs.eval()(x), atol=1e-5) == same_heads
        assert torch.equal(logits[0], logits[1]) == same_heads
        assert torch.equal(net.members[0].body.conv1.weight, net.members[1].body.conv1.weight)
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        initialise(net, "resnet18", str(tmp_path / "other.pth"), True)
    with pytest.raises(UserError, match="not for lenet"):
        initialise(build_model(run_like("de"), 7), "lenet", "pretrained", True)
    with pytest.raises(UserError, match="does not fit resnet18: of another shape: classifier.bias"):
        initialise(build_network("resnet18", 10, LOSSES["softmax"][0]), "resnet18", str(tmp_path / "weights.pth"), True)


# ---- what each step is given ----

@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 4
    images = rng.integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(64)  # who is who
    return ResidentImages(images, labels, CPU, 28, ((0.5,) * 3, (0.5,) * 3))


def of(name, **changes):
    return run_like(name, batch_size=16, padding=0, flip=False, **changes)


def who(images):
    return ((images[..., 0, 0, 0] * 0.5 + 0.5) * 255).round().int()


def test_own_batches_and_one_member_shown(small):
    run = of("gradcam")
    steps = list(batches_of(small, None, run, 1, 0))
    assert len(steps) == 4
    inputs = torch.cat([x for x, *_ in steps], 1)
    assert inputs.shape == (5, 64, 3, 28, 28)
    assert all(sorted(who(member).tolist()) == list(range(64)) for member in inputs), "each sees each image once"
    assert not torch.equal(who(inputs[0]), who(inputs[1]))
    shown = [next(n for n in range(5) if torch.equal(who(x[n]), who(s))) for x, _, s, _ in steps]
    assert all(torch.equal(y[n], given) for n, (_, y, _, given) in zip(shown, steps))
    many = [next(n for n in range(5) if torch.equal(who(x[n]), who(s)))
            for epoch in range(1, 13) for x, _, s, _ in batches_of(small, None, run, epoch, 0)]
    assert set(many) == set(range(5)), "any member's"
    again = list(batches_of(small, None, run, 1, 2))
    assert all(torch.equal(a, b) for x, y in zip(steps[2:], again) for a, b in zip(x, y)), "from step 2 on, the same"


def test_de_pays_for_no_diversity_pass(small):
    assert all(s is None and y is None for _, _, s, y in batches_of(small, None, of("de"), 1, 0))
    assert not training_loss_of("de").aux_losses


def test_shared_batches(small):
    for loss in ("ncl", "adp"):
        steps = list(batches_of(small, None, of(loss), 1, 0))
        assert all(x.shape == (16, 3, 28, 28) and y.shape == (16,) and s is None for x, y, s, _ in steps)
    steps = list(batches_of(small, None, of("dice", per_class=8), 1, 0))
    assert all(y.bincount()[y.bincount() > 0].tolist() == [8, 8] for _, y, *_ in steps) and len(steps) == 4
    other = list(batches_of(small, None, of("dice", per_class=8), 2, 0))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(steps, other)), "other batches in another epoch"


def test_outliers_are_shown_whole_in_order_without_end(small):
    run = of("de", outlier_batch=20)
    stream = outlier_batches(small, run, 1, 0)
    first = [next(stream) for _ in range(9)]
    assert [len(x) for x in first] == [20, 20, 20, 4] * 2 + [20], "the last, smaller batch of a pass is kept"
    seen = torch.cat([who(x) for x in first[:4]])
    assert sorted(seen.tolist()) == list(range(64)), "each once in a pass"
    assert not torch.equal(seen, torch.cat([who(x) for x in first[4:8]])), "another order in the next pass"
    later = outlier_batches(small, run, 1, 5)
    assert torch.equal(next(later), first[5]) and torch.equal(next(later), first[6])
    assert not torch.equal(who(next(outlier_batches(small, run, 2, 0))), who(first[0])), "an epoch begins anew"
    assert torch.equal(first[0][0], next(small.subset(seen[:1].long()).eval_batches())[0][0]), "not augmented"
    tiny = small.subset(torch.arange(7))
    assert [len(next(outlier_batches(tiny, run, 1, k))) for k in range(3)] == [7] * 3, "smaller than a batch"


# ---- how members start ----

def test_heads_start_with_the_bias_of_their_paper():
    """DisMax's code starts the SoftMax head's bias at 0; SDDE's members have nn.Linear, U(−1/√F, 1/√F)."""
    def biases(loss, **changes):
        torch.manual_seed(0)
        net = build_model(run_like(loss, choices=changes), 7)
        return torch.cat([member.classifier.bias.detach() for member in getattr(net, "members", [net])])
    assert not biases("softmax").any()
    drawn = torch.cat([biases("de", members=50)])
    assert drawn.abs().max() <= 84**-0.5 and drawn.std() == pytest.approx(84**-0.5 / 3**0.5, rel=0.1)


def test_the_discriminators_gradient_is_clipped_by_itself():
    torch.manual_seed(0)
    features, labels = [100 * torch.randn(8, 84) for _ in range(2)], torch.arange(8) // 2
    norms = []
    for clip in (0.0, 1.0):
        torch.manual_seed(0)
        adversary = DiscriminatorTrainer(DiceDiscriminator(7, 84), 1e-3, clip)
        adversary.backward(features, labels)
        adversary.update()
        norms.append(torch.stack([p.grad.norm() for p in adversary.discriminator.parameters()]).norm().item())
    assert norms[0] > 2 and norms[1] == pytest.approx(1, abs=1e-4)


# ---- what a step minimises ----

def data(n=5, b=8):
    torch.manual_seed(1)
    return torch.randn(n, b, 3, 28, 28), torch.randint(0, 7, (n, b))


def test_mean_over_members():
    step = training_loss_of("de")
    x, y = data()
    loss = step(x, y)
    expected = torch.stack([torch.nn.functional.cross_entropy(m(i), t) for m, i, t in zip(step.model.members, x, y)])
    assert torch.allclose(loss, expected.mean()) and step.names == ("loss", "accuracy")
    loss.backward()
    alone = build_network("lenet", 7, LOSSES["softmax"][0])
    alone.load_state_dict(step.model.members[2].state_dict())
    torch.nn.functional.cross_entropy(alone(x[2]), y[2]).backward()
    for ours, theirs in zip(step.model.members[2].parameters(), alone.parameters()):
        assert torch.allclose(ours.grad, theirs.grad / 5, atol=1e-7), "a fifth of its own gradient, as published"


def test_weighted_terms_on_what_is_shown():
    step = training_loss_of("gradcam")
    x, y = data()
    with torch.no_grad():
        plain = training_loss_of("de")(x, y)
    loss = step(x, y, x[3], y[3])
    logits, _, maps = step.model(x[3], return_features=True)
    value = step.aux_losses["diversity"](labels=y[3], logits=logits, feature_maps=maps)
    assert torch.allclose(loss, plain + 0.1 * value, atol=1e-6)
    assert step.names == ("loss", "accuracy", "diversity", "dead_maps")
    assert torch.allclose(step.metrics[2], value.detach()) and 0 <= step.metrics[3] <= 1


def test_shared_batches_reuse_the_training_outputs():
    step = training_loss_of("ncl")
    x, y = data(1)
    loss = step(x[0], y[0])
    logits = step.model(x[0])
    ce = torch.stack([torch.nn.functional.cross_entropy(z, y[0]) for z in logits]).mean()
    assert torch.allclose(loss, ce + 0.1 * NCLDiversityLoss()(logits=logits))


def test_outliers_get_the_ensembles_own_labels():
    step = training_loss_of("gradcam", outliers="svhn")
    x, y = data()
    outliers = torch.randn(6, 3, 28, 28)
    loss = step(x, y, outliers)
    assert step.names == ("loss", "accuracy", "diversity", "outlier", "dead_maps")
    logits, _, maps = step.model(outliers, return_features=True)
    assert torch.equal(step.aux_labels, logits.mean(0).argmax(1))
    cam = step.aux_losses["diversity"](labels=step.aux_labels, logits=logits, feature_maps=maps)
    oe = (logits.logsumexp(2) - logits.mean(2)).mean()
    with torch.no_grad():
        ce = training_loss_of("de")(x, y)
    assert torch.allclose(loss, ce + 0.1 * cam + 0.5 * oe, atol=1e-5)


def test_the_diversity_pass_leaves_batch_statistics_alone():
    """In it BN uses its running statistics, without updating them; the other pass updates them once."""
    torch.manual_seed(0)
    net = build_ensemble("resnet18_32x32", 10, LOSSES["softmax"][0], 2)
    step = build_training_loss(net, run_like("gradcam", "resnet18_32x32", "cifar10", {"members": 2}))
    x, y = torch.randn(2, 4, 3, 32, 32), torch.randint(0, 10, (2, 4))
    step.train()
    step(x, y, x[0], y[0]).backward()
    tracked = {name: b.item() for name, b in net.named_buffers() if name.endswith("num_batches_tracked")}
    assert set(tracked.values()) == {1} and all(m.training for m in step.batch_norms)
    with frozen_statistics(step.batch_norms):
        a = net(x[0])
    assert torch.equal(a, net.eval()(x[0]))


def test_dices_adversary_learns_from_its_own_loss_only():
    step = training_loss_of("dice")
    adversary = DiscriminatorTrainer(step.aux_losses["diversity"].discriminator, 1e-3)
    x, _ = data(1, 8)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    before = [p.clone() for p in adversary.discriminator.parameters()]
    step(x[0], y).backward()
    assert all(p.grad is None for p in adversary.discriminator.parameters())
    loss, accuracy = adversary.backward(step.aux_features, step.aux_labels)
    adversary.update()
    assert 0 <= accuracy <= 1 and loss > 0
    assert not all(torch.equal(a, b) for a, b in zip(before, adversary.discriminator.parameters()))
    assert not set(map(id, adversary.discriminator.parameters())) & set(map(id, step.parameters()))


# ---- whole runs ----

@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """Every diversity loss on digits for an epoch, and a combination of ours; evaluated."""
    folder = tmp_path_factory.mktemp("ensembles")
    for words in (["de"], ["ncl"], ["adp"], ["dice"], ["gradcam"], ["input_gradient"],
                  ["oe", "--outliers", "digits", "--outlier-batch", 16],
                  ["dismax", "--members", 2, "--diversity", "gradcam"]):
        script("train.py", "--dataset", "digits", "--model", "lenet", "--loss", *words, "--epochs", 1, "--batch-size",
               64, "--data-dir", data_dir, "--results-dir", folder, "--device", "cpu")
    script("evaluate.py", *folder.glob("digits/lenet/*/seed1"), "--data-dir", data_dir, "--device", "cpu")
    return folder


def test_every_method_leaves_its_terms_in_the_log(trained):
    expected = {"de": [], "ncl": ["diversity"], "adp": ["diversity"], "gradcam": ["diversity", "dead_maps"],
                "dice": ["diversity", "discriminator_loss", "discriminator_accuracy"], "input_gradient": ["diversity"],
                "de-5-none-digits": ["outlier"], "dismax-2-gradcam": ["diversity", "dead_maps"]}
    assert {path.parent.name for path in trained.glob("digits/lenet/*/seed1")} == set(expected)
    for label, terms in expected.items():
        run = trained / f"digits/lenet/{label}/seed1"
        with open(run / "log.csv") as file:
            row, = csv.DictReader(file)
        names = list(row)
        assert names[names.index("selection_acc") + 1 : names.index("distance_scale")] == terms, label
        assert all(np.isfinite(float(value)) for value in row.values())
        method = json.loads((run / "config.json").read_text())["method"]
        with np.load(run / "logits/digits.npz") as content:
            assert content["logits"].shape == (method["members"], 419, 7)


def test_tables_of_ensembles(trained):
    said = script("analyze.py", "--results-dir", trained).stdout
    assert "openood, LeNet" in said and "SDDE" in said and "dismax-2-gradcam" in said and "ours, common score" in said
    tidy = pd.read_csv(trained / "tables/openood_digits.csv")
    metrics = pd.read_csv(trained / "digits/lenet/gradcam/seed1/metrics.csv", keep_default_na=False)
    metrics = metrics[(metrics.benchmark == "openood") & (metrics.checkpoint == "best") & (metrics.metric == "auroc")]
    for protocol, score in (("as published", "minmax"), ("common score", "logit-average")):
        row = tidy[(tidy.method == "gradcam") & (tidy.protocol == protocol) & (tidy.column == "near AUROC (%)")].iloc[0]
        value = metrics[(metrics.ood_group == "near") & (metrics.score == score)].value
        assert row.ours == pytest.approx(100 * value.mean())
    scores = pd.read_csv(trained / "tables/openood_digits_scores.csv")
    assert set(scores.method) == {"de", "ncl", "adp", "dice", "gradcam", "input_gradient", "de-5-none-digits",
                                "dismax-2-gradcam"}
    assert "minmax" in set(scores.score)


def test_a_search_ranks_weights_by_what_it_was_told_to(tmp_path, data_dir):
    words = ["run_scripts/search_weight.py", "gradcam", "digits", "--weights", 0, 0.5, "--epochs", 1,
             "--data-dir", data_dir, "--results-dir", tmp_path, "--device", "cpu"]
    said = script(*words, "--select", "published").stdout
    table = pd.read_csv(tmp_path / "search/digits_gradcam.csv")
    assert sorted(table.weight) == [0, 0.5] and table.published.is_monotonic_decreasing and "minmax" in said
    done = script(*words, check=False)
    assert done.returncode == 1 and "no outliers to validate by are prepared for digits" in done.stderr
    assert "is finished (1 epochs). Nothing to do" in done.stdout, "not trained twice"


@pytest.mark.parametrize("words, message", [
    (["--per-class", 1], "DICE needs two or more images a class"),
    (["--per-class", 5], "batches that they fill: --per-class 5 and --batch-size 64 don't"),
    (["--per-class", 2], "needs 32 classes, the set has 7"),
])
def test_settings_that_make_no_sense_are_refused_before_training(tmp_path, data_dir, words, message):
    done = script("train.py", "--dataset", "digits", "--model", "lenet", "--loss", "dice", *words, "--device", "cpu",
                  "--data-dir", data_dir, "--results-dir", tmp_path, check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_killed_and_taken_up_again_it_ends_with_the_same_bits(tmp_path, data_dir):
    """DICE: two optimisers, a ramp, class-balanced batches and clipping."""
    words = ["train.py", "--dataset", "digits", "--model", "lenet", "--loss", "dice", "--members", 2, "--batch-size",
             64, "--ramp-epochs", 1, "--data-dir", data_dir, "--device", "cpu", "--epochs", 3,
             "--checkpoint-seconds", 0]
    script(*words, "--results-dir", tmp_path / "undisturbed")
    stopping = ("import runpy, sys\n"
                "from engine import checkpoint\n"
                "save, saved = checkpoint.save_state, []\n"
                "def save_state(path, state):\n"
                "    save(path, state)\n"
                "    saved.append(path.name)\n"
                "    if saved.count('checkpoint.pt') == 2: sys.exit(9)\n"
                "checkpoint.save_state, sys.argv = save_state, sys.argv[1:]\n"
                "runpy.run_path(sys.argv[0], run_name='__main__')\n")
    done = script("-c", stopping, *words, "--results-dir", tmp_path / "cut", check=False)
    run = "digits/lenet/de-2-dice/seed1"
    assert done.returncode == 9 and not (tmp_path / "cut" / run / "weights.pt").exists()
    assert "continues from epoch 3" in script(*words, "--results-dir", tmp_path / "cut").stdout
    a, b = (checkpoint.load_state(tmp_path / name / run / "weights.pt") for name in ("undisturbed", "cut"))
    assert all(torch.allclose(a[key], b[key], rtol=0, atol=0, equal_nan=True) for key in a)


def test_an_ensemble_of_one_is_the_network(tmp_path, data_dir):
    words = ["train.py", "--dataset", "digits", "--model", "lenet", "--epochs", 1, "--data-dir", data_dir,
             "--device", "cpu"]
    script(*words, "--loss", "softmax", "--results-dir", tmp_path / "a")
    script(*words, "--loss", "de", "--members", 1, "--lr", 0.02, "--weight-decay", 5e-4, "--zero-bias", "--results-dir",
           tmp_path / "b")
    a = checkpoint.load_state(tmp_path / "a/digits/lenet/softmax/seed1/weights.pt")
    b = checkpoint.load_state(tmp_path / "b/digits/lenet/de-1-none/seed1/weights.pt")
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[key], b[key], rtol=0, atol=0, equal_nan=True) for key in a)


def test_every_recipe_has_a_benchmark():
    for dataset in {*RECIPES["dismax"], *RECIPES["sdde"]}:
        assert dataset in CATALOG and (dataset in OPENOOD or dataset in OUTLIERS)
