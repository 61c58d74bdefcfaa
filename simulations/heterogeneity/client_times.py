"""The virtual seconds that a client needs for its part of a round."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import final

from flwr.app import Message

from hqde_fl.errors import ConfigError
from hqde_fl.own_modules import own_code
from hqde_fl.protocol.members import requested_members
from hqde_fl.protocol.partial_work import requested_work
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.heterogeneity.bandwidth import Bandwidth, Connection
from hqde_fl.simulations.heterogeneity.speed import Speed


@final
@dataclass(frozen=True)
class ClientTimes:
    """Computes how long clients train, and how long their messages are on the way.

    Parameters
    ----------
    speed : Speed, optional
        How fast clients train; without it training takes no time.
    bandwidth : Bandwidth, optional
        The clients' connections; without it messages take no time.
    epochs : int, default=1
        Passes over a client's data in a round.
    members : int, default=1
        Number of models that a message without a list of members asks a client to train.
    seeds : Seeds, default=Seeds(0)
        The run's seeds.
    step_examples : int, default=0
        Examples in the steps of a round, where clients take steps instead of passes; 0: passes.
    """

    speed: Speed | None = None
    bandwidth: Bandwidth | None = None
    epochs: int = 1
    members: int = 1
    seeds: Seeds = field(default_factory=lambda: Seeds(0))
    step_examples: int = 0

    def examples_read(self, examples: float) -> float:
        """Return the examples that a client of so many reads in a pass, or in all of its steps."""
        return self.step_examples or examples

    def passes(self, message: Message) -> tuple[float, float]:
        """Return the passes over its data that a training message asks a client for.

        The message may list the members to train and ask for partial work: the first number is that
        of a client which does partial work when it is asked for it, the second that of another.
        """
        listed = requested_members(message)
        passes = self.epochs * (self.members if listed is None else len(listed))
        return requested_work(message) * passes, float(passes)

    def example_seconds(self, client: int, server_round: int) -> float:
        """Return the virtual seconds that a client needs for one example in one epoch of a round.

        Raises
        ------
        ConfigError
            If the speed, one of the user's own, returns no time.
        """
        if self.speed is None:
            return 0.0
        with own_code(f"speed {self.speed}"):
            seconds = self.speed.seconds(client, server_round, self.seeds)
        if not (isinstance(seconds, Real) and math.isfinite(seconds) and seconds >= 0):
            raise ConfigError(
                f"{self.speed}.seconds must be a finite number >= 0, found {seconds!r}"
            )
        return float(seconds)

    def connection(self, client: int, server_round: int) -> Connection:
        """Return a client's connection in a round.

        Raises
        ------
        ConfigError
            If the bandwidth, one of the user's own, returns none.
        """
        if self.bandwidth is None:
            return Connection()
        with own_code(f"bandwidth {self.bandwidth}"):
            connection = self.bandwidth.connection(client, server_round, self.seeds)
        if not isinstance(connection, Connection):
            raise ConfigError(
                f"{self.bandwidth}.connection must return a Connection, found {connection!r}"
            )
        return connection
