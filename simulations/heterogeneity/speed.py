"""Speeds of simulated clients' training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

MAX_JITTER = 10.0


class Speed(ABC):
    """The virtual seconds that clients train. Concrete ones are frozen dataclasses."""

    @abstractmethod
    def seconds(self, client: int, server_round: int, seeds: Seeds) -> float:
        """Return the virtual seconds that a client needs for one example in one epoch of a round.

        They must depend on the arguments alone, to be the same on every engine and after a resume.

        Parameters
        ----------
        client : int
            The client's partition id.
        server_round : int
            The round, from 1.
        seeds : Seeds
            The run's seeds: ``seeds.numpy("mine", client)`` is a generator for this client alone.
        """

    def check(self, clients: int) -> None:
        """Raise ``ConfigError`` unless the speed of each of so many clients is known."""
        return


@final
@dataclass(frozen=True)
class LogUniformSpeed(Speed):
    """Speeds whose logarithms are uniform over the clients.

    Parameters
    ----------
    seconds_per_example : float, default=0.001
        Virtual seconds that the median client needs for one example in one epoch, > 0.
    ratio : float, default=10.0
        The greatest possible speed over the least, >= 1.
    jitter : float, default=0.0
        Standard deviation of the logarithm of a further factor, which is drawn for every client and
        round, in [0, 10].
    """

    seconds_per_example: float = 0.001
    ratio: float = 10.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        require_positive("LogUniformSpeed.seconds_per_example", self.seconds_per_example)
        require_ratio("LogUniformSpeed.ratio", self.ratio)
        if not 0 <= self.jitter <= MAX_JITTER:
            raise ConfigError(
                f"LogUniformSpeed.jitter must be in [0, {MAX_JITTER:g}], found {self.jitter}"
            )

    def seconds(self, client: int, server_round: int, seeds: Seeds) -> float:
        """Return the client's seconds, with a new factor for each round if there is jitter."""
        seconds = self.seconds_per_example * log_uniform(self.ratio, seeds, "speed", client)
        if self.jitter:
            normal = seeds.numpy("speed-jitter", client, server_round).standard_normal()
            seconds *= math.exp(self.jitter * float(normal))
        return seconds


@lru_cache(maxsize=1 << 16)
def log_uniform(ratio: float, seeds: Seeds, *name: str | int) -> float:
    """Return a factor in [ratio^-1/2, ratio^1/2) with a uniform logarithm, and so a median of 1.

    Parameters
    ----------
    ratio : float
        The greatest factor over the least, >= 1.
    seeds : Seeds
        The run's seeds.
    *name : str or int
        The name of the generator.
    """
    return float(ratio ** (float(seeds.numpy(*name).random()) - 0.5))


def require_positive(name: str, value: float) -> None:
    """Raise ``ConfigError`` unless a value is finite and > 0."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be finite and > 0, found {value}")


def require_ratio(name: str, value: float) -> None:
    """Raise ``ConfigError`` unless a ratio of the greatest to the least is finite and >= 1."""
    if not (math.isfinite(value) and value >= 1):
        raise ConfigError(f"{name} must be finite and >= 1, found {value}")
