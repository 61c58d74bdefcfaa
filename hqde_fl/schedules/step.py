"""A learning rate that falls by a factor every few rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hqde_fl.schedules.base import Schedule, require


@final
@dataclass(frozen=True)
class Step(Schedule):
    """The learning rate is multiplied by ``gamma`` after every ``every`` rounds.

    Parameters
    ----------
    every : int
        Rounds with the same learning rate, >= 1.
    gamma : float, default=0.1
        The factor, >= 0.
    """

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        require(self, "every", 1)
        require(self, "gamma", 0)

    def factor(self, number: int) -> float:
        """Return gamma^floor((number - 1) / every)."""
        return float(self.gamma ** ((number - 1) // self.every))
