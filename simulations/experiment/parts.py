"""Everything that the tables of an experiment describe, built once and handed on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, final

from flwr.clientapp.typing import Mod
from torch import Tensor

from hqde_fl.catalogue import EXECUTORS, SCHEDULES
from hqde_fl.clients.mods.entanglement_noise import EntanglementNoiseMod
from hqde_fl.clients.mods.local_dp import LocalDPMod
from hqde_fl.clients.training import Training
from hqde_fl.codec import CODECS
from hqde_fl.errors import ConfigError
from hqde_fl.prediction import VOTES, EnsemblePredictor
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.protocol.screening import Screening
from hqde_fl.registry import Registry
from hqde_fl.rules import RULES, Aggregator
from hqde_fl.rules.tolerance import silence_warning
from hqde_fl.schedules import Schedule, scheduled_rate
from hqde_fl.seeding import Seeds
from hqde_fl.selection import SELECTORS, Ensemble, Selector
from hqde_fl.simulations.engines.ray.resources import Resources
from hqde_fl.simulations.experiment.client_privacy import ClientPrivacy
from hqde_fl.simulations.experiment.components import build_component, errors_named
from hqde_fl.simulations.experiment.display_names import component_label
from hqde_fl.simulations.experiment.edges import Edges
from hqde_fl.simulations.experiment.errors import parameters_of
from hqde_fl.simulations.experiment.faults import EDGE, Faults, level_of
from hqde_fl.simulations.experiment.heterogeneity import Heterogeneity
from hqde_fl.simulations.experiment.noise import Noises
from hqde_fl.simulations.experiment.privacy import central_privacy
from hqde_fl.simulations.experiment.sections import (
    ClientsSection,
    EdgesSection,
    EngineSection,
    PrivacySection,
    StrategySection,
)
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.optimizer_schedule import ScheduledOptimizer
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS, ServerOptimizer
from hqde_fl.strategies.private_plan import PrivatePlan
from hqde_fl.strategies.settings import (
    Aggregation,
    Communication,
    Participation,
    Reporting,
    StrategySettings,
)

SCREENING = Registry("screening", Screening, {"standard": Screening})
SECURE = Registry("secure aggregation", SecureAggregation, {"buckets": SecureAggregation})
RESOURCES = Registry("resources", Resources, {"group": Resources})


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of an experiment, whatever engine it runs on and for however many rounds.

    Parameters
    ----------
    aggregation : Aggregation
        The rule and the server optimiser. Where the rule judges by held-out examples, ``held_out``
        stands for a function that the ServerApp makes once it has the task; so does
        ``root_training`` where the rule needs an update of the server's own.
    communication : Communication
        The codecs, the screening and the deadline.
    participation : Participation
        The choice of the clients of a round.
    ensemble : Ensemble
        The members and their assignment to clients.
    training : Training
        The clients' training.
    predictor : EnsemblePredictor
        The combination of the members' predictions.
    faults : Faults
        The faulty clients and their faults.
    noises : Noises
        The noises.
    client_privacy : ClientPrivacy
        The differential privacy that clients provide for themselves.
    heterogeneity : Heterogeneity
        The simulated speeds, connections and drop-outs.
    edges : Edges, optional
        The edges between clients and server.
    resources : tuple[Resources, ...]
        The groups of clients with what each client of a group is given of a machine.
    seeds : Seeds
        The root of all randomness.
    """

    aggregation: Aggregation
    communication: Communication
    participation: Participation
    ensemble: Ensemble
    training: Training
    predictor: EnsemblePredictor
    faults: Faults
    noises: Noises
    client_privacy: ClientPrivacy
    heterogeneity: Heterogeneity
    edges: Edges | None
    resources: tuple[Resources, ...]
    seeds: Seeds

    @property
    def rule(self) -> Aggregator:
        """Return the aggregation rule."""
        return self.aggregation.rule

    @property
    def clients(self) -> int:
        """Return the number of all clients."""
        return self.participation.min_available_nodes

    @property
    def settings(self) -> StrategySettings:
        """Return the settings of the strategy, but for what it reports."""
        return StrategySettings(
            self.aggregation,
            self.communication,
            self.participation,
            self.ensemble,
            Reporting(),
            self.seeds,
        )

    @cached_property
    def plan(self) -> PrivatePlan | None:
        """Return the differential privacy of the server; None if there is none.

        Raises
        ------
        ConfigError
            If it does not go together with the other parts.
        """
        return self.settings.plan

    @property
    def sampled(self) -> int:
        """Return the number of clients that train in a round, or the least number of them.

        It is the least where some of those chosen may be left out.

        Raises
        ------
        ConfigError
            If the selector, one of the user's own, does not say how many.
        """
        selector = self.participation.selector
        if self.edges is not None:
            return sum(self.edges.sampled)
        size = selector.size(self.clients)
        if not isinstance(size, int) or not 0 <= size <= self.clients:
            wanted = f"an integer in [0, {self.clients}], the number of clients"
            raise ConfigError(f"{selector}.size must return {wanted}, found {size!r}")
        return max(0, size - len(self.participation.without))

    @property
    def cohort(self) -> int:
        """Return the least number of clients that train the same member in a round.

        With edges: among the clients of one of them.
        """
        sampled = self.sampled if self.edges is None else min(self.edges.sampled)
        return self.ensemble.min_cohort(sampled)

    @property
    def merged(self) -> int:
        """Return the least number of updates that the server merges: of clients, or of edges."""
        return self.cohort if self.edges is None else self.edges.count

    @property
    def filters(self) -> bool:
        """Return True if clients can be filtered: by the rule, or that of their edge."""
        rule = self.rule if self.edges is None else self.edges.rule
        return rule.filters(self.cohort)

    @property
    def warning(self) -> str | None:
        """Return a one-line warning if f silent clients, or fewer, void a round; else None."""
        if self.aggregation.secure_aggregation is not None:
            return None  # a client that is silent takes no part, and its bucket may go on
        return silence_warning(self.rule, self.merged, " of each member" * self.members_differ)

    @property
    def members_differ(self) -> bool:
        """Return True if a member may get fewer clients than train in a round."""
        return self.ensemble.min_cohort(self.sampled) < self.sampled

    def client_mods(self) -> list[Mod]:
        """Return the ClientApp's Flower mods: one for each fault of single clients, then noise.

        The innermost ones are the entanglement noise and, inside of it, local differential privacy:
        an honest client's update has its noise before anything else is done to it.
        """
        mods = self.faults.mods(virtual_time=self.heterogeneity.keeps_time)
        if self.noises.entanglement is not None:
            mods.append(EntanglementNoiseMod(self.noises.entanglement, self.seeds.root))
        if self.client_privacy.local is not None:
            mods.append(LocalDPMod(self.client_privacy.local, self.seeds.root))
        return mods


def build_parts(
    clients: ClientsSection,
    strategy: StrategySection,
    faults: Sequence[Mapping[str, Any]],
    engine: EngineSection,
    seed: int,
    edges: EdgesSection | None = None,
    privacy: PrivacySection | None = None,
) -> Parts:
    """Build the parts of an experiment from its tables.

    Raises
    ------
    ConfigError
        If a table does not describe its part, or the rule does not fit its confidence options;
        the message names the key, the bound and the value.
    """
    rule = build_component(RULES, strategy.rule, "strategy.rule")
    _check_rule(rule, strategy, clients.voters)
    executor = build_component(EXECUTORS, strategy.executor, "strategy.executor")
    codec = build_component(CODECS, strategy.codec, "strategy.codec")
    downlink = build_component(CODECS, strategy.downlink, "strategy.downlink")
    optimizer: ServerOptimizer = build_component(
        SERVER_OPTIMIZERS, strategy.server_optimizer, "strategy.server-optimizer"
    )
    server_schedule = _schedule(strategy.server_lr_schedule, "strategy.server-lr-schedule")
    if server_schedule is not None:
        optimizer = ScheduledOptimizer(server_schedule, optimizer)
    screening = build_component(
        SCREENING, {"name": "standard", **strategy.screening}, "strategy.screening"
    )
    vote = build_component(VOTES, clients.vote, "clients.vote")
    noises = Noises.build(clients, strategy)
    client_privacy = ClientPrivacy.build(clients)
    client_privacy.check(clients, strategy, rule.confidence_from or "")
    _check_control_variates(clients, edges or EdgesSection())
    if noises.exploration is not None:
        optimizer = ExploringOptimizer(noises.exploration, optimizer, seed)
    with parameters_of("strategy", fraction="fraction-train"):
        aggregation = Aggregation(
            rule,
            optimizer,
            strategy.quorum,
            _not_measured if rule.confidence_from == "held-out" else None,
            strategy.confidence_metric,
            strategy.buffers,
            executor,
            central_privacy(privacy or PrivacySection()),
            _not_trained if "reference" in rule.needs else None,
            clients.control_variates,
            _secure_aggregation(strategy.secure_aggregation),
        )
        communication = Communication(codec, downlink, screening, strategy.deadline)
        participation = Participation(
            _selector(strategy),
            strategy.fraction_evaluate,
            min_available_nodes=clients.count,
            identify=True,
            without=_left_out(clients),
        )
    with parameters_of("clients"):
        ensemble = Ensemble(**_shared_with(clients, Ensemble))
        training = Training(
            **_shared_with(clients, Training)
            | {
                "regularization_noise": noises.regularization,
                "dp_sgd": client_privacy.examples,
                "lr_schedule": _schedule(clients.lr_schedule, "clients.lr-schedule"),
            }
        )
    heterogeneity = Heterogeneity.build(clients, Seeds(seed))
    built_edges = Edges.build(
        edges or EdgesSection(), strategy, communication, participation, ensemble, faults, seed
    )
    if built_edges is not None and clients.without:
        raise ConfigError("clients.without does not go together with edges.groups")
    if built_edges is not None:
        built_edges.check_time(keeps_time=heterogeneity.keeps_time)
    elif any(level_of(table) == EDGE for table in faults):
        raise ConfigError("a fault with level = 'edge' needs edges.groups, found none")
    return Parts(
        aggregation=aggregation,
        communication=communication,
        participation=participation,
        ensemble=ensemble,
        training=training,
        predictor=EnsemblePredictor(vote),
        faults=Faults.build(faults, clients.count, seed),
        noises=noises,
        client_privacy=client_privacy,
        heterogeneity=heterogeneity,
        edges=built_edges,
        resources=_resources(engine),
        seeds=Seeds(seed),
    )


def _check_control_variates(clients: ClientsSection, edges: EdgesSection) -> None:
    """Raise ``ConfigError`` if SCAFFOLD is asked for with what it does not go together with."""
    if not clients.control_variates:
        return
    found = [
        text
        for text, is_there in (
            ("clients.local-dp, from which they would leave without noise", clients.local_dp),
            ("edges.groups: an edge keeps none", edges.groups),
            ("clients.mode = 'fedavg', which averages members", clients.mode == "fedavg"),
        )
        if is_there
    ]
    if found:
        raise ConfigError(f"clients.control-variates does not go together with {found[0]}")


def _secure_aggregation(table: Mapping[str, Any]) -> SecureAggregation | None:
    """Return the secure aggregation that a table describes; None for an empty one."""
    if not table:
        return None
    key = "strategy.secure-aggregation"
    with parameters_of(key):
        settings: SecureAggregation = build_component(SECURE, {"name": "buckets", **table}, key)
    return settings


def _left_out(clients: ClientsSection) -> frozenset[int]:
    """Return the partition ids of the clients that are to take no part."""
    for partition in clients.without:
        if not 0 <= partition < clients.count:
            raise ConfigError(
                f"clients.without must name partitions below clients.count = {clients.count}, "
                f"found {partition}"
            )
    return frozenset(clients.without)


def _schedule(table: Mapping[str, Any], key: str) -> Schedule | None:
    """Return the schedule that a table describes; None for an empty one."""
    if not table:
        return None
    schedule: Schedule = build_component(SCHEDULES, table, key)
    with errors_named(key):
        scheduled_rate(1.0, schedule, 1)  # one of the user's own may fail
    return schedule


def _selector(strategy: StrategySection) -> Selector:
    """Return the choice of clients; ``fraction-train`` is the selector's ``fraction``."""
    table, fraction = dict(strategy.selector), strategy.fraction_train
    name = table.get("name")
    takes = isinstance(name, str) and "fraction" in SELECTORS.parameters(name)
    default = StrategySection.model_fields["fraction_train"].default
    if fraction != default and (not takes or "fraction" in table):
        raise ConfigError(
            f"strategy.fraction-train = {fraction} is for a selector with a fraction that "
            f"strategy.selector does not set, found {component_label(table)}"
        )
    if takes:
        table.setdefault("fraction", fraction)
    keys = {key.replace("-", "_"): f"selector.{key}" for key in strategy.selector}
    with parameters_of("strategy", **({"fraction": "fraction-train"} | keys)):
        return build_component(SELECTORS, table, "strategy.selector")


def _shared_with(section: ClientsSection, part: type) -> dict[str, Any]:
    """Return field name -> the section's value, for every field of the dataclass ``part``."""
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(part)}


def _resources(engine: EngineSection) -> tuple[Resources, ...]:
    """Return a ``Resources`` for each ``[[engine.resources]]`` table; without any, the default."""
    groups = [
        build_component(RESOURCES, {"name": "group", **table}, f"engine.resources.{index}")
        for index, table in enumerate(engine.resources)
    ]
    return tuple(groups) or (Resources(),)


def _not_measured(state: Mapping[str, Tensor]) -> NoReturn:
    """Raise ``RuntimeError``; replaced by the held-out confidence once the task is loaded."""
    raise RuntimeError("the examples have not been held out yet")


def _not_trained(state: Mapping[str, Tensor], number: int, examples: float) -> NoReturn:
    """Raise ``RuntimeError``; replaced by the server's training once the task is loaded."""
    raise RuntimeError("the root examples have not been set aside yet")


def _check_rule(rule: Aggregator, strategy: StrategySection, voters: int) -> None:
    """Raise ``ConfigError`` for a pre-aggregation, or options that do not fit the rule.

    ``held-out > 0`` goes together with a rule whose confidence is 'held-out', or with ``voters``,
    ``confidence-metric`` is for a rule whose confidence is 'reported' only, and a rule that needs a
    reference update needs ``root-examples > 0``. Other rules leave these aside, so that a sweep
    tests all rules on the same examples.
    """
    if rule.is_preaggregation:
        raise ConfigError(
            f"strategy.rule {strategy.rule['name']!r} is a pre-aggregation, which feeds a rule: "
            "put both into a chain"
        )
    if "reference" in rule.needs and strategy.root_examples == 0:
        raise ConfigError(
            f"strategy.root-examples must be > 0 for the server's own update in {rule}, found 0"
        )
    source = rule.confidence_from
    if (source == "held-out" or voters > 0) != (strategy.held_out > 0):
        raise ConfigError(
            "strategy.held-out > 0 goes together with a rule whose confidence is 'held-out', or "
            f"with clients.voters, found {strategy.held_out}, {rule} and voters = {voters}"
        )
    if strategy.held_out_measure and strategy.held_out and source != "held-out":
        raise ConfigError(
            "strategy.held-out-measure acts with a rule whose confidence is 'held-out', "
            f"found {rule}"
        )
    if strategy.confidence_metric and source != "reported":
        raise ConfigError(
            "strategy.confidence-metric acts with a rule whose confidence is 'reported', "
            f"found {rule}"
        )
