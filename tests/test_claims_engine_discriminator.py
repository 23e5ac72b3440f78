"""Claims about DICE's discriminator, which learns beside the ensemble."""
from types import SimpleNamespace

import pytest
import torch

from engine import distributed
from engine.discriminator import DiscriminatorTrainer, discriminator_of
from losses.diversity import DiceDiscriminator


def features_of(labels):
    torch.manual_seed(3)
    return [torch.randn(len(labels), 4) for _ in range(2)]


def test_a_discriminators_settings_are_the_recipes():
    torch.manual_seed(0)
    recipe = SimpleNamespace(discriminator_lr=0.25, clip=2.0)
    trainer = discriminator_of(SimpleNamespace(discriminator=DiceDiscriminator(2, 4)), recipe)
    assert trainer.clip == 2 and DiscriminatorTrainer(DiceDiscriminator(2, 4), 0.1).clip == 0
    settings = trainer.optimizer.defaults
    assert (settings["lr"], settings["momentum"], settings["weight_decay"]) == (0.25, 0.9, 5e-4)
    assert isinstance(trainer.optimizer, torch.optim.RMSprop)
    assert discriminator_of(SimpleNamespace(), recipe) is None and discriminator_of(None, recipe) is None


def test_a_discriminator_learns_from_parts_and_ranks(monkeypatch):
    labels = torch.tensor([0, 0, 1, 1])
    torch.manual_seed(0)
    trainer = DiscriminatorTrainer(DiceDiscriminator(2, 4), 0.01)
    loss, accuracy = trainer.discriminator.loss(features_of(labels), labels)
    found = trainer.backward(features_of(labels), labels, 0.25)
    assert found.tolist() == pytest.approx([loss.item() / 4, accuracy.item() / 4]) and not found.requires_grad
    quarter = [p.grad.clone() for p in trainer.discriminator.parameters()]
    trainer.zero_grad()
    whole = trainer.backward(features_of(labels), labels)
    assert whole[0].item() == pytest.approx(loss.item())
    assert all(torch.allclose(4 * q, p.grad, atol=1e-6) for q, p in zip(quarter, trainer.discriminator.parameters()))
    reduced = []
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda grad: reduced.append(grad.norm().item()))
    trainer.zero_grad()
    before = [p.detach().clone() for p in trainer.discriminator.parameters()]
    trainer.update()  # without gradients of its own
    assert reduced == [0.0] * len(before) and all(p.grad is not None for p in trainer.discriminator.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters())]
    assert all(moved), "by weight decay"
    clipped = DiscriminatorTrainer(DiceDiscriminator(2, 4), 0.01, clip=1e-3)
    clipped.backward(features_of(labels), labels)
    clipped.update()
    norm = torch.stack([p.grad.norm() for p in clipped.discriminator.parameters()]).norm().item()
    assert norm == pytest.approx(1e-3, rel=0.01)


def test_a_discriminators_state_is_put_back():
    labels = torch.tensor([0, 0, 1, 1])
    one, two = (DiscriminatorTrainer(DiceDiscriminator(2, 4), 0.01) for _ in range(2))
    one.backward(features_of(labels), labels)
    one.update()
    two.load_state_dict(one.state_dict())
    for a, b in zip(one.tensors().items(), two.tensors().items()):
        assert a[0] == b[0] and torch.equal(a[1], b[1])
    assert {name.split(" ")[0] for name in one.tensors()} >= {"discriminator.embedding.weight", "discriminator's"}
    one.prepare_recording()
    assert one.optimizer._warned_capturable_if_run_uncaptured is True
    assert not any(group["capturable"] for group in one.optimizer.param_groups)
    for group in one.optimizer.param_groups:
        group["capturable"] = True
    two.load_state_dict(one.state_dict())
    assert [group["capturable"] for group in two.optimizer.param_groups] == [False]
    assert all(values["step"].item() == 1 for values in two.optimizer.state.values())
