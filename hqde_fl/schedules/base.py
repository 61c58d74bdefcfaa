"""The base class of learning-rate schedules, and the rate that one gives in a round."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from hqde_fl.errors import ConfigError
from hqde_fl.own_modules import own_code


class Schedule(ABC):
    """Gives the factor of a learning rate in each round. Schedules are frozen dataclasses."""

    @abstractmethod
    def factor(self, number: int) -> float:
        """Return the factor of the learning rate in a round, finite and >= 0.

        Parameters
        ----------
        number : int
            The round, from 1.
        """


def scheduled_rate(rate: float, schedule: Schedule | None, number: int) -> float:
    """Return the learning rate in a round.

    Parameters
    ----------
    rate : float
        The learning rate without the schedule.
    schedule : Schedule, optional
        The schedule; without one the rate is the same in every round.
    number : int
        The round, from 1; a message without a round counts as round 1.

    Raises
    ------
    ConfigError
        If a schedule of the user's own gives a factor that is not finite, or below 0.
    """
    if schedule is None:
        return rate
    number = max(1, number)
    with own_code(f"schedule {schedule}"):
        factor = float(schedule.factor(number))
    if not (math.isfinite(factor) and factor >= 0):
        raise ConfigError(f"{schedule}.factor({number}) must be finite and >= 0, found {factor}")
    return rate * factor


def require(schedule: Schedule, name: str, low: float, high: float = math.inf) -> None:
    """Raise ``ConfigError`` unless a parameter of a schedule is in [low, high]."""
    value = getattr(schedule, name)
    if not (math.isfinite(value) and low <= value <= high):
        bound = f"finite and >= {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise ConfigError(f"{type(schedule).__name__} needs {name} {bound}, found {value}")
