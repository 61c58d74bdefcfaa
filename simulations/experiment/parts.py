"""Everything that the tables of an experiment describe, built once and handed on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, final

from flwr.clientapp.typing import Mod
from torch import Tensor

from hqde_fl.clients.mods.entanglement_noise import EntanglementNoiseMod
from hqde_fl.clients.training import Training
from hqde_fl.codec import CODECS
from hqde_fl.errors import ConfigError
from hqde_fl.prediction import VOTES, EnsemblePredictor
from hqde_fl.protocol.screening import Screening
from hqde_fl.registry import Registry
from hqde_fl.rules import RULES, Aggregator
from hqde_fl.rules.tolerance import silence_warning
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble, Uniform
from hqde_fl.simulations.engines.ray.resources import Resources
from hqde_fl.simulations.experiment.components import build_component
from hqde_fl.simulations.experiment.errors import parameters_of
from hqde_fl.simulations.experiment.faults import Faults
from hqde_fl.simulations.experiment.noise import Noises
from hqde_fl.simulations.experiment.sections import ClientsSection, EngineSection, StrategySection
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS, ServerOptimizer
from hqde_fl.strategies.settings import Aggregation, Communication, Participation

SCREENING = Registry("screening", Screening, {"standard": Screening})
RESOURCES = Registry("resources", Resources, {"group": Resources})


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of an experiment, whatever engine it runs on and for however many rounds.

    Parameters
    ----------
    aggregation : Aggregation
        The rule and the server optimiser. Where the rule judges by held-out examples, ``held_out``
        stands for a function that the ServerApp makes once it has the task.
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
    def sampled(self) -> int:
        """Return the number of clients that train in a round."""
        return self.participation.selector.size(self.clients)

    @property
    def cohort(self) -> int:
        """Return the least number of clients that train the same member in a round."""
        return self.ensemble.min_cohort(self.sampled)

    @property
    def filters(self) -> bool:
        """Return whether the rule singles out clients, given as many updates as it is to get."""
        return self.rule.filters(self.cohort)

    @property
    def warning(self) -> str | None:
        """Return one line on what may void rounds although the experiment can run, or None."""
        return silence_warning(self.rule, self.cohort, " of each member" * self.members_differ)

    @property
    def members_differ(self) -> bool:
        """Return whether a member is trained by fewer clients than train in a round."""
        return self.cohort < self.sampled

    def client_mods(self) -> list[Mod]:
        """Return the mods of the ClientApp: faults, and inside of them noise that cancels."""
        mods = self.faults.mods()
        if self.noises.entanglement is not None:
            mods.append(EntanglementNoiseMod(self.noises.entanglement, self.seeds.root))
        return mods


def build_parts(
    clients: ClientsSection,
    strategy: StrategySection,
    faults: Sequence[Mapping[str, Any]],
    engine: EngineSection,
    seed: int,
) -> Parts:
    """Build the parts of an experiment from its tables.

    Raises
    ------
    ConfigError
        If a table does not describe its part: it names the key, the bound and the value.
    """
    rule = build_component(RULES, strategy.rule, "strategy.rule")
    _check_rule(rule, strategy)
    codec = build_component(CODECS, strategy.codec, "strategy.codec")
    downlink = build_component(CODECS, strategy.downlink, "strategy.downlink")
    optimizer: ServerOptimizer = build_component(
        SERVER_OPTIMIZERS, strategy.server_optimizer, "strategy.server-optimizer"
    )
    screening = build_component(
        SCREENING, {"name": "standard", **strategy.screening}, "strategy.screening"
    )
    vote = build_component(VOTES, clients.vote, "clients.vote")
    noises = Noises.build(clients, strategy)
    if noises.exploration is not None:
        optimizer = ExploringOptimizer(noises.exploration, optimizer, seed)
    with parameters_of("strategy", fraction="fraction-train"):
        aggregation = Aggregation(
            rule,
            optimizer,
            strategy.quorum,
            _not_measured if strategy.held_out else None,
            strategy.confidence_metric,
        )
        communication = Communication(codec, downlink, screening, strategy.deadline)
        participation = Participation(
            Uniform(strategy.fraction_train),
            strategy.fraction_evaluate,
            min_available_nodes=clients.count,
            identify=True,
        )
    with parameters_of("clients"):
        ensemble = Ensemble(**_shared_with(clients, Ensemble))
        training = Training(
            **_shared_with(clients, Training) | {"regularization_noise": noises.regularization}
        )
    return Parts(
        aggregation=aggregation,
        communication=communication,
        participation=participation,
        ensemble=ensemble,
        training=training,
        predictor=EnsemblePredictor(vote),
        faults=Faults.build(faults, clients.count, seed),
        noises=noises,
        resources=_resources(engine),
        seeds=Seeds(seed),
    )


def _shared_with(section: ClientsSection, part: type) -> dict[str, Any]:
    """Return the values of the parameters that a section has in common with a dataclass."""
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(part)}


def _resources(engine: EngineSection) -> tuple[Resources, ...]:
    """Build the groups of clients; one group of all clients if the file names none."""
    groups = [
        build_component(RESOURCES, {"name": "group", **table}, f"engine.resources.{index}")
        for index, table in enumerate(engine.resources)
    ]
    return tuple(groups) or (Resources(),)


def _not_measured(state: Mapping[str, Tensor]) -> NoReturn:
    """Stand for the confidence by held-out examples until the task has been loaded."""
    raise RuntimeError("the examples have not been held out yet")


def _check_rule(rule: Aggregator, strategy: StrategySection) -> None:
    """Raise ``ConfigError`` unless the rule aggregates and gets the confidence that it asks for.

    Nothing that has to do with confidence may be given to a rule that ignores it.
    """
    if rule.is_preaggregation:
        raise ConfigError(
            f"strategy.rule {strategy.rule['name']!r} is a pre-aggregation, which feeds a rule: "
            "put both into a chain"
        )
    source = rule.confidence_from
    if (source == "held-out") != (strategy.held_out > 0):
        raise ConfigError(
            "strategy.held-out > 0 goes together with a rule whose confidence is 'held-out', "
            f"found {strategy.held_out} and {rule}"
        )
    if strategy.confidence_metric and source != "reported":
        raise ConfigError(
            "strategy.confidence-metric acts with a rule whose confidence is 'reported', "
            f"found {rule}"
        )
