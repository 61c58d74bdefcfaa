"""Uniform selection of clients, without replacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hqde_fl.errors import ConfigError
from hqde_fl.selection.base import Selector


@dataclass(frozen=True)
class Uniform(Selector):
    """Chooses clients with equal probability.

    Parameters
    ----------
    fraction : float
        Fraction of the available clients that take part, in (0, 1]; at least one client does.
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"Uniform.fraction must be in (0, 1], found {self.fraction}")

    def size(self, available: int) -> int:
        """Return ``fraction`` of ``available``, rounded, at least 1; 0 if none is available."""
        return min(available, max(1, round(self.fraction * available)))

    def select(
        self, clients: Sequence[int], rng: np.random.Generator, size: int | None = None
    ) -> list[int]:
        """Return ``size`` random clients, at most all, in their own order.

        Without ``size`` they are the fraction of the clients that ``self.size`` gives.
        """
        size = self.size(len(clients)) if size is None else min(size, len(clients))
        return [clients[i] for i in sorted(rng.choice(len(clients), size=size, replace=False))]
