"""Server optimisers, which move the global model by the aggregated update.

They treat the aggregated update Delta as the negative of a gradient (Reddi et al., 2021,
arXiv:2003.00295, algorithm 2). State is explicit: a step takes moments and returns the new ones.
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
from hqde_fl.strategies import catalogue

Moments = Mapping[str, Tensor]
"""Name -> moment of a server optimiser, a tensor (d,)."""


class ServerOptimizer(ABC):
    """Turns an aggregated update into a step. Concrete optimisers are final frozen dataclasses."""

    @abstractmethod
    def step(self, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return the step (d,) that is added to the model, and the new moments.

        Parameters
        ----------
        delta : Tensor
            (d,) the aggregated update.
        moments : Moments
            Moments that the last step returned; empty before the first step.
        """


def _require(optimizer: ServerOptimizer, name: str, low: float, high: float) -> None:
    """Raise ConfigError unless a parameter of an optimiser lies in [low, high)."""
    value = getattr(optimizer, name)
    if not low <= value < high:
        kind = type(optimizer).__name__
        raise ConfigError(f"{kind} needs {name} in [{low:g}, {high:g}), found {value}")


@final
@dataclass(frozen=True)
class SGD(ServerOptimizer):
    """Add the update, optionally with momentum: m <- momentum m + Delta; x <- x + lr m.

    With ``nesterov``: x <- x + lr (Delta + momentum m).

    Parameters
    ----------
    lr : float
        Server learning rate, > 0; 1, the default, adds the update as it is (FedAvg).
    momentum : float
        Fraction of the last velocity that is kept, in [0, 1), by default 0; with momentum it is
        FedAvgM (Hsu et al., 2019, arXiv:1909.06335).
    nesterov : bool
        Add momentum times the new velocity to the update, as Nesterov's momentum does in
        ``torch.optim.SGD``; by default False.
    """

    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _require(self, "lr", 1e-12, torch.inf)
        _require(self, "momentum", 0, 1)

    def step(self, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return the step, and the new velocity as the only moment.

        Without momentum: lr times the update, itself if lr is 1, and no moments.
        """
        if self.momentum == 0:
            return delta if self.lr == 1 else self.lr * delta, {}
        velocity = self.momentum * moments["velocity"] + delta if moments else delta
        step = delta + self.momentum * velocity if self.nesterov else velocity
        return self.lr * step, {"velocity": velocity}


@dataclass(frozen=True)
class AdaptiveOptimizer(ServerOptimizer):
    """Optimiser with the step lr m / (sqrt(v) + tau), without bias correction; v starts at tau^2.

    Parameters
    ----------
    lr : float
        Server learning rate, > 0, by default 0.01.
    beta_1, beta_2 : float
        Decay of the first and second moment, in [0, 1), by default 0.9 and 0.99.
    tau : float
        Degree of adaptivity, > 0, by default 1e-3: added to the root, so that small moments do not
        make large steps.
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
        """Return lr m / (sqrt(v) + tau) and the new moments m ("first") and v ("second").

        m becomes beta_1 m + (1 - beta_1) delta, starting at 0; v becomes ``second_moment`` of v and
        delta^2, starting at tau^2.
        """
        first = moments["first"] if moments else torch.zeros_like(delta)
        second = moments["second"] if moments else torch.full_like(delta, self.tau**2)
        first = self.beta_1 * first + (1 - self.beta_1) * delta
        second = self.second_moment(second, delta.square())
        return self.lr * first / (second.sqrt() + self.tau), {"first": first, "second": second}

    @abstractmethod
    def second_moment(self, second: Tensor, square: Tensor) -> Tensor:
        """Return the new second moment (d,) from the last one and the square of the update."""


@final
@dataclass(frozen=True)
class Adam(AdaptiveOptimizer):
    """FedAdam: the second moment is an exponential mean of the squared updates."""

    def second_moment(self, second: Tensor, square: Tensor) -> Tensor:
        """Return beta_2 times the second moment plus (1 - beta_2) times the square."""
        return self.beta_2 * second + (1 - self.beta_2) * square


@final
@dataclass(frozen=True)
class Yogi(AdaptiveOptimizer):
    """FedYogi: as FedAdam, but the second moment changes by an amount independent of its size."""

    def second_moment(self, second: Tensor, square: Tensor) -> Tensor:
        """Return the second moment, moved towards the square by (1 - beta_2) times the square."""
        return second - (1 - self.beta_2) * square * (second - square).sign()


SERVER_OPTIMIZERS: Registry[ServerOptimizer] = catalogue.SERVER_OPTIMIZERS
