"""attach(): the last linear layer of networks of torchvision, timm, Hugging Face and of one's own, and no other."""
import copy

import pytest
import torch
from torch import nn

import losses
from losses import LOSSES, LossFirstPart, attach

PIXELS = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])


def heads(model):
    return [name for name, module in model.named_modules() if isinstance(module, LossFirstPart)]


def trains(model, criterion, inputs=PIXELS, logits_of=lambda output: output):
    """A step reaches the head and what lies before it, and the head detects afterwards."""
    classifier = criterion.model_classifier
    model.train()
    x, y = criterion.preprocess(inputs, LABELS)
    logits = logits_of(model(x))
    criterion(logits, y).backward()
    assert logits.shape == (4, classifier.num_classes)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in classifier.parameters())
    before = [p for name, p in model.named_parameters() if not any(name.startswith(head) for head in heads(model))]
    assert sum(p.grad is not None and bool(p.grad.any()) for p in before) > len(before) / 2
    model.eval()
    with torch.no_grad():
        logits = logits_of(model(inputs))
        classifier.set_thresholds(logits)
        assert classifier.detect(logits, 0).all() and not classifier.detect(logits, 1).any()


# ---- torchvision ----

@pytest.mark.parametrize("name, layer", [
    ("resnet18", "fc"), ("vgg11", "classifier.6"), ("densenet121", "classifier"),
    ("mobilenet_v3_small", "classifier.3"), ("efficientnet_b0", "classifier.1"), ("convnext_tiny", "classifier.2"),
    ("shufflenet_v2_x0_5", "fc"),
    ("swin_t", "head"), ("vit_b_32", "heads.head"), ("alexnet", "classifier.6"), ("maxvit_t", "classifier.5"),
    ("mnasnet0_5", "classifier.1"),
])
def test_torchvision_finds_the_layer(name, layer):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.get_model(name, num_classes=7)
    criterion = attach(model, "dismax")
    assert heads(model) == [layer] and model.get_submodule(layer) is criterion.model_classifier
    assert criterion.model_classifier.num_classes == 7 and criterion.model_classifier.prototypes.is_meta


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvision_trains(name, loss):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.get_model(name)
    trains(model, attach(model, loss, num_classes=3))


# ---- timm ----

@pytest.mark.parametrize("name, layer", [
    ("resnet18", "fc"), ("efficientnet_b0", "classifier"), ("convnext_atto", "head.fc"),
    ("vit_tiny_patch16_224", "head"), ("mobilenetv4_conv_small", "classifier"), ("caformer_s18", "head.fc.fc2"),
    ("inception_v4", "last_linear"),
    ("efficientvit_b0", "head.classifier.4"), ("swin_tiny_patch4_window7_224", "head.fc"),
])
def test_timm_finds_the_layer(name, layer):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=11)
    criterion = attach(model, "isomaxplus", num_classes=5)
    assert heads(model) == [layer] and criterion.model_classifier.num_classes == model.num_classes == 5


@pytest.mark.parametrize("name, options", [
    ("resnet10t", {}), ("convnext_atto", {"depths": (1, 1, 1, 1)}), ("mobilenetv4_conv_small", {}),
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}),
])
def test_timm_trains(name, options):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    trains(model, attach(model, "dismax", num_classes=3, regularization="fpr"))


# ---- Hugging Face ----

def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    options = {
        "ViT": {"image_size": 64, **small}, "DeiT": {"image_size": 64, **small}, "Bert": {"vocab_size": 50, **small},
        "Roberta": {"vocab_size": 50, **small},
        "ResNet": {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"},
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "pad_token_id": 0},
        "ConvNext": {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2},
    }[name]
    kind = "Sequence" if name in ("Bert", "Roberta", "GPT2") else "Image"
    model = getattr(transformers, f"{name}For{kind}Classification")
    return model(getattr(transformers, f"{name}Config")(num_labels=7, **options))


@pytest.mark.parametrize("name, layer", [
    ("ViT", "classifier"), ("DeiT", "classifier"), ("ResNet", "classifier.1"), ("ConvNext", "classifier"),
    ("Bert", "classifier"), ("Roberta", "classifier.out_proj"), ("GPT2", "score"),
])
def test_hugging_face(name, layer):
    """GPT2's head sees every token: (B, tokens, F)."""
    model = hugging_face(name)
    text = name in ("Bert", "Roberta", "GPT2")
    inputs = torch.randint(1, 50, (4, 6), generator=torch.Generator().manual_seed(0)) if text else PIXELS
    criterion = attach(model, "dismax", num_classes=3)
    assert heads(model) == [layer] and model.config.num_labels == 3
    trains(model, criterion, inputs, lambda output: output.logits)
    with pytest.raises(ValueError, match=r"A Hugging Face model's logits are its output's `\.logits`"):
        criterion(model(inputs), LABELS)


# ---- modules of one's own ----

class Net(nn.Module):
    def __init__(self, order):
        super().__init__()
        for name in order:
            setattr(self, name, nn.Linear(8, 3) if name in ("classifier", "out") else nn.Linear(8, 8))


def test_plain_modules():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    attach(model, "isomax")
    assert heads(model) == ["3"]
    attach(model, "dismax_fpr", num_classes=5)
    assert type(model[3]) is losses.DisMaxLossFirstPart and model[3].num_classes == 5, "a head can be replaced, too"
    for order, layer in ((("body", "classifier"), "classifier"), (("fc1", "fc2", "out"), "out")):
        model = Net(order)
        attach(model, "softmax")
        assert heads(model) == [layer]
    chain = nn.Sequential(nn.Linear(8, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    attach(chain, "softmax")
    assert heads(chain) == ["1.1"], "of a chain of equal layers the last"


def test_device_dtype_mode_and_every_name():
    model = Net(("body", "classifier")).to(torch.bfloat16).eval()
    model.alias = model.classifier
    head = attach(model, "dismax").model_classifier
    assert head.prototypes.dtype == torch.bfloat16 and head.temperature.dtype == torch.float32 and not head.training
    assert model.alias is model.classifier is head
    assert attach(Net(("body", "classifier")).double(), "softmax").model_classifier.weights.dtype == torch.float64


def test_options_go_to_the_criterion():
    model = lambda: nn.Sequential(nn.Linear(8, 3))
    assert attach(model(), "dismax", regularization="fpr", alpha=0.5).alpha == 0.5
    assert attach(model(), "dismax_fpr").mixes and attach(model(), "dismax_fpr", regularization="fpr").mixes
    assert not attach(model(), "dismax").mixes
    assert attach(model(), "isomax", entropic_scale=5.0, label_smoothing=0.1).logit_scale == 5


def test_layer_says_which():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.inception_v3(num_classes=7, init_weights=False)
        vgg = models.vgg11()
    attach(model, "dismax", layer="fc")
    assert heads(model) == ["fc"]
    attach(vgg, "dismax", layer="classifier")
    assert heads(vgg) == ["classifier.6"], "a module that holds it"
    attach(vgg, "dismax", layer="classifier.3")
    assert "classifier.3" in heads(vgg)


def ambiguous(name):
    if name == "Inception":
        models = pytest.importorskip("torchvision.models")
        with torch.device("meta"):
            return models.inception_v3(init_weights=False)
    if name == "GoogLeNet":
        models = pytest.importorskip("torchvision.models")
        with torch.device("meta"):
            return models.googlenet(init_weights=False)
    if name == "SqueezeNet":
        return pytest.importorskip("torchvision.models").squeezenet1_1()
    if name == "DeiT":
        timm = pytest.importorskip("timm")
        with torch.device("meta"):
            return timm.create_model("deit_tiny_distilled_patch16_224")
    if name == "DeiTWithTeacher":
        transformers = pytest.importorskip("transformers")
        with torch.device("meta"):
            return transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(num_labels=5))
    if name == "headless":
        timm = pytest.importorskip("timm")
        with torch.device("meta"):
            return timm.create_model("vit_tiny_patch16_224", num_classes=0)
    return {"head first": Net(("classifier", "body")), "equal": Net(("out", "classifier")),
            "attention": nn.MultiheadAttention(8, 2), "linear": nn.Linear(8, 3)}[name]


@pytest.mark.parametrize("name, message", [
    ("Inception", r"Inception3 has more than one .*: AuxLogits.fc, fc\. Say which: .*layer='fc'"),
    ("GoogLeNet", r"aux1.fc2, aux2.fc2, fc\. Say which: .*layer='fc'"),
    ("DeiT", r"head, head_dist\. Say which: .*layer='head'"),
    ("DeiTWithTeacher", r"cls_classifier, distillation_classifier\. Say which"),
    ("SqueezeNet", "no linear layer that could be its last one. It has no nn.Linear at all"),
    ("headless", r"no linear layer that could be its last one. Its linear layers: .*blocks.11.mlp.fc2"),
    ("head first", r"more than one .*: classifier, body\. Say which"), ("equal", "more than one .*: out, classifier"),
    ("attention", "no linear layer"), ("linear", "the model is a linear layer itself"),
])
def test_ambiguous_or_none_is_refused_with_the_candidates(name, message):
    model = ambiguous(name)
    with pytest.raises(ValueError, match=message):
        attach(model, "dismax")
    assert not heads(model)


@pytest.mark.parametrize("call, message", [
    (lambda model: attach(model, "dismaxx"), "unknown loss 'dismaxx': choose from softmax, isomax"),
    (lambda model: attach(model, "isomax", regularization="fpr"), "belongs to \"dismax\", not to 'isomax'"),
    (lambda model: attach(model, "dismax", regularization="FPR"), 'regularization must be None or "fpr"'),
    (lambda model: attach(model, "dismax", layer="head"), r"no layer 'head'\. Its linear layers: 0\. Say which"),
    (lambda model: attach(model, "dismax", layer=""), "a layer inside the model"),
    (lambda model: attach(model, "dismax", layer="1"), "no linear layer"),
    (lambda model: attach(model, "dismax", num_classes=0), "at least 1"),
    (lambda model: attach(nn.DataParallel(model), "dismax"), "before it is wrapped by DataParallel"),
    (lambda model: attach(model, "dismax_fpr", alpha=-1.0), "alpha must be a number of at least 0, got -1"),
    (lambda model: attach(model, "dismax", alpha=float("nan")), "alpha must be a number of at least 0, got nan"),
    (lambda model: attach(model, "isomax", entropic_scale=0.0), "entropic_scale must be a number above 0, got 0"),
    (lambda model: attach(model, "isomaxplus", entropic_scale=float("inf")), "entropic_scale must be .* got inf"),
])
def test_bad_arguments_change_nothing(call, message):
    model = nn.Sequential(nn.Linear(8, 3), nn.ReLU())
    with pytest.raises(ValueError, match=message):
        call(model)
    assert not heads(model)


def test_a_lazy_layer_needs_a_batch_first_and_a_model_is_a_module():
    model = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(3))
    with pytest.raises(ValueError, match="the layer 2 is lazy and does not know its number of features yet"):
        attach(model, "dismax")
    model(torch.randn(4, 8))
    assert attach(model, "dismax").model_classifier.num_features == 6
    with pytest.raises(TypeError, match="model must be an nn.Module, got 'resnet18'"):
        attach("resnet18", "dismax")


def test_the_mistake_that_attach_prevents_is_noticed_with_it_too():
    """A layer that is not the last one: the criterion sees logits of another size."""
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    criterion = attach(model, "dismax", layer="0")
    with pytest.raises(ValueError, match="were not made by this criterion's classifier, which has 6 classes"):
        criterion(model(torch.randn(4, 8)), LABELS)


def test_compiled_copied_and_averaged_models():
    """The criterion goes on referring to the head of the model that it was made for."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    criterion = attach(model, "dismax")
    twin = copy.deepcopy(model)
    assert criterion(twin(torch.randn(4, 8)), LABELS).isfinite()
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    criterion = attach(model, "dismax")
    compiled = torch.compile(model, backend="aot_eager")
    assert criterion(compiled(torch.randn(4, 8)), LABELS).isfinite()
