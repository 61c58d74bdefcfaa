"""A learning rate that falls by a factor after given rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hqde_fl.errors import ConfigError
from hqde_fl.schedules.base import Schedule, require


@final
@dataclass(frozen=True)
class MultiStep(Schedule):
    """The learning rate is multiplied by ``gamma`` after each of some rounds.

    Parameters
    ----------
    milestones : tuple[int, ...]
        The rounds after which it is, ascending, each >= 1.
    gamma : float, default=0.1
        The factor, >= 0.
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        require(self, "gamma", 0)
        rounds = list(self.milestones)
        if not rounds or rounds != sorted(set(rounds)) or rounds[0] < 1:
            raise ConfigError(
                f"MultiStep needs milestones that are ascending rounds >= 1, found {rounds}"
            )

    def factor(self, number: int) -> float:
        """Return gamma to the power of the number of milestones before the round."""
        return float(self.gamma ** sum(milestone < number for milestone in self.milestones))
