"""Server optimisers: how the aggregated update moves the global model.

The aggregated update Delta is treated as the negative of a gradient (Reddi et al., 2021,
arXiv:2003.00295, algorithm 2). State is explicit: a step takes it and returns the new one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.registry import Registry

Moments = Mapping[str, Tensor]
"""The moments that an optimiser keeps, each (d,)."""


class ServerOptimizer(ABC):
    """Turns an aggregated update into a step. Concrete ones are final frozen dataclasses."""

    @abstractmethod
    def step(self, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """What to add to the model (d,) for an aggregated update (d,), and the new moments."""


def _require(optimizer: ServerOptimizer, name: str, low: float, high: float) -> None:
    value = getattr(optimizer, name)
    if not low <= value < high:
        kind = type(optimizer).__name__
        raise ConfigError(f"{kind} needs {name} in [{low:g}, {high:g}), found {value}")


@final
@dataclass(frozen=True)
class SGD(ServerOptimizer):
    """Add the update, optionally with momentum: m <- momentum m + Delta; x <- x + lr m.

    Parameters
    ----------
    lr : float
        Server learning rate; 1 adds the update as it is (FedAvg).
    momentum : float
        In [0, 1); FedAvgM (Hsu et al., 2019, arXiv:1909.06335).
    """

    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _require(self, "lr", 1e-12, torch.inf)
        _require(self, "momentum", 0, 1)

    def step(self, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """One step."""
        if self.momentum == 0:
            return self.lr * delta, {}
        velocity = self.momentum * moments["velocity"] + delta if moments else delta
        return self.lr * velocity, {"velocity": velocity}


@dataclass(frozen=True)
class Adaptive(ServerOptimizer):
    """Step lr m / (sqrt(v) + tau), no bias correction; v starts at tau^2.

    Parameters
    ----------
    lr : float
        Server learning rate.
    beta_1, beta_2 : float
        Decay of the first and second moment, in [0, 1).
    tau : float
        Degree of adaptivity, added to the root.
    """

    lr: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("lr", "tau"):
            _require(self, name, 1e-12, torch.inf)
        for name in ("beta_1", "beta_2"):
            _require(self, name, 0, 1)

    def step(self, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """One step."""
        first = moments["first"] if moments else torch.zeros_like(delta)
        second = moments["second"] if moments else torch.full_like(delta, self.tau**2)
        first = self.beta_1 * first + (1 - self.beta_1) * delta
        second = self.second_moment(second, delta.square())
        return self.lr * first / (second.sqrt() + self.tau), {"first": first, "second": second}

    @abstractmethod
    def second_moment(self, second: Tensor, square: Tensor) -> Tensor:
        """The new second moment (d,), given the square of the update."""


@final
@dataclass(frozen=True)
class Adam(Adaptive):
    """FedAdam: step lr m / (sqrt(v) + tau), v an exponential mean of squares."""

    def second_moment(self, second: Tensor, square: Tensor) -> Tensor:
        """Decay, and add the square."""
        return self.beta_2 * second + (1 - self.beta_2) * square


@final
@dataclass(frozen=True)
class Yogi(Adaptive):
    """FedYogi: as FedAdam, but the second moment moves by an amount independent of it."""

    def second_moment(self, second: Tensor, square: Tensor) -> Tensor:
        """Move towards the square, by a fraction of the square."""
        return second - (1 - self.beta_2) * square * (second - square).sign()


SERVER_OPTIMIZERS: Registry[ServerOptimizer] = Registry(
    "server optimizer",
    ServerOptimizer,  # type: ignore[type-abstract]
    {"adam": Adam, "sgd": SGD, "yogi": Yogi},
)
