"""Sampling of a round's clients, as the accountant knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hqde_fl.errors import ConfigError
from hqde_fl.selection import Poisson, Selector, Uniform


@final
@dataclass(frozen=True)
class Sampling:
    """The way in which the clients of a round are drawn.

    Parameters
    ----------
    poisson : bool
        True: each client is drawn by itself with a probability, and two sets of clients are
        neighbours if one has one client more ("add or remove one"): the sum of updates clipped to C
        moves by at most C. False: a fixed number of clients is drawn without replacement, and two
        sets are neighbours if one client differs ("replace one"): the sum moves by at most 2 C.
    expected : float
        The expected number of clients in a round, or the fixed one; it divides the sum of their
        updates and does not depend on anybody's data.
    clients : int
        The number of all clients, which is public.
    """

    poisson: bool
    expected: float
    clients: int

    @classmethod
    def of(cls, selector: Selector, clients: int) -> Sampling:
        """Return the sampling of a selector among a number of clients.

        Raises
        ------
        ConfigError
            If no accountant knows it.
        """
        if type(selector) is Poisson:
            return cls(True, selector.fraction * clients, clients)
        if type(selector) is Uniform:
            return cls(False, float(selector.size(clients)), clients)
        raise ConfigError(
            "Participation.selector must be 'poisson' or 'uniform' with differential privacy, as "
            f"they draw clients at random whatever those did before, found {selector}"
        )

    @property
    def probability(self) -> float:
        """The probability that a client is drawn in a round."""
        return self.expected / self.clients

    @property
    def size(self) -> int:
        """The number of clients in a round; with Poisson sampling the expected one, rounded."""
        return round(self.expected)

    @property
    def sensitivity(self) -> float:
        """The distance of neighbours' sums of updates, at most, in clipping norms."""
        return 1.0 if self.poisson else 2.0

    @property
    def adjacency(self) -> str:
        """The neighbouring relation: ``"add-or-remove-one"`` or ``"replace-one"``."""
        return "add-or-remove-one" if self.poisson else "replace-one"

    def __str__(self) -> str:
        if self.poisson:
            return f"Poisson sampling with probability {self.probability:g}"
        return f"{self.size} of {self.clients} clients without replacement"
