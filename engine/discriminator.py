"""The training of DICE's discriminator, one step for each step of the ensemble."""
import torch

from engine import distributed


def discriminator_of(diversity_loss, recipe):
    """The DiscriminatorTrainer of a diversity loss; None where the loss has no discriminator."""
    found = getattr(diversity_loss, "discriminator", None)
    return DiscriminatorTrainer(found, recipe.discriminator_lr, recipe.clip) if found else None


class DiscriminatorTrainer:
    """The discriminator and its optimizer (RMSprop, momentum 0.9, weight decay 5e-4), a step for each of ours.

    Args:
        discriminator: a losses.diversity.DiceDiscriminator.
        lr: learning rate.
        clip: largest norm of its gradients; 0: not clipped.
    """

    names = ("discriminator_loss", "discriminator_accuracy")

    def __init__(self, discriminator, lr, clip=0.0):
        self.discriminator, self.clip = discriminator, clip
        self.optimizer = torch.optim.RMSprop(discriminator.parameters(), lr, momentum=0.9, weight_decay=5e-4)

    def zero_grad(self):
        self.optimizer.zero_grad()

    def backward(self, features, labels, share=1.0):
        """Add the gradients of detached features; returns loss and accuracy, (2), detached, times `share`.

        share: what part of a batch these are. Over all parts of a batch the shares add up to 1.
        """
        loss, accuracy = self.discriminator.loss(features, labels)
        (loss * share).backward()
        return torch.stack([loss.detach(), accuracy]) * share

    def update(self):
        """Learn from the gradients of all ranks."""
        for p in self.discriminator.parameters():
            if p.grad is None:  # a batch smaller than the number of ranks leaves some without
                p.grad = torch.zeros_like(p)
            distributed.all_reduce_sum(p.grad)
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.clip)
        self.optimizer.step()

    def prepare_recording(self):
        """Count steps on the device: a recorded step cannot count on the CPU."""
        for group in self.optimizer.param_groups:
            group["capturable"] = group["params"][0].is_cuda  # refused where nothing can be recorded
        self.optimizer._warned_capturable_if_run_uncaptured = True  # the first steps are eager, without a warning
        for parameter, state in self.optimizer.state.items():
            state["step"] = state["step"].to(parameter.device)

    def tensors(self):
        """name → tensor that a step changes in place."""
        found = {f"discriminator.{name}": p for name, p in self.discriminator.named_parameters()}
        for k, state in enumerate(self.optimizer.state.values()):
            found |= {f"discriminator's {name} {k}": value for name, value in state.items()}
        return found

    def state_dict(self):
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # it may come from a device that records
            group["capturable"] = False
        for values in self.optimizer.state.values():
            values["step"] = values["step"].cpu()
