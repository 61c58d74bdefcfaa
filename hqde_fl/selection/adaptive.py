"""Selection by success, free capacity, speed and capability, as the server measures them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from hqde_fl.errors import ConfigError
from hqde_fl.selection.base import Candidates, Selection, Selector, State
from hqde_fl.selection.bounded_claims import bounded_claims
from hqde_fl.selection.fair_shares import CEILING, FairShares, check_ceiling
from hqde_fl.selection.fitted_work import check_round_seconds, fitted_work
from hqde_fl.selection.fraction import check_fraction, fraction_size
from hqde_fl.selection.history_columns import Floats, HistoryColumns, filled


@final
@dataclass(frozen=True)
class AdaptiveSelector(Selector):
    """Chooses the clients with the highest weighted sum of four measurements, each in [0, 1].

    * success: the moving mean of its successes;
    * free capacity: 1 - its load, or its machine's load where that is measured and is greater;
    * speed: the median seconds of a reply over its own, at most 1;
    * capability: its examples per second over the median, at most 1. Clients say themselves how
      many examples they have, and are believed within bounds
      (``hqde_fl.selection.bounded_claims``).

    What is better than the median gains nothing, so that a client has no use of a reply at once. A
    new client counts as the best. No client is chosen much more often than is fair, or much less
    (``hqde_fl.selection.fair_shares``).

    Parameters
    ----------
    fraction : float
        Fraction of the available clients that take part, in (0, 1]; at least one client does.
    success, capacity, speed, capability : float
        Weights of the four, >= 0; by default HQDE's.
    round_seconds : float
        Seconds that a round should last, on the clock by which the server measures: a slower client
        does the part of its local training that fits, and a new one half of it. 0, the default: as
        long as the median client needs. ``1e9``: clients do all of it, or what fits into the
        deadline.
    ceiling : float
        How many times its fair share a client gets at most, >= 1; ``1e9`` for none.
    """

    fraction: float = 1.0
    success: float = 0.4
    capacity: float = 0.3
    speed: float = 0.2
    capability: float = 0.1
    round_seconds: float = 0.0
    ceiling: float = CEILING

    def __post_init__(self) -> None:
        check_fraction("AdaptiveSelector", self.fraction)
        for name in ("success", "capacity", "speed", "capability"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(
                    f"AdaptiveSelector.{name} must be finite and >= 0, found {weight}"
                )
        check_round_seconds("AdaptiveSelector", self.round_seconds)
        check_ceiling("AdaptiveSelector", self.ceiling)

    def size(self, available: int) -> int:
        """Return ``fraction`` of ``available``, rounded, at least 1; 0 if none is available."""
        return fraction_size(self.fraction, available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return the clients with the highest scores, in their own order."""
        columns = HistoryColumns.of(candidates)
        shares = FairShares.of(candidates, columns, self.ceiling, state)
        pace = columns.pace()
        scores = self.scores(columns, pace)
        chosen = shares.choose(scores, rng)
        work = fitted_work(candidates, columns, chosen, self.round_seconds, pace)
        return Selection([candidates.ids[i] for i in chosen], work, shares.after(chosen))

    def scores(self, columns: HistoryColumns, pace: float) -> Floats:
        """Return each candidate's score.

        Parameters
        ----------
        columns : HistoryColumns
            What was measured of them.
        pace : float
            Seconds of a client whose speed is the best that counts.
        """
        speed = filled(np.minimum(pace / columns.seconds, 1.0), 1.0)
        rate = bounded_claims(columns.examples) / columns.seconds
        known = rate[~np.isnan(rate)]
        typical = float(np.median(known)) if len(known) else 0.0
        capability = filled(np.minimum(rate / typical, 1.0), 1.0) if typical > 0 else 1.0
        return (
            self.success * columns.success
            + self.capacity * (1 - columns.load)
            + self.speed * speed
            + self.capability * capability
        )
