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
from hqde_fl.schedules import Schedule, scheduled_rate

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Training:
    """Settings of local training: SGD, Adam or AdamW, FedProx with ``proximal_mu > 0``.

    Parameters
    ----------
    epochs : int, default=1
        Passes over the client's data per round, >= 1.
    steps : int, default=0
        Batches that a client trains on in a round instead of ``epochs`` passes, >= 0; 0: the
        passes. 1 is FedSGD, or distributed SGD. The batches are those of passes over the client's
        data, each in an order of its own; every round begins a new pass, unless ``keep_optimizer``
        is set: then a round goes on with the batch after the last one of the client's last round.
    batch_size : int, default=32
        Examples per step, >= 1.
    optimizer : {"sgd", "adam", "adamw"}, default="sgd"
        The optimiser; its state is cleared in every round unless ``keep_optimizer`` is set.
    keep_optimizer : bool, default=False
        Keep the optimiser's state in the client's own state from one of its rounds to the next, and
        with ``steps`` the place in its data.
    lr : float, default=0.05
        Learning rate, > 0.
    lr_schedule : Schedule, optional
        The factor of the learning rate in each round; without one it stays.
    momentum : float, default=0.0
        Momentum of SGD, in [0, 1).
    dampening : float, default=0.0
        Dampening of SGD's momentum, in [0, 1]: m = momentum m + (1 - dampening) gradient. With
        dampening, m begins at zero, so that ``dampening = momentum`` gives an exponential mean of
        the gradients.
    weight_decay : float, default=0.0
        L2 penalty, >= 0; decoupled with AdamW only.
    proximal_mu : float, default=0.0
        Weight of FedProx's mu / 2 ||w - w_global||^2 (Li et al. 2020), >= 0.
    clip_grad_norm : float, default=0.0
        The norm to which the gradient of a batch, over all weights, is clipped, >= 0; 0: never. The
        proximal term, noise and control variates are added afterwards.
    control_variates : bool, default=False
        SCAFFOLD (Karimireddy et al. 2020, arXiv:1910.06378, option II): correct each gradient by
        the server's control variate and the client's own. Needs plain SGD and a server that sends
        its control variate.
    threads : int, default=1
        Number of torch threads, >= 0; 0 keeps the process's number. It is part of the settings
        because it determines the order of sums: another number changes the last bits.
    device : str, default="auto"
        A torch device, or ``auto`` for a GPU if the process has one, else the CPU.
    regularization_noise : RegularizationNoise, optional
        Noise on the gradients that decays from step to step of a round.
    dp_sgd : DPSGD, optional
        Example-level differential privacy. Then each of epochs x ceil(examples / batch_size) steps
        takes every example with probability batch_size / examples; with ``steps``, each of those.
    """

    epochs: int = 1
    steps: int = 0
    batch_size: int = 32
    optimizer: str = "sgd"
    keep_optimizer: bool = False
    lr: float = 0.05
    lr_schedule: Schedule | None = None
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    clip_grad_norm: float = 0.0
    control_variates: bool = False
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
        for name, low in (("epochs", 1), ("steps", 0), ("batch_size", 1), ("threads", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"Training.{name} must be >= {low}, found {getattr(self, name)}")
        for name in ("weight_decay", "proximal_mu", "clip_grad_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"Training.{name} must be finite and >= 0, found {value}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"Training.lr must be finite and > 0, found {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"Training.momentum must be in [0, 1), found {self.momentum}")
        if not 0 <= self.dampening <= 1:
            raise ConfigError(f"Training.dampening must be in [0, 1], found {self.dampening}")
        if self.dampening and not self.momentum:
            raise ConfigError(
                f"Training.dampening is for momentum > 0, found {self.dampening} and momentum 0"
            )
        if self.steps and self.epochs != 1:
            raise ConfigError(
                f"Training.steps takes the place of epochs: set one of them, found steps = "
                f"{self.steps} and epochs = {self.epochs}"
            )
        if self.optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", self.optimizer, OPTIMIZERS)
        if self.optimizer != "sgd" and self.momentum:
            raise ConfigError(
                f"Training.momentum must be 0 with optimizer {self.optimizer!r}, "
                f"found {self.momentum}"
            )
        if self.dp_sgd is not None and self.clip_grad_norm:
            raise ConfigError(
                "Training.clip_grad_norm must be 0 with dp_sgd, which clips each example's "
                f"gradient to its max_grad_norm, found {self.clip_grad_norm}"
            )
        if self.control_variates:
            self._check_control_variates()

    def _check_control_variates(self) -> None:
        """Raise ``ConfigError`` unless a client's update is the sum of its corrected gradients."""
        found = [
            text
            for text, is_other in (
                (f"optimizer {self.optimizer!r}", self.optimizer != "sgd"),
                (f"momentum = {self.momentum}", self.momentum > 0),
                (f"proximal_mu = {self.proximal_mu}", self.proximal_mu > 0),
                ("dp_sgd", self.dp_sgd is not None),
            )
            if is_other
        ]
        if found:
            raise ConfigError(
                "Training.control_variates needs plain SGD, without momentum, proximal term and "
                f"dp_sgd: the updates tell the mean gradient then, found {found[0]}"
            )

    @property
    def keeps_state(self) -> bool:
        """True if a client keeps something of its training from one round to the next."""
        return self.keep_optimizer or self.control_variates

    def rate(self, number: int) -> float:
        """Return the learning rate in a round, which counts from 1.

        Raises
        ------
        ConfigError
            If a schedule of the user's own gives a factor that is not finite, or below 0.
        """
        return scheduled_rate(self.lr, self.lr_schedule, number)

    def part_done(self, work: float) -> float:
        """Return the part of its training that a client does of a part that it is asked for.

        That is all of it if ``steps``, which are whole, leave nothing out.

        Parameters
        ----------
        work : float
            The part that it is asked for, in (0, 1].
        """
        return 1.0 if self.steps and math.ceil(work * self.steps) == self.steps else work

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
            dampening=self.dampening,
            weight_decay=self.weight_decay,
        )
