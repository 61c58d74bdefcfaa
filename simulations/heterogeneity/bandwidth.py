"""Bandwidths of simulated clients' connections."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.heterogeneity.speed import log_uniform, require_positive, require_ratio

BITS_PER_MEGABIT = 1e6


@final
@dataclass(frozen=True)
class Connection:
    """A client's connection to the server in one round.

    Parameters
    ----------
    up, down : float
        Mbit/s from the client and to it, > 0; infinite where transfers take no time.
    latency : float, default=0.0
        Virtual seconds of a round that pass on the way, whatever is sent, >= 0.
    """

    up: float = math.inf
    down: float = math.inf
    latency: float = 0.0

    def __post_init__(self) -> None:
        for name in ("up", "down"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"Connection.{name} must be > 0, found {getattr(self, name)}")
        require_latency("Connection.latency", self.latency)

    def download_seconds(self, size: int) -> float:
        """Return the virtual seconds for ``size`` bytes to the client, with the latency."""
        return self.latency + 8 * size / (self.down * BITS_PER_MEGABIT)

    def upload_seconds(self, size: int) -> float:
        """Return the virtual seconds for ``size`` bytes from the client."""
        return 8 * size / (self.up * BITS_PER_MEGABIT)


class Bandwidth(ABC):
    """The connections of clients to the server. Concrete ones are frozen dataclasses."""

    @abstractmethod
    def connection(self, client: int, server_round: int, seeds: Seeds) -> Connection:
        """Return a client's connection in a round, which must depend on the arguments alone.

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
        """Raise ``ConfigError`` unless the connection of each of so many clients is known."""
        return


@final
@dataclass(frozen=True)
class ConstantBandwidth(Bandwidth):
    """The same connection for all clients.

    Parameters
    ----------
    up, down : float
        Mbit/s from each client and to it, > 0; by default 10 and 50.
    latency : float, default=0.0
        Virtual seconds of a round that pass on the way, whatever is sent, >= 0.
    """

    up: float = 10.0
    down: float = 50.0
    latency: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def connection(self, client: int, server_round: int, seeds: Seeds) -> Connection:
        """Return the connection."""
        return Connection(self.up, self.down, self.latency)


@final
@dataclass(frozen=True)
class LogUniformBandwidth(Bandwidth):
    """Bandwidths whose logarithms are uniform over the clients.

    Up and down go together: a client with a slow line is slow in both.

    Parameters
    ----------
    up, down : float
        Mbit/s from the median client and to it, > 0; by default 10 and 50.
    ratio : float, default=10.0
        The greatest possible bandwidth over the least, >= 1.
    latency : float, default=0.0
        Virtual seconds of a round that pass on the way, whatever is sent, >= 0.
    """

    up: float = 10.0
    down: float = 50.0
    ratio: float = 10.0
    latency: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        require_ratio("LogUniformBandwidth.ratio", self.ratio)

    def connection(self, client: int, server_round: int, seeds: Seeds) -> Connection:
        """Return the client's connection, the same in every round."""
        factor = log_uniform(self.ratio, seeds, "bandwidth", client)
        return Connection(self.up * factor, self.down * factor, self.latency)


def _check(bandwidth: ConstantBandwidth | LogUniformBandwidth) -> None:
    name = type(bandwidth).__name__
    require_positive(f"{name}.up", bandwidth.up)
    require_positive(f"{name}.down", bandwidth.down)
    require_latency(f"{name}.latency", bandwidth.latency)


def require_latency(name: str, value: float) -> None:
    """Raise ``ConfigError`` unless a latency is finite and >= 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} must be finite and >= 0, found {value}")
