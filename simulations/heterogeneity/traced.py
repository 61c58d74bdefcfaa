"""Speeds, bandwidths and drop-outs of simulated clients, as a file of measurements has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from hqde_fl.seeding import Seeds
from hqde_fl.simulations.heterogeneity.bandwidth import Bandwidth, Connection
from hqde_fl.simulations.heterogeneity.device_trace import (
    AVAILABLE,
    DOWN,
    LATENCY,
    SECONDS,
    UP,
    DeviceTrace,
)
from hqde_fl.simulations.heterogeneity.drop_out import DropOut
from hqde_fl.simulations.heterogeneity.speed import Speed


@final
@dataclass(frozen=True)
class TraceSpeed(Speed):
    """Speeds from a file: its column ``seconds-per-example``.

    Parameters
    ----------
    file : str
        A CSV or JSON file (``.json``): absolute, or relative to the experiment's folder.
    """

    file: str

    @cached_property
    def trace(self) -> DeviceTrace:
        """The content of the file, which is read once."""
        return DeviceTrace.read("speed", self.file)

    def check(self, clients: int) -> None:
        """Read the file; raise ``ConfigError`` if the speed of a client is not in it."""
        self.trace.check("speed", clients, [SECONDS])

    def seconds(self, client: int, server_round: int, seeds: Seeds) -> float:
        """Return the client's seconds in a round."""
        return self.trace.value(SECONDS, client, server_round)


@final
@dataclass(frozen=True)
class TraceBandwidth(Bandwidth):
    """Bandwidths from a file: its columns ``up``, ``down`` and, if there is one, ``latency``.

    Parameters
    ----------
    file : str
        A CSV or JSON file (``.json``): absolute, or relative to the experiment's folder.
    """

    file: str

    @cached_property
    def trace(self) -> DeviceTrace:
        """The content of the file, which is read once."""
        return DeviceTrace.read("bandwidth", self.file)

    def check(self, clients: int) -> None:
        """Read the file; raise ``ConfigError`` if the bandwidth of a client is not in it."""
        self.trace.check("bandwidth", clients, [UP, DOWN])

    def connection(self, client: int, server_round: int, seeds: Seeds) -> Connection:
        """Return the client's connection in a round."""
        latency = 0.0
        if self.trace.has(LATENCY, client):
            latency = self.trace.value(LATENCY, client, server_round)
        up, down = (self.trace.value(column, client, server_round) for column in (UP, DOWN))
        return Connection(up, down, latency)


@final
@dataclass(frozen=True)
class TraceDropOut(DropOut):
    """Drop-outs from a file: one minus its column ``available``.

    Parameters
    ----------
    file : str
        A CSV or JSON file (``.json``): absolute, or relative to the experiment's folder.
    """

    file: str

    @cached_property
    def trace(self) -> DeviceTrace:
        """The content of the file, which is read once."""
        return DeviceTrace.read("drop-out", self.file)

    def check(self, clients: int) -> None:
        """Read the file; raise ``ConfigError`` if the availability of a client is not in it."""
        self.trace.check("drop-out", clients, [AVAILABLE])

    def chance(self, client: int, server_round: int, seeds: Seeds) -> float:
        """Return one minus the client's availability in a round."""
        return 1 - self.trace.value(AVAILABLE, client, server_round)
