"""A learning rate that changes by the same amount from round to round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hqde_fl.schedules.base import Schedule, require


@final
@dataclass(frozen=True)
class Linear(Schedule):
    """The learning rate falls on a straight line over some rounds, and then stays.

    Parameters
    ----------
    rounds : int
        The rounds over which it falls, >= 1, as a rule those of the run.
    end : float, default=0.0
        The factor after these rounds, >= 0.
    """

    rounds: int
    end: float = 0.0

    def __post_init__(self) -> None:
        require(self, "rounds", 1)
        require(self, "end", 0)

    def factor(self, number: int) -> float:
        """Return 1 + (end - 1) t / rounds with t = number - 1 <= rounds."""
        return 1 + (self.end - 1) * min(number - 1, self.rounds) / self.rounds
