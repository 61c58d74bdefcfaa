"""Selection of clients in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hqde_fl.selection.base import Candidates, Selection, Selector, State
from hqde_fl.selection.fraction import check_fraction, fraction_size

_QUEUE = "queue"


@final
@dataclass(frozen=True)
class RoundRobin(Selector):
    """Chooses clients in turn.

    Those come first that have waited longest for a turn, in their own order. So they take turns in
    this order if all are available, and nobody loses a turn who is not. It measures nothing, and
    nothing that a client does changes it.

    Parameters
    ----------
    fraction : float
        Fraction of the available clients that take part, in (0, 1]; at least one client does.
    """

    uses_history: ClassVar[bool] = False

    fraction: float = 1.0

    def __post_init__(self) -> None:
        check_fraction("RoundRobin", self.fraction)

    def size(self, available: int) -> int:
        """Return ``fraction`` of ``available``, rounded, at least 1; 0 if none is available."""
        return fraction_size(self.fraction, available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return the clients whose turn it is, in their own order."""
        ids = candidates.ids
        place = {client: place for place, client in enumerate(state.get(_QUEUE, ()))}
        waiting = sorted(range(len(ids)), key=lambda i: place.get(ids[i], -1))
        turns = [ids[i] for i in waiting[: candidates.size]]
        taken = set(turns)
        rest = [client for client in place if client not in taken]
        chosen = sorted(waiting[: candidates.size])
        return Selection([ids[i] for i in chosen], state={_QUEUE: [*rest, *turns]})
