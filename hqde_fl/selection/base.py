"""What a client selector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np


class Selector(ABC):
    """Chooses the clients of a round. Concrete selectors are final frozen dataclasses."""

    @abstractmethod
    def size(self, available: int) -> int:
        """How many of ``available`` clients will be chosen."""

    @abstractmethod
    def select(
        self, clients: Sequence[int], rng: np.random.Generator, size: int | None = None
    ) -> list[int]:
        """Return the chosen clients.

        Parameters
        ----------
        clients : Sequence[int]
            Who can be chosen, in an order that is the same in every run.
        rng : np.random.Generator
            What is drawn comes from it.
        size : int, optional
            How many to choose, at most all of them; ``size(len(clients))`` if not given.
        """
