"""The ``[edges]`` of an experiment: groups of clients, what merges them, and hostile edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

from hqde_fl.clients.faults.backdoor_base import BackdoorFault
from hqde_fl.clients.faults.kill import Kill
from hqde_fl.clients.faults.label_flip import LabelFlip
from hqde_fl.clients.faults.straggle import Straggle
from hqde_fl.codec import CODECS
from hqde_fl.errors import ConfigError
from hqde_fl.registry import Registry
from hqde_fl.rules import RULES, Aggregator
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.catalogue import BANDWIDTHS
from hqde_fl.simulations.experiment.components import build_component, errors_named
from hqde_fl.simulations.experiment.faults import EDGE, Faults
from hqde_fl.simulations.experiment.sections import EdgesSection, StrategySection
from hqde_fl.simulations.heterogeneity.bandwidth import Bandwidth
from hqde_fl.simulations.heterogeneity.client_times import ClientTimes
from hqde_fl.strategies.edges.groups import Groups
from hqde_fl.strategies.edges.settings import EdgeSettings
from hqde_fl.strategies.settings import Aggregation, Communication, Participation

CLIENTS_ONLY = (BackdoorFault, LabelFlip, Kill)
"""Faults of a client's data or process, which an edge has not."""


@final
@dataclass(frozen=True)
class Edges:
    """The edges of an experiment.

    Parameters
    ----------
    settings : EdgeSettings
        Settings of the edges.
    communication : Communication
        How models and updates travel between server and edges.
    bandwidth : Bandwidth, optional
        The edges' connections to the server.
    faults : Faults
        The hostile edges and their faults; rounds are the server's.
    clients : int
        Number of all clients.
    seeds : Seeds
        The seeds of what is drawn for the edges' connections.
    """

    settings: EdgeSettings
    communication: Communication
    bandwidth: Bandwidth | None
    faults: Faults
    clients: int
    seeds: Seeds

    @classmethod
    def build(
        cls,
        section: EdgesSection,
        strategy: StrategySection,
        communication: Communication,
        participation: Participation,
        ensemble: Any,
        faults: Sequence[Mapping[str, Any]],
        seed: int,
    ) -> Self | None:
        """Return the edges that a section configures, None if it has no groups.

        Raises
        ------
        ConfigError
            If a table does not describe its part, or the groups do not fit the clients.
        """
        if section.groups == 0:
            _require_default(section)
            return None
        groups = Groups.of(section.groups, section.count)
        clients = participation.min_available_nodes
        if groups.by_node and section.nodes:
            raise ConfigError(
                "edges.groups = 'node' needs edges.nodes = false, found true: the clients of an "
                "edge that is a node are those of its own SuperLink"
            )
        groups.check(clients)
        rule = _build(RULES, section.rule, "edges.rule")
        settings = EdgeSettings(
            groups,
            section.rounds,
            Aggregation(
                rule,
                confidence_metric=_metric(rule, strategy),
                buffers=strategy.buffers,
            ),
            communication,
            participation,
            ensemble,
        )
        codec = _build(CODECS, section.codec, "edges.codec")
        downlink = _build(CODECS, section.downlink, "edges.downlink")
        own = Seeds(seed).integer("edges")
        edges = cls(
            settings,
            settings.root_communication(codec, downlink),
            _build(BANDWIDTHS, section.bandwidth, "edges.bandwidth") if section.bandwidth else None,
            Faults.build(faults, groups.edges, own, level=EDGE),
            clients,
            Seeds(own),
        )
        edges._check()
        return edges

    @property
    def count(self) -> int:
        """The number of edges."""
        return self.settings.groups.edges

    @property
    def rule(self) -> Aggregator:
        """The edges' rule."""
        return self.settings.aggregation.rule

    @property
    def sampled(self) -> list[int]:
        """The number of clients that train in a round, of each edge."""
        selector = self.settings.participation.selector
        return [selector.size(len(group)) for group in self.settings.groups.clients(self.clients)]

    @property
    def link_times(self) -> ClientTimes:
        """The times that messages are on the way between server and edges."""
        return ClientTimes(bandwidth=self.bandwidth, seeds=self.seeds)

    def check_time(self, *, keeps_time: bool) -> None:
        """Raise ``ConfigError`` if something takes virtual time and nothing keeps it."""
        slow = [fault for fault in self.faults.faults if isinstance(fault.fault, Straggle)]
        if not keeps_time and (self.bandwidth is not None or slow):
            what = "edges.bandwidth" if self.bandwidth is not None else "fault 'straggle' of edges"
            raise ConfigError(
                f"{what} is in virtual time: it needs clients.speed or clients.bandwidth, "
                "found neither"
            )

    def _check(self) -> None:
        for fault in self.faults.faults:
            if isinstance(fault.fault, CLIENTS_ONLY):
                raise ConfigError(
                    f"fault {fault.name!r} is one of clients, found it with level = 'edge'"
                )
        if self.rule.is_preaggregation:
            raise ConfigError(
                f"edges.rule {self.rule} is a pre-aggregation, which feeds a rule: put both into "
                "a chain"
            )
        minimum, smallest = self.rule.minimum(), min(self.sampled)
        if smallest < minimum:
            raise ConfigError(
                f"edges.rule {self.rule} needs at least {minimum} updates in each group, "
                f"found {smallest} clients"
            )

    def check_bandwidth(self) -> None:
        """Raise ``ConfigError`` unless the edges' connections are known; files are read for it."""
        if self.bandwidth is not None:
            self.bandwidth.check(self.count)
            self.link_times.connection(self.count - 1, 1)


def _build(registry: Registry[Any], table: Mapping[str, Any], key: str) -> Any:
    """Return the part that a table describes; its errors name the key.

    Rules, codecs and bandwidths stand in other tables, too.
    """
    with errors_named(key):
        return build_component(registry, table, key)


def _metric(rule: Aggregator, strategy: StrategySection) -> str:
    """Return the metric that an edge's rule takes for confidence; empty if it takes none."""
    if rule.confidence_from == "held-out":
        raise ConfigError(
            f"edges.rule cannot judge by held-out examples, which the server has, found {rule}"
        )
    if "reference" in rule.needs:
        raise ConfigError(
            "edges.rule cannot need an update of the server's own, as edges have no data, "
            f"found {rule}"
        )
    return strategy.confidence_metric if rule.confidence_from == "reported" else ""


def _require_default(section: EdgesSection) -> None:
    """Raise ``ConfigError`` if a section without groups has other keys."""
    default = EdgesSection()
    for name in EdgesSection.model_fields:
        if getattr(section, name) != getattr(default, name):
            raise ConfigError(f"edges.{name} needs edges.groups, found none")
