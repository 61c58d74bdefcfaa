"""Ensembles, and the assignment of their members to clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

Assignment = Literal["all", "round-robin", "random"]
"""``"all"``: every client trains every member. ``"round-robin"``: clients get members in turn, one
member further each round, so that every client trains every member in time. ``"random"``: every
client draws its members in each round.
"""

Mode = Literal["independent", "fedavg"]
"""``"independent"``: members stay different models and vote. ``"fedavg"``: after each round every
member becomes the mean of those that were trained."""


@dataclass(frozen=True)
class Ensemble:
    """An ensemble of members trained across the federation.

    Each member is merged over the clients that trained it in a round, so rules and quorums apply to
    each member's own clients. Faulty clients are not divided evenly: all of them may be assigned
    one member, so choose f for the members' cohorts, not for the federation.

    Parameters
    ----------
    members : int
        The number of members, >= 1; 1 is ordinary federated learning.
    assignment : "all", "round-robin" or "random"
        The assignment of members to clients.
    members_per_client : int
        The number of members that a client trains in a round. 0: all of them with ``"all"``, else
        one.
    mode : "independent" or "fedavg"
        Members stay different models, or become their mean after each round.
    """

    members: int = 1
    assignment: Assignment = "all"
    members_per_client: int = 0
    mode: Mode = "independent"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ConfigError(f"Ensemble.members must be >= 1, found {self.members}")
        for name, known in (("assignment", Assignment), ("mode", Mode)):
            if getattr(self, name) not in get_args(known):
                raise ConfigError(
                    f"Ensemble.{name} must be among {', '.join(get_args(known))}, "
                    f"found {getattr(self, name)!r}"
                )
        if not 0 <= self.members_per_client <= self.members:
            raise ConfigError(
                f"Ensemble.members_per_client must be in [0, members = {self.members}], "
                f"found {self.members_per_client}"
            )
        if self.assignment == "all" and self.members_per_client not in (0, self.members):
            raise ConfigError(
                f"Ensemble.members_per_client must be members = {self.members} (or 0) with "
                f"assignment 'all', found {self.members_per_client}"
            )

    @property
    def trained_members(self) -> int:
        """The number of members that a client trains in a round."""
        return self.members_per_client or (self.members if self.assignment == "all" else 1)

    def min_cohort(self, clients: int) -> int:
        """Return the smallest number of ``clients`` that train any one member in a round.

        With ``"random"`` assignment it is the mean number over the members, rounded down.
        """
        return clients * self.trained_members // self.members

    def assigned_members(self, client: int, server_round: int, seeds: Seeds) -> tuple[int, ...]:
        """Return the members, numbered from 0, that a client trains in a round, in ascending order.

        Parameters
        ----------
        client : int
            The client's partition id; its node id if that is not known. Partition ids 0 to n - 1
            get the members evenly.
        server_round : int
            The round, from 1.
        seeds : Seeds
            The run's seeds.
        """
        if self.trained_members == self.members:
            return tuple(range(self.members))
        if self.assignment == "round-robin":
            first = client * self.trained_members + server_round - 1
            turns = range(first, first + self.trained_members)
            return tuple(sorted(turn % self.members for turn in turns))
        rng = seeds.numpy("members", client, server_round)
        return tuple(sorted(rng.choice(self.members, self.trained_members, replace=False).tolist()))
