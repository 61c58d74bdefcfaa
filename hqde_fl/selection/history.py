"""Measurements that the server takes of a client over the rounds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

NEW_SUCCESS = 0.25
"""Weight of the last round in the moving mean of successes."""

NEW_SECONDS = 0.5
"""Weight of the last round in the moving mean of a client's seconds."""

LOAD_DECAY = 0.5
"""Factor by which a client's load falls with each round."""


@dataclass(frozen=True, eq=False)
class Observation:
    """Measurements of a client in one round in which it was asked to train.

    Parameters
    ----------
    round : int
        The round, from 1.
    success : bool
        True if its update passed screening in time and the rule did not filter it.
    seconds : float or None
        Seconds from the sending of the message to the reply; of a late client the seconds that the
        round waited for it; None if it failed, was rejected or lacked a part of the model.
    late : bool
        True if there was no reply in time.
    work : float
        Part of its local training that it did, or was asked for if it is late, in (0, 1].
    busy : float
        Share of the round in which it was at work, in [0, 1].
    host_load : float
        Measured load of the machine that it ran on, in [0, 1]; 0 where nobody measures it.
    examples : float or None
        The number of examples that it claims; None if its update was not a success.
    loss : float or None
        The mean training loss that it claims; None if its update was not a success.
    sketch : Tensor or None
        A random projection of its update; None if none is kept.
    """

    round: int
    success: bool
    seconds: float | None = None
    late: bool = False
    work: float = 1.0
    busy: float = 0.0
    host_load: float = 0.0
    examples: float | None = None
    loss: float | None = None
    sketch: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ClientHistory:
    """Measurements of a client over the rounds, and the claims of its replies.

    A client can make its own reply late, wrong or fast, but it cannot write these measurements.
    ``examples`` and ``loss`` are its own word: selectors must bound what they take from them.

    Parameters
    ----------
    selected : int
        Number of rounds in which it was asked to train. Rounds in which it had no data do not
        count.
    last_selected : int
        The last of these rounds; 0 if there was none.
    success_rate : float
        Moving mean over these rounds: 1 for an update that passed screening in time and was not
        filtered, else 0. It starts at 1.
    seconds : float or None
        Moving mean of the seconds from message to reply, for all of its local training: a round in
        which it does half of it counts twice. Virtual seconds where there is a virtual clock. None
        until it has replied.
    load : float
        Share of the rounds' time in which it was busy, in [0, 1], lately, as of ``last_selected``;
        see ``load_in``.
    host_load : float
        Measured load of the machine that it ran on, in [0, 1]; 0 where nobody measures it.
    examples, loss : float or None
        The number of examples and the mean training loss that it claimed in its last success.
    sketch : Tensor or None
        A random projection of its last update that passed screening, if the selector uses it.
    """

    selected: int = 0
    last_selected: int = 0
    success_rate: float = 1.0
    seconds: float | None = None
    load: float = 0.0
    host_load: float = 0.0
    examples: float | None = None
    loss: float | None = None
    sketch: Tensor | None = None

    def load_in(self, server_round: int) -> float:
        """Return the load in a round: ``load``, halved for each round since ``last_selected``."""
        return self.load * LOAD_DECAY ** max(0, server_round - self.last_selected)

    def after(self, seen: Observation) -> ClientHistory:
        """Return the history after one more round in which the client was asked to train."""
        success_rate = self.success_rate + NEW_SUCCESS * (seen.success - self.success_rate)
        load = self.load_in(seen.round) + (1 - LOAD_DECAY) * seen.busy
        return ClientHistory(
            selected=self.selected + 1,
            last_selected=seen.round,
            success_rate=success_rate,
            seconds=self._seconds_after(seen),
            load=min(1.0, load),
            host_load=seen.host_load,
            examples=self.examples if seen.examples is None else seen.examples,
            loss=self.loss if seen.loss is None else seen.loss,
            sketch=self.sketch if seen.sketch is None else seen.sketch,
        )

    def _seconds_after(self, seen: Observation) -> float | None:
        if seen.seconds is None:
            return self.seconds
        whole = seen.seconds / seen.work
        if self.seconds is None:
            return whole
        if seen.late:  # it needs at least so long
            return max(self.seconds, whole)
        return self.seconds + NEW_SECONDS * (whole - self.seconds)


NEW_CLIENT = ClientHistory()
"""History of a client that was never selected."""
