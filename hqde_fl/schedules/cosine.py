"""A learning rate that falls along a half cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from hqde_fl.schedules.base import Schedule, require


@final
@dataclass(frozen=True)
class Cosine(Schedule):
    """The learning rate falls along a half cosine over some rounds, and then stays.

    Loshchilov and Hutter 2017 (arXiv:1608.03983), without restarts.

    Parameters
    ----------
    rounds : int
        The rounds over which it falls, >= 1, as a rule those of the run.
    end : float, default=0.0
        The factor after these rounds, in [0, 1].
    """

    rounds: int
    end: float = 0.0

    def __post_init__(self) -> None:
        require(self, "rounds", 1)
        require(self, "end", 0, 1)

    def factor(self, number: int) -> float:
        """Return end + (1 - end) (1 + cos(pi t / rounds)) / 2 with t = number - 1 <= rounds."""
        done = min(number - 1, self.rounds) / self.rounds
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * done)) / 2
