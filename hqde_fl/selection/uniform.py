"""Uniform selection of clients, without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hqde_fl.selection.base import Candidates, Selection, Selector, State
from hqde_fl.selection.fraction import check_fraction, fraction_size


@dataclass(frozen=True)
class Uniform(Selector):
    """Chooses clients with equal probability.

    Parameters
    ----------
    fraction : float
        Fraction of the available clients that take part, in (0, 1]; at least one client does.
    """

    uses_history: ClassVar[bool] = False

    fraction: float = 1.0

    def __post_init__(self) -> None:
        check_fraction("Uniform", self.fraction)

    def size(self, available: int) -> int:
        """Return ``fraction`` of ``available``, rounded, at least 1; 0 if none is available."""
        return fraction_size(self.fraction, available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        """Return random clients, in their own order."""
        ids, size = candidates.ids, candidates.size
        chosen = sorted(rng.choice(len(ids), size=size, replace=False))
        return Selection([ids[i] for i in chosen])
