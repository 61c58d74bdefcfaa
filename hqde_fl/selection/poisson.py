"""Poisson sampling of clients: each of them takes part by itself with one probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hqde_fl.selection.base import Candidates, Selection, Selector, State
from hqde_fl.selection.fraction import check_fraction, fraction_size


@final
@dataclass(frozen=True)
class Poisson(Selector):
    """Chooses each client with the same probability, independently of all others.

    The number of clients differs from round to round, and may be 0. Privacy accountants know this
    sampling best ("amplification by subsampling").

    Parameters
    ----------
    fraction : float
        The probability with which each available client takes part, in (0, 1].
    """

    uses_history: ClassVar[bool] = False
    varies: ClassVar[bool] = True

    fraction: float = 1.0

    def __post_init__(self) -> None:
        check_fraction("Poisson", self.fraction)

    def size(self, available: int) -> int:
        """Return the expected number of clients, rounded, at least 1; 0 if none is available."""
        return fraction_size(self.fraction, available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return the clients drawn, in their own order."""
        drawn = rng.random(len(candidates.ids)) < self.fraction
        return Selection([candidates.ids[i] for i in np.flatnonzero(drawn).tolist()])
