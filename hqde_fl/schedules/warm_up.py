"""A learning rate that grows on a straight line before another schedule begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from hqde_fl.schedules.base import Schedule, require
from hqde_fl.schedules.constant import Constant


@final
@dataclass(frozen=True)
class WarmUp(Schedule):
    """The learning rate grows on a straight line for some rounds; then another schedule begins.

    Goyal et al. 2017 (arXiv:1706.02677), over rounds instead of steps.

    Parameters
    ----------
    rounds : int
        The rounds over which it grows, >= 1; in the last of them it is the full learning rate.
    start : float, default=0.0
        The factor from which it grows, in [0, 1]. That of the first round is above it.
    then : Schedule
        The schedule that begins after these rounds; by default the learning rate stays.
    """

    rounds: int
    start: float = 0.0
    then: Schedule = field(default_factory=Constant)

    def __post_init__(self) -> None:
        require(self, "rounds", 1)
        require(self, "start", 0, 1)

    def factor(self, number: int) -> float:
        """Return start + (1 - start) number / rounds, or the other schedule's factor afterwards."""
        if number > self.rounds:
            return self.then.factor(number - self.rounds)
        return self.start + (1 - self.start) * number / self.rounds
