"""Selection of the clients with the highest losses among random ones (Cho et al., 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hqde_fl.errors import ConfigError
from hqde_fl.selection.base import Candidates, Selection, Selector, State
from hqde_fl.selection.bounded_claims import bounded_claims
from hqde_fl.selection.fair_shares import CEILING, FairShares, check_ceiling
from hqde_fl.selection.fraction import check_fraction, fraction_size
from hqde_fl.selection.history_columns import HistoryColumns


@final
@dataclass(frozen=True)
class PowerOfChoice(Selector):
    """Draws more clients than needed, by their numbers of examples, and takes the highest losses.

    Power-of-choice (Cho et al., 2020, arXiv:2010.01243) in its variant rpow-d: the losses are those
    that clients reported when they last trained, so that nobody is asked for more; new clients come
    before all others. A client's claims count within bounds that the others' claims set
    (``hqde_fl.selection.bounded_claims``), and no client is chosen much more often than is fair, or
    much less (``hqde_fl.selection.fair_shares``).

    Parameters
    ----------
    fraction : float
        Fraction of the available clients that take part, in (0, 1]; at least one client does.
    factor : float
        How many times as many clients are drawn as take part (the paper's d / m), >= 1.
    ceiling : float
        How many times its fair share a client gets at most, >= 1; ``1e9`` for none.
    """

    uses_times: ClassVar[bool] = False

    fraction: float = 1.0
    factor: float = 2.0
    ceiling: float = CEILING

    def __post_init__(self) -> None:
        check_fraction("PowerOfChoice", self.fraction)
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise ConfigError(f"PowerOfChoice.factor must be finite and >= 1, found {self.factor}")
        check_ceiling("PowerOfChoice", self.ceiling)

    def size(self, available: int) -> int:
        """Return ``fraction`` of ``available``, rounded, at least 1; 0 if none is available."""
        return fraction_size(self.fraction, available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return the drawn clients with the highest losses, in their own order."""
        columns = HistoryColumns.of(candidates)
        shares = FairShares.of(candidates, columns, self.ceiling, state)
        examples = np.maximum(bounded_claims(columns.examples), 0.0)
        weights = np.where(shares.allowed, examples, 0.0)
        weights = np.maximum(weights, 1e-12 * max(1.0, float(weights.max(initial=0.0))))
        # the highest log(u) / weight are a draw without replacement by weights
        drawn = np.argsort(-np.log(rng.random(len(weights))) / weights, kind="stable")
        drawn = drawn[: math.ceil(self.factor * candidates.size)]
        loss = np.where(shares.new, np.inf, bounded_claims(columns.loss))
        scores = np.full(len(weights), -np.inf)
        scores[drawn] = loss[drawn]
        chosen = shares.choose(scores, rng)
        return Selection([candidates.ids[i] for i in chosen], state=shares.after(chosen))
