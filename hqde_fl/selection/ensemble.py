"""Which members of an ensemble a client trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

Assignment = Literal["all", "round-robin", "random"]
"""``"all"``: every client trains every member. ``"round-robin"``: members are dealt like cards, and
the deal moves on by one member each round, so that every client gets to every member.
``"random"``: every client draws its members anew each round.
"""

Mode = Literal["independent", "fedavg"]
"""``"independent"``: members stay different models and vote. ``"fedavg"``: after each round every
member becomes the mean of those that were trained."""


@dataclass(frozen=True)
class Ensemble:
    """An ensemble of members trained across the federation.

    Each member is merged over the clients that trained it in a round: what a rule or a quorum says
    of clients then holds for each member's own. Faulty clients are not dealt evenly: all of them
    may come to hold one member, so choose f for the members' cohorts, not for the federation.

    Parameters
    ----------
    members : int
        How many; 1 is ordinary federated learning.
    assignment : "all", "round-robin" or "random"
        Who trains which.
    members_per_client : int
        How many a client trains in a round. 0: all of them with ``"all"``, else one.
    mode : "independent" or "fedavg"
        Whether members stay different.
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
    def each(self) -> int:
        """How many members a client trains in a round."""
        return self.members_per_client or (self.members if self.assignment == "all" else 1)

    def cohort(self, clients: int) -> int:
        """How many of so many clients train a member: at least, where members are dealt.

        Drawn at random, members get so many on average, rounded down.
        """
        return clients * self.each // self.members

    def share(self, client: int, server_round: int, seeds: Seeds) -> tuple[int, ...]:
        """The members that a client trains in a round, in ascending order.

        Parameters
        ----------
        client : int
            The client's partition id; its node id where that is not known. Partition ids 0 to
            n - 1 are dealt the members evenly.
        server_round : int
            The round, from 1.
        seeds : Seeds
            Of the run.
        """
        if self.each == self.members:
            return tuple(range(self.members))
        if self.assignment == "round-robin":
            first = client * self.each + server_round - 1
            return tuple(sorted((first + place) % self.members for place in range(self.each)))
        rng = seeds.numpy("members", client, server_round)
        return tuple(sorted(rng.choice(self.members, self.each, replace=False).tolist()))
