"""Clients that train with PyTorch Lightning: ``python examples/lightning_client.py``."""

from __future__ import annotations

import logging

import lightning
import torch
from federation import run
from torch import nn
from torch.utils.data import DataLoader, Subset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Digits(lightning.LightningModule):
    """A LightningModule around the model of the federation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Return the loss of a batch."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.model(x), y)
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser; it begins anew in each round."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def train(model: nn.Module, examples: Subset) -> float:
    """Train a model with Lightning's Trainer, and return the mean loss."""
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(model), DataLoader(examples, batch_size=32, shuffle=True))
    return float(trainer.callback_metrics["loss"])


if __name__ == "__main__":
    run(train)
