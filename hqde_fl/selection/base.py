"""The base of client selectors: candidates and their histories in, chosen clients and work out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from hqde_fl.selection.history import NEW_CLIENT, ClientHistory

State = Mapping[str, Any]
"""A selector's memory between rounds, kept in checkpoints: numbers, strings, tensors, nested."""

WORK_LEVELS = 8
"""Parts of local training are multiples of 1 / WORK_LEVELS: clients with the same part share one
message."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The clients that can be selected in a round.

    Parameters
    ----------
    ids : Sequence[int]
        The clients: their partition ids, or node ids where these are not known. Their order is the
        same in every run.
    size : int
        The number of clients to choose, in [0, len(ids)].
    round : int
        The round, from 1.
    deadline : float
        Seconds that the round waits for replies; virtual ones where there is a virtual clock.
    history : Mapping[int, ClientHistory]
        Client -> what was measured of it. Clients that were never selected are not in it, and it is
        empty for a selector without ``uses_history``.
    """

    ids: Sequence[int]
    size: int
    round: int = 1
    deadline: float = float("inf")
    history: Mapping[int, ClientHistory] = field(default_factory=dict)

    def of(self, client: int) -> ClientHistory:
        """Return a client's history; that of a new client if it was never selected."""
        return self.history.get(client, NEW_CLIENT)


@dataclass(frozen=True, eq=False)
class Selection:
    """The clients that train in a round.

    Parameters
    ----------
    clients : list[int]
        The chosen candidates, each once, at most ``Candidates.size`` unless the selector
        ``varies``.
    work : Mapping[int, float]
        Client -> part of its configured local training that it does, in (0, 1], as a number of
        steps; by default all of it. Rounded down to a multiple of 1 / ``WORK_LEVELS``, at least one
        of these parts. The update of a client that did a part is scaled to the mean part
        (``hqde_fl.strategies.round.partial_work``).
    state : State
        The selector's memory, which the next round's ``select`` gets.
    """

    clients: list[int]
    work: Mapping[int, float] = field(default_factory=dict)
    state: State = field(default_factory=dict)


class Selector(ABC):
    """Chooses the clients of a round. Concrete selectors are final frozen dataclasses."""

    uses_history: ClassVar[bool] = True
    """True if ``select`` reads ``Candidates.history``; without it none is kept."""

    uses_times: ClassVar[bool] = True
    """True if ``select`` reads measured seconds or loads: without a virtual clock two runs with one
    seed may then choose other clients. Only asked of a selector with ``uses_history``."""

    uses_sketches: ClassVar[bool] = False
    """True if ``select`` reads ``ClientHistory.sketch``, which costs one pass over the updates."""

    varies: ClassVar[bool] = False
    """True if ``select`` may return more clients than ``size`` says, which is the number expected
    then."""

    @abstractmethod
    def size(self, available: int) -> int:
        """Return the number of clients to choose from ``available`` ones."""

    @abstractmethod
    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return the chosen clients, with their work and the selector's next state.

        Parameters
        ----------
        candidates : Candidates
            The available clients, with what was measured of them.
        state : State
            The state that the last round's ``select`` returned; empty at first.
        rng : np.random.Generator
            The source of random numbers.
        """


def work_level(part: float) -> float:
    """Return a part of local training in (0, 1], rounded down to a level, at least the lowest."""
    return max(1, min(WORK_LEVELS, int(part * WORK_LEVELS + 1e-9))) / WORK_LEVELS
