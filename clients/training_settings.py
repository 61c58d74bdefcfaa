"""Settings of a client's local training, and the optimiser that they describe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.noise import RegularizationNoise
from hqde_fl.privacy.example_level import DPSGD

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Training:
    """Settings of local training: SGD, Adam or AdamW, FedProx with ``proximal_mu > 0``.

    Parameters
    ----------
    epochs : int, default=1
        Passes over the client's data per round, >= 1.
    batch_size : int, default=32
        Examples per step, >= 1.
    optimizer : {"sgd", "adam", "adamw"}, default="sgd"
        The optimiser; its state is cleared in every round.
    lr : float, default=0.05
        Learning rate, > 0.
    momentum : float, default=0.0
        Momentum of SGD, in [0, 1).
    weight_decay : float, default=0.0
        L2 penalty, >= 0; decoupled with AdamW only.
    proximal_mu : float, default=0.0
        Weight of FedProx's mu / 2 ||w - w_global||^2 (Li et al. 2020), >= 0.
    threads : int, default=1
        Number of torch threads, >= 0; 0 keeps the process's number. It is part of the settings
        because it determines the order of sums: another number changes the last bits.
    device : str, default="auto"
        A torch device, or ``auto`` for a GPU if the process has one, else the CPU.
    regularization_noise : RegularizationNoise, optional
        Noise on the gradients that decays from step to step of a round.
    dp_sgd : DPSGD, optional
        Example-level differential privacy. Then each of epochs x ceil(examples / batch_size) steps
        takes every example with probability batch_size / examples.
    """

    epochs: int = 1
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    threads: int = 1
    device: str = "auto"
    regularization_noise: RegularizationNoise | None = None
    dp_sgd: DPSGD | None = None

    def __post_init__(self) -> None:
        try:
            torch.device(self.placement)
        except RuntimeError:
            raise ConfigError(
                f"Training.device must be 'auto' or a torch device, found {self.device}"
            ) from None
        for name, low in (("epochs", 1), ("batch_size", 1), ("threads", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"Training.{name} must be >= {low}, found {getattr(self, name)}")
        for name in ("weight_decay", "proximal_mu"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"Training.{name} must be finite and >= 0, found {value}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"Training.lr must be finite and > 0, found {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"Training.momentum must be in [0, 1), found {self.momentum}")
        if self.optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", self.optimizer, OPTIMIZERS)
        if self.optimizer != "sgd" and self.momentum:
            raise ConfigError(
                f"Training.momentum must be 0 with optimizer {self.optimizer!r}, "
                f"found {self.momentum}"
            )

    @property
    def placement(self) -> str:
        """The torch device that this process trains on."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def new_optimizer(self, model: nn.Module) -> Optimizer:
        """Return a new optimiser of a model's parameters."""
        if self.optimizer != "sgd":
            adaptive = Adam if self.optimizer == "adam" else AdamW
            return adaptive(model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return SGD(
            model.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
