"""Local training and evaluation of one client, reproducible to the bit."""

from __future__ import annotations

import math
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import Dataset

from hqde_fl.clients.batches import call_model, device_of, iterate_batches
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.noise import RegularizationNoise

# What a fault does *inside* training is set around the call, in the process of the faulty client.
# Nothing that arrives in a message can set it.
poison: ContextVar[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None] = ContextVar(
    "poison", default=None
)
"""Changes every training batch ``(x, y)`` while it is set; a ``Poison`` is first told the task."""
idle: ContextVar[bool] = ContextVar("idle", default=False)
"""While set, ``train`` leaves the model as it is and only reports a loss."""

OPTIMIZERS = ("sgd", "adamw")

# The global generators and torch's thread count belong to the process.
_turn = threading.RLock()


class Poison(ABC):
    """A change of training batches that depends on what is learnt."""

    @abstractmethod
    def begin(self, task: Task, data: Dataset[Any], model: nn.Module) -> None:
        """Prepare for training: ``model`` is about to learn ``task`` from ``data``."""

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch to train on instead of ``(x, y)``."""


@dataclass(frozen=True)
class Training:
    """How a client trains: SGD or AdamW, FedProx with ``proximal_mu > 0``.

    Parameters
    ----------
    epochs : int, default=1
        Passes over the client's data per round, >= 1.
    batch_size : int, default=32
        Examples per step, >= 1.
    optimizer : {"sgd", "adamw"}, default="sgd"
        What it remembers is dropped after every round.
    lr : float, default=0.05
        Learning rate, > 0.
    momentum : float, default=0.0
        Of SGD, in [0, 1).
    weight_decay : float, default=0.0
        L2 penalty, >= 0; AdamW's is decoupled.
    proximal_mu : float, default=0.0
        Weight of FedProx's mu / 2 ||w - w_global||^2 (Li et al. 2020), >= 0.
    threads : int, default=1
        torch threads to train with; 0 keeps the process's own number. It is part of the
        configuration because sums are ordered by it: with another number the last bits differ.
    device : str, default="auto"
        Where to train, in torch's spelling. ``auto``: on a GPU if the process may use one.
    regularization_noise : RegularizationNoise, optional
        Noise on the gradients, less of it from step to step of a round.
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
        if self.optimizer == "adamw" and self.momentum:
            raise ConfigError(
                f"Training.momentum must be 0 with optimizer 'adamw', found {self.momentum}"
            )

    @property
    def placement(self) -> str:
        """Where this process trains."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def new_optimizer(self, model: nn.Module) -> Optimizer:
        """A fresh optimiser of the model's parameters."""
        if self.optimizer == "adamw":
            return AdamW(model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return SGD(
            model.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )


@contextmanager
def reproducible(seed: int, threads: int = 0) -> Iterator[None]:
    """Run code with the process's global generators seeded, and put everything back after it.

    They are torch's, and NumPy's and Python's, of which a data set may draw its augmentation. Only
    one thread of the process is inside at a time.

    Parameters
    ----------
    seed : int
        The seed of the global generators inside.
    threads : int, default=0
        The number of torch threads inside; 0 leaves it alone.
    """
    # Asking for CUDA's state would create a context on the GPU in a process that never uses it.
    started = torch.cuda.is_initialized()
    gpus = list(range(torch.cuda.device_count())) if started else []
    with _turn, torch.random.fork_rng(devices=gpus):
        before = torch.get_num_threads()
        states = random.getstate(), np.random.get_state()
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if gpus:
            torch.cuda.manual_seed_all(seed)
        if threads:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            if threads:
                torch.set_num_threads(before)


def train(
    model: nn.Module,
    data: Dataset[Any],
    task: Task,
    training: Training,
    generator: torch.Generator,
    optimizer: Optimizer | None = None,
) -> float:
    """Train a model in place.

    Parameters
    ----------
    model : nn.Module
        Holds the global weights, and the trained ones afterwards.
    data : Dataset
        The client's examples; not empty.
    task : Task
        Says the loss.
    training : Training
        Says how.
    generator : torch.Generator
        All randomness comes from it: the order of the examples and whatever the model draws.
    optimizer : Optimizer, optional
        One that ``training.new_optimizer(model)`` made: what it remembers is dropped.

    Returns
    -------
    float
        The mean loss over all examples seen, without the proximal term.
    """
    if optimizer is None:
        optimizer = training.new_optimizer(model)
    optimizer.state.clear()
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with reproducible(seed, training.threads):
        if idle.get():
            return _first_loss(model, data, task, training)
        return _descend(model, data, task, training, generator, optimizer)


def _descend(
    model: nn.Module,
    data: Dataset[Any],
    task: Task,
    training: Training,
    generator: torch.Generator,
    optimizer: Optimizer,
) -> float:
    transform = poison.get()
    if isinstance(transform, Poison):
        transform.begin(task, data, model)
    mu = training.proximal_mu
    anchors = [(p, p.detach().clone()) for p in model.parameters()] if mu else []
    device, noise, step = device_of(model), training.regularization_noise, 0
    total, seen = torch.zeros((), device=device), 0
    model.train()
    for _ in range(training.epochs):
        for batch in iterate_batches(data, training.batch_size, device, generator, task.collate):
            x, y = batch.inputs, batch.targets
            if transform is not None:
                x, y = transform(x, y)
            optimizer.zero_grad()
            loss = task.loss(call_model(model, x), y)
            loss.backward()
            for parameter, anchor in anchors:  # the gradient of the proximal term
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - anchor, alpha=mu)
            if noise is not None:
                for gradient in (p.grad for p in model.parameters() if p.grad is not None):
                    gradient.add_(noise.drawn(gradient, step, generator))
            optimizer.step()
            step += 1
            total, seen = total + loss.detach() * batch.size, seen + batch.size
    return float(total) / seen


@torch.no_grad()
def _first_loss(model: nn.Module, data: Dataset[Any], task: Task, training: Training) -> float:
    model.eval()  # in training mode a forward pass alone would move running statistics
    batch = next(iterate_batches(data, training.batch_size, device_of(model), collate=task.collate))
    return float(task.loss(call_model(model, batch.inputs), batch.targets))
