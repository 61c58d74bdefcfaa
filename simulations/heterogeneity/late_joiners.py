"""Clients that take no part in training before some round."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import final

from hqde_fl.seeding import Seeds
from hqde_fl.simulations.heterogeneity.drop_out import DropOut


@final
@dataclass(frozen=True)
class LateJoiners(DropOut):
    """The clients that have not joined a run yet drop out of the round, all others stay.

    Parameters
    ----------
    absent : Callable[[int], Collection[int]]
        (round) -> partition ids of the clients that have not joined.
    """

    absent: Callable[[int], Collection[int]]

    def chance(self, client: int, server_round: int, seeds: Seeds) -> float:
        """Return 1 for a client that has not joined yet, and 0 for any other."""
        return float(client in self.absent(server_round))
