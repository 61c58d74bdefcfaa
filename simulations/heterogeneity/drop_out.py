"""Drop-outs of simulated clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import final

from hqde_fl.errors import ConfigError
from hqde_fl.own_modules import own_code
from hqde_fl.seeding import Seeds


class DropOut(ABC):
    """The clients that drop out of a round. Concrete ones are frozen dataclasses."""

    @abstractmethod
    def chance(self, client: int, server_round: int, seeds: Seeds) -> float:
        """Return the probability, in [0, 1], that a client drops out of a round.

        It must depend on the arguments alone, to be the same on every engine and after a resume.

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
        """Raise ``ConfigError`` unless the probability of each of so many clients is known."""
        return

    @final
    def part(self, client: int, server_round: int, seeds: Seeds) -> float | None:
        """Return the part of its time, in [0, 1), after which a client drops out of a round.

        None if it stays. The parts are uniform.
        """
        with own_code(f"drop-out {self}"):
            chance = self.chance(client, server_round, seeds)
            require_probability(f"{type(self).__name__}.chance", chance)
        drawn, part = _drawn(client, server_round, seeds)
        return part if drawn < chance else None


@lru_cache(maxsize=1 << 14)
def _drawn(client: int, server_round: int, seeds: Seeds) -> tuple[float, float]:
    """Return two uniform numbers of a client and a round, which two Grids ask for."""
    drawn, part = seeds.numpy("drop-out", client, server_round).random(2).tolist()
    return drawn, part


@final
@dataclass(frozen=True)
class RandomDropOut(DropOut):
    """Every client drops out of every round with the same probability, by itself.

    Parameters
    ----------
    probability : float
        The probability, in [0, 1].
    """

    probability: float

    def __post_init__(self) -> None:
        require_probability("RandomDropOut.probability", self.probability)

    def chance(self, client: int, server_round: int, seeds: Seeds) -> float:
        """Return the probability."""
        return self.probability


def require_probability(name: str, value: float) -> None:
    """Raise ``ConfigError`` unless a value is in [0, 1]."""
    if not (isinstance(value, Real) and 0 <= value <= 1):
        raise ConfigError(f"{name} must be in [0, 1], found {value!r}")
