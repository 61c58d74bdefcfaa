"""Settings of the edges."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import TIMEOUT_MAX
from typing import final

from hqde_fl.codec import Codec
from hqde_fl.errors import ConfigError
from hqde_fl.selection import Ensemble
from hqde_fl.strategies.edges.groups import Groups
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Aggregation, Communication, Participation
from hqde_fl.updates.roles import Roles


@final
@dataclass(frozen=True)
class EdgeSettings:
    """Settings that all edges share.

    Parameters
    ----------
    groups : Groups
        The clients of each edge.
    rounds : int
        Rounds that an edge runs among its clients before it replies to the root, >= 1, by default
        1.
    aggregation : Aggregation
        How an edge merges its clients' updates; by default FedAvg.
    communication : Communication
        How models and updates travel between an edge and its clients. The deadline is that of one
        round among the clients.
    participation : Participation
        Which of its clients take part in a round. ``min_available_nodes`` are waited for among all
        clients; an edge none of whose clients is connected does not wait.
    ensemble : Ensemble
        The members of an ensemble; by default one model.
    """

    groups: Groups
    rounds: int = 1
    aggregation: Aggregation = field(default_factory=Aggregation)
    communication: Communication = field(default_factory=Communication)
    participation: Participation = field(default_factory=Participation)
    ensemble: Ensemble = field(default_factory=Ensemble)

    def __post_init__(self) -> None:
        if not isinstance(self.rounds, int) or isinstance(self.rounds, bool) or self.rounds < 1:
            raise ConfigError(f"edges.rounds must be a whole number >= 1, found {self.rounds!r}")
        if self.ensemble.members > 1 and self.ensemble.trained_members < self.ensemble.members:
            raise ConfigError(
                "edges need clients that train all members of an ensemble: an edge's update counts "
                f"as a whole, found {self.ensemble.trained_members} of {self.ensemble.members}"
            )

    def strategy(self, seed: int, roles: Roles | None = None) -> HQDEStrategy:
        """Return the strategy that one edge runs, with a seed of its own."""
        return HQDEStrategy(
            self.aggregation,
            communication=self.communication,
            participation=replace(
                self.participation, min_available_nodes=0, wait_for_nodes=0.0, identify=True
            ),
            ensemble=self.ensemble,
            seed=seed,
            roles=roles,
        )

    def root_communication(self, codec: Codec, downlink: Codec) -> Communication:
        """Return how models and updates travel between root and edges.

        The root waits as long as an edge's rounds may take, and one more deadline for the link.
        """
        deadline = min(self.communication.deadline * (self.rounds + 1), TIMEOUT_MAX)
        return replace(self.communication, codec=codec, downlink=downlink, deadline=deadline)

    @property
    def root_participation(self) -> Participation:
        """The edges that take part in a round of the root: all of them."""
        evaluates = float(self.participation.fraction_evaluate > 0)
        return Participation(
            fraction_evaluate=evaluates, min_available_nodes=self.groups.edges, identify=True
        )

    @property
    def root_ensemble(self) -> Ensemble:
        """The ensemble at the root, all members of which each edge trains."""
        return Ensemble(self.ensemble.members, mode=self.ensemble.mode)
