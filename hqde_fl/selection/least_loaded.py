"""Selection of the clients that were busy least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from hqde_fl.selection.base import Candidates, Selection, Selector, State
from hqde_fl.selection.fair_shares import CEILING, FairShares, check_ceiling
from hqde_fl.selection.fitted_work import check_round_seconds, fitted_work
from hqde_fl.selection.fraction import check_fraction, fraction_size
from hqde_fl.selection.history_columns import HistoryColumns


@final
@dataclass(frozen=True)
class LeastLoaded(Selector):
    """Chooses the clients with the most free capacity.

    A client's load is the share of the last rounds' time in which it was busy, which the server
    measures and which halves with each round, or the load of its machine where that is measured and
    is greater. Its free capacity is 1 - load, times its success rate, as a client that fails is
    idle, too. New clients have no load. No client is chosen much more often than is fair, or much
    less (``hqde_fl.selection.fair_shares``).

    Parameters
    ----------
    fraction : float
        Fraction of the available clients that take part, in (0, 1]; at least one client does.
    round_seconds : float
        Seconds that a round should last, on the clock by which the server measures: a slower client
        does the part of its local training that fits, and a new one half of it. 0, the default: as
        long as the median client needs. ``1e9``: clients do all of it, or what fits into the
        deadline.
    ceiling : float
        How many times its fair share a client gets at most, >= 1; ``1e9`` for none.
    """

    fraction: float = 1.0
    round_seconds: float = 0.0
    ceiling: float = CEILING

    def __post_init__(self) -> None:
        check_fraction("LeastLoaded", self.fraction)
        check_round_seconds("LeastLoaded", self.round_seconds)
        check_ceiling("LeastLoaded", self.ceiling)

    def size(self, available: int) -> int:
        """Return ``fraction`` of ``available``, rounded, at least 1; 0 if none is available."""
        return fraction_size(self.fraction, available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return the clients with the most free capacity, in their own order."""
        columns = HistoryColumns.of(candidates)
        shares = FairShares.of(candidates, columns, self.ceiling, state)
        chosen = shares.choose((1 - columns.load) * columns.success, rng)
        pace = columns.pace()
        work = fitted_work(candidates, columns, chosen, self.round_seconds, pace)
        return Selection([candidates.ids[i] for i in chosen], work, shares.after(chosen))
