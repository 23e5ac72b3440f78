"""DisMax in a Hugging Face model: train with Trainer, save, and load again with the head.

  python examples/huggingface.py        a few seconds: a tiny vision transformer with random weights, on digits

In your project the model comes from AutoModelForImageClassification.from_pretrained(…). This example needs: pip install
transformers accelerate.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from sklearn.datasets import load_digits
from transformers import AutoConfig, AutoModelForImageClassification, Trainer, TrainingArguments, ViTConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from losses import attach  # after `pip install .`: from dismax import attach


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=6, help="default: 6")
    parser.add_argument("--output", type=Path, help="folder for the saved model (default: a temporary folder)")
    args = parser.parse_args()
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # (n, 1, 8, 8)
    rows = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, digits.target)]

    model = AutoModelForImageClassification.from_config(ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, num_labels=10))
    criterion = attach(model, "dismax")  # replaces the last linear layer of the model

    def compute_loss(outputs, labels, num_items_in_batch=None):
        return criterion(outputs.logits, labels)  # logits are an attribute of the output

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.output or Path(temporary)
        trainer = Trainer(
            model, TrainingArguments(
                folder, num_train_epochs=args.epochs, per_device_train_batch_size=32, learning_rate=5e-3,
                report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
                dataloader_pin_memory=False),
            train_dataset=rows[:1200], compute_loss_func=compute_loss)
        trainer.train()
        trainer.save_model(folder)
        loaded = load(folder)

    with torch.no_grad():
        new = images[1200:].to(model.device)
        logits, again = model.eval()(new).logits, loaded.eval().to(model.device)(new).logits
    accuracy = (logits.cpu().argmax(1) == torch.tensor(digits.target[1200:])).float().mean()
    print(f"accuracy {accuracy:.1%}; largest difference after loading {(logits - again).abs().max():.1g}")


def load(folder):
    """The saved model with its head. `from_pretrained` of the plain class would create a new nn.Linear instead."""
    architecture, = AutoConfig.from_pretrained(folder).architectures

    class WithDisMax(getattr(transformers, architecture)):
        def __init__(self, config):
            super().__init__(config)
            attach(self, "dismax")

    return WithDisMax.from_pretrained(folder)


if __name__ == "__main__":
    main()
