"""Clients that train with the Trainer of Hugging Face: ``python examples/trainer_client.py``."""

from __future__ import annotations

import tempfile

import torch
from federation import run
from torch import nn
from torch.utils.data import Subset
from transformers import Trainer, TrainingArguments


class WithLoss(nn.Module):
    """The model of the federation as the Trainer wants it: a loss and scores, by name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return loss and scores of a batch."""
        scores = self.model(x)
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


def collate(examples: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return a batch with the names of the arguments of ``forward``."""
    x, labels = zip(*examples, strict=True)
    return {"x": torch.stack(x), "labels": torch.stack(labels)}


def train(model: nn.Module, examples: Subset) -> float:
    """Train a model with Hugging Face's Trainer, and return the mean loss."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=2,
            per_device_train_batch_size=32,
            learning_rate=0.01,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(WithLoss(model), arguments, train_dataset=examples, data_collator=collate)
        return float(trainer.train().training_loss)


if __name__ == "__main__":
    run(train)
