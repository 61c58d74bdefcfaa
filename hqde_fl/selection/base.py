"""The base of client selectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np


class Selector(ABC):
    """Chooses the clients of a round. Concrete selectors are final frozen dataclasses."""

    @abstractmethod
    def size(self, available: int) -> int:
        """Return the number of clients to choose from ``available`` ones."""

    @abstractmethod
    def select(
        self, clients: Sequence[int], rng: np.random.Generator, size: int | None = None
    ) -> list[int]:
        """Return the chosen clients.

        Parameters
        ----------
        clients : Sequence[int]
            The available clients, in an order that is the same in every run.
        rng : np.random.Generator
            The source of random numbers.
        size : int, optional
            The number of clients to choose, at most all of them; ``size(len(clients))`` if not
            given.
        """
