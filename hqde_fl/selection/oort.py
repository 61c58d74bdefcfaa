"""Selection by loss and speed with exploration, as Oort does (Lai et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from hqde_fl.errors import ConfigError
from hqde_fl.selection.base import Candidates, Selection, Selector, State
from hqde_fl.selection.bounded_claims import bounded_claims
from hqde_fl.selection.fair_shares import CEILING, FairShares, check_ceiling
from hqde_fl.selection.fitted_work import check_round_seconds, fitted_work
from hqde_fl.selection.fraction import check_fraction, fraction_size
from hqde_fl.selection.history_columns import Floats, HistoryColumns, filled

_ROUNDS, _GAINS, _CHOSEN, _PACE = "rounds", "gains", "chosen", "pace"


@final
@dataclass(frozen=True)
class Oort(Selector):
    """Chooses clients by the use of their data and their speed, and explores new ones.

    Oort (Lai et al., OSDI 2021, arXiv:2010.06081) draws clients with a probability proportional to
    a utility: the statistical one, number of examples times loss, plus a bonus that grows while a
    client is not chosen; times (pace / seconds)^``penalty`` if it needs longer than the pace. Only
    those are drawn that have at least ``CUTOFF`` of the last utility that would be chosen. A part
    of the places, which falls from ``EXPLORATION`` to ``LEAST_EXPLORATION``, is for new clients. A
    pacer allows slower clients when the chosen ones' utility falls.

    Other than in the paper, the loss is the mean over a client's examples, from its last success;
    the utility is multiplied by its success rate; a client's claims count within bounds that the
    others' claims set (``hqde_fl.selection.bounded_claims``); and no client is chosen much more
    often than is fair, or much less (``hqde_fl.selection.fair_shares``).

    Parameters
    ----------
    fraction : float
        Fraction of the available clients that take part, in (0, 1]; at least one client does.
    penalty : float
        Exponent of the penalty for slow clients, >= 0.
    pace : float
        The quantile of the measured seconds, in [0, 1], that is the pace at first.
    window : int
        Rounds over which the pacer compares the utility, >= 1; it then raises the quantile by
        ``PACE_STEP``.
    round_seconds : float
        Seconds that a round should last, on the clock by which the server measures: a slower client
        does the part of its local training that fits, and a new one half of it. 0, the default: as
        long as the pace. ``1e9``: clients do all of it, or what fits into the
        deadline.
    ceiling : float
        How many times its fair share a client gets at most, >= 1; ``1e9`` for none.
    """

    EXPLORATION: ClassVar[float] = 0.9
    EXPLORATION_DECAY: ClassVar[float] = 0.98
    LEAST_EXPLORATION: ClassVar[float] = 0.2
    CUTOFF: ClassVar[float] = 0.95
    PACE_STEP: ClassVar[float] = 0.05

    fraction: float = 1.0
    penalty: float = 2.0
    pace: float = 0.5
    window: int = 20
    round_seconds: float = 0.0
    ceiling: float = CEILING

    def __post_init__(self) -> None:
        check_fraction("Oort", self.fraction)
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise ConfigError(f"Oort.penalty must be finite and >= 0, found {self.penalty}")
        if not 0 <= self.pace <= 1:
            raise ConfigError(f"Oort.pace must be in [0, 1], found {self.pace}")
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise ConfigError(f"Oort.window must be a whole number >= 1, found {self.window!r}")
        check_round_seconds("Oort", self.round_seconds)
        check_ceiling("Oort", self.ceiling)

    def size(self, available: int) -> int:
        """Return ``fraction`` of ``available``, rounded, at least 1; 0 if none is available."""
        return fraction_size(self.fraction, available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return new clients and ones of high utility, in their own order."""
        columns = HistoryColumns.of(candidates)
        shares = FairShares.of(candidates, columns, self.ceiling, state)
        statistical = statistical_utility(columns)
        memory = self._paced(candidates, statistical, state)
        pace = columns.pace(memory[_PACE])
        utility = self._utility(candidates, columns, statistical, pace)
        exploration = self.EXPLORATION * self.EXPLORATION_DECAY ** memory[_ROUNDS]
        exploration = max(exploration, self.LEAST_EXPLORATION)
        places = round(exploration * candidates.size)
        chosen = shares.choose(self._scores(utility, shares, places, rng), rng)
        clients = [candidates.ids[i] for i in chosen]
        memory |= {_ROUNDS: memory[_ROUNDS] + 1, _CHOSEN: clients, **shares.after(chosen)}
        work = fitted_work(candidates, columns, chosen, self.round_seconds, pace)
        return Selection(clients, work, memory)

    def _paced(self, candidates: Candidates, statistical: Floats, state: State) -> dict[str, Any]:
        """Return the pacer's state, with what the last round's clients were worth."""
        gains = list(state.get(_GAINS, ()))
        pace = state.get(_PACE, self.pace)
        if before := set(state.get(_CHOSEN, ())):
            inside = [client in before for client in candidates.ids]
            gains.append(float(statistical[inside].sum()))
        if len(gains) >= 2 * self.window:
            earlier, later = sum(gains[: self.window]), sum(gains[self.window :])
            pace = min(1.0, pace + self.PACE_STEP) if earlier > later else pace
            gains = gains[self.window :]
        return {_ROUNDS: state.get(_ROUNDS, 0), _GAINS: gains, _PACE: pace}

    def _utility(
        self, candidates: Candidates, columns: HistoryColumns, statistical: Floats, pace: float
    ) -> Floats:
        """Return each client's utility, >= 0."""
        typical = float(np.median(statistical)) if len(statistical) else 0.0
        relative = statistical / typical if typical > 0 else np.ones_like(statistical)
        last = np.maximum(columns.last_selected, 1.0)
        bonus = np.sqrt(0.1 * math.log(max(1, candidates.round)) / last)
        slowness = filled(np.minimum(pace / columns.seconds, 1.0), 1.0) ** self.penalty
        utility: Floats = (relative + bonus) * slowness * columns.success
        return utility

    def _scores(
        self, utility: Floats, shares: FairShares, places: int, rng: np.random.Generator
    ) -> Floats:
        """Return scores by which random new clients fill some places, and utility the others.

        Drawing without replacement by weights is choosing the highest log(u) / weight.
        """
        keys = np.log(rng.random(len(utility))) / np.maximum(utility, 1e-12)
        new = np.flatnonzero(shares.new)
        explored = rng.permutation(new)[:places]
        known = shares.allowed & ~shares.new & ~shares.due
        wanted = max(1, shares.candidates.size - len(explored) - int(shares.due.sum()))
        cutoff = np.sort(utility[known])[::-1][:wanted]
        pool = known & (utility >= self.CUTOFF * cutoff.min(initial=np.inf))
        tier = np.where(pool, 1.0, 0.0)
        tier[explored] = 2.0
        ranks = np.empty(len(utility))
        ranks[np.lexsort((np.where(pool, keys, utility), tier))] = np.arange(len(utility))
        return ranks


def statistical_utility(columns: HistoryColumns) -> Floats:
    """Return the examples times the loss that each client claims, within bounds, >= 0."""
    losses = np.maximum(bounded_claims(columns.loss), 0.0)
    product = np.maximum(bounded_claims(columns.examples), 0.0) * losses
    return np.maximum(bounded_claims(product), 0.0)
