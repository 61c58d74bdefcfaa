"""An experiment: a TOML file, read into frozen and completely checked models.

Whatever an experiment names (rule, faults, task, ...) stays a plain table here, so that ``to_json``
is exact; the properties build the things themselves. An ``Experiment`` that exists can run: unknown
keys and names, values of the wrong type and impossible combinations never get past ``parse``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Any, Self

import torch
from flwr.clientapp.typing import Mod
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.codec import CODECS, Codec
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.prediction import VOTES, EnsemblePredictor
from hqde_fl.protocol.screening import Screening
from hqde_fl.registry import Registry
from hqde_fl.rules import RULES, Aggregator
from hqde_fl.rules.tolerance import silence_warning
from hqde_fl.seeding import Seeds
from hqde_fl.selection import SELECTORS, Ensemble, Selector
from hqde_fl.selection.ensemble import Assignment, Mode
from hqde_fl.simulations.attacks import ATTACKS
from hqde_fl.simulations.engines.ray.resources import Resources
from hqde_fl.simulations.experiment.errors import complaint
from hqde_fl.simulations.experiment.faults import Faults
from hqde_fl.simulations.experiment.noise import Noises
from hqde_fl.simulations.experiment.overrides import (
    Component,
    Table,
    check_component,
    read_toml,
    with_overrides,
)
from hqde_fl.simulations.tasks import TASKS, load_task
from hqde_fl.simulations.tasks.partition import PARTITIONERS
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS, ServerOptimizer
from hqde_fl.strategies.settings import DensityPolicy

ENGINES = ("flower", "inline", "ray")
"""Where an experiment can run."""

RUN_CONFIG = ("config", "experiment", "set")
"""The keys of a Flower run's config that say what to run."""

SCREENING = Registry("screening", Screening, {"standard": Screening})
RESOURCES = Registry("resources", Resources, {"group": Resources})

APP_ROOT = Path(__file__).resolve().parents[2]
"""The root of the Flower App: experiments named in a run's config are found from here."""


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Section(BaseModel):
    """A table of the file: frozen, strictly typed, kebab-case, no key it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, alias_generator=_kebab
    )


class ClientsSection(Section):
    """``[clients]``: how many there are, what data they hold, how they train."""

    count: int = Field(10, ge=1)
    members: int = Field(1, ge=1)
    assignment: Assignment = "all"
    members_per_client: int = Field(0, ge=0)
    mode: Mode = "independent"
    bagging: bool = False
    partition: Component = Field({"name": "iid"})
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: str = "sgd"
    lr: float = Field(0.05, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    proximal_mu: float = Field(0.0, ge=0)
    threads: int = Field(1, ge=0)
    device: str = "auto"
    regularization_noise: Table = Field({})
    entanglement_noise: Table = Field({})
    vote: Component = Field({"name": "soft-vote"})


class StrategySection(Section):
    """``[strategy]``: who takes part in a round, and how their updates become a model."""

    fraction_train: float = Field(1.0, gt=0, le=1)
    fraction_evaluate: float = Field(0.0, ge=0, le=1)
    quorum: int = Field(0, ge=0)
    deadline: float = Field(600.0, gt=0, le=TIMEOUT_MAX)
    rule: Component = Field({"name": "mean", "weighted": True})
    codec: Component = Field({"name": "identity"})
    downlink: Component = Field({"name": "identity"})
    server_optimizer: Component = Field({"name": "sgd"})
    exploration_noise: Table = Field({})
    screening: Table = Field({})
    density: DensityPolicy = "free"
    held_out: int = Field(0, ge=0)
    confidence_metric: str = ""


class EngineSection(Section):
    """``[engine]``: where it runs."""

    name: str = "ray"
    address: str = ""
    runtime_env: Table = Field({})
    resources: tuple[Table, ...] = Field((), strict=False)


class MetricsSection(Section):
    """``[metrics]``: what is measured beyond what every run records."""

    honest_mean: bool = False


class CheckpointSection(Section):
    """``[checkpoint]``: after how many rounds there is one, and how many of them are kept."""

    every: int = Field(1, ge=0)
    keep: int = Field(3, ge=1)


class Experiment(Section):
    """Everything that decides how a run comes out."""

    name: str = Field("experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    rounds: int = Field(10, ge=1)
    task: Component = Field({"name": "digits"})
    clients: ClientsSection = ClientsSection()
    strategy: StrategySection = StrategySection()
    faults: tuple[Component, ...] = Field((), strict=False)
    engine: EngineSection = EngineSection()
    checkpoint: CheckpointSection = CheckpointSection()
    metrics: MetricsSection = MetricsSection()

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a TOML file.

        Parameters
        ----------
        path : str or Path
            The file; the experiment is named after it unless it has a ``name`` of its own.
        overrides : Sequence[str]
            ``"dotted.key=value"``, the value written as in TOML; what is no TOML is a string.

        Raises
        ------
        ConfigError
            One line: what is wrong, where, and what would be right.
        """
        document = read_toml(path)
        if "sweep" in document:
            raise ConfigError(f"{path} has a [sweep] table: run it with `hqde-fl sweep {path}`")
        return cls.parse({"name": Path(path).stem, **document}, overrides)

    @classmethod
    def parse(cls, document: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """Check the content of a file, after applying overrides to it."""
        if overrides:
            document = with_overrides(document, overrides, defaults=cls.defaults())
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise complaint(error, cls) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of ``to_json``."""
        return cls.parse(json.loads(text))

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Any]) -> Self:
        """What a Flower run's config asks for.

        Parameters
        ----------
        run_config : Mapping[str, Any]
            ``config``: a complete experiment as JSON. Or ``experiment``: a TOML file, relative to
            the app's root, and ``set``: overrides, separated by spaces.
        """
        file = experiment_file(run_config)
        if file is None:
            return cls.from_json(str(run_config["config"]))
        return cls.load(file, str(run_config.get("set", "")).split())

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """An empty file, with everything spelt out."""
        return cls.model_validate({}).to_table()

    def to_table(self) -> dict[str, Any]:
        """The complete experiment as a file would have it."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> str:
        """The complete experiment as one line of JSON; ``from_json`` gives an equal one."""
        return json.dumps(self.to_table(), sort_keys=True, allow_nan=False)

    # --- what its tables stand for ----------------------------------------------------------------

    @property
    def seeds(self) -> Seeds:
        """The root of all randomness."""
        return Seeds(self.seed)

    @property
    def rule(self) -> Aggregator:
        """The aggregation rule."""
        return RULES.build(self.strategy.rule)

    @property
    def codec(self) -> Codec:
        """How clients pack their updates."""
        return CODECS.build(self.strategy.codec)

    @property
    def downlink(self) -> Codec:
        """How the model's changes are packed for the clients."""
        return CODECS.build(self.strategy.downlink)

    @property
    def ensemble(self) -> Ensemble:
        """The members, and who trains which."""
        names = [field.name for field in dataclasses.fields(Ensemble)]
        return Ensemble(**{name: getattr(self.clients, name) for name in names})

    @property
    def selector(self) -> Selector:
        """Who trains in a round."""
        return SELECTORS.build({"name": "uniform", "fraction": self.strategy.fraction_train})

    @property
    def server_optimizer(self) -> ServerOptimizer:
        """How the aggregated update moves the model."""
        return self._noises.around(SERVER_OPTIMIZERS.build(self.strategy.server_optimizer))

    @property
    def screening(self) -> Screening:
        """What a reply may look like."""
        return SCREENING.build(self._screening_table())

    def _screening_table(self) -> dict[str, Any]:
        return {"name": "standard", **self.strategy.screening}

    @property
    def resources(self) -> list[Resources]:
        """What a client may use of a machine, group by group; one group if the file names none."""
        return [RESOURCES.build(_group(table)) for table in self.engine.resources] or [Resources()]

    @property
    def training(self) -> Training:
        """How a client trains."""
        names = [field.name for field in dataclasses.fields(Training)]
        found = {name: getattr(self.clients, name) for name in names}
        return Training(**found | {"regularization_noise": self._noises.on_gradients()})

    @property
    def _noises(self) -> Noises:
        return Noises.of(self.strategy, self.clients, self.seed)

    @property
    def client_mods(self) -> list[Mod]:
        """What changes the clients' replies: faults, and inside of them noise that cancels."""
        return [*self.planned.mods(), *self._noises.mods()]

    @property
    def predictor(self) -> EnsemblePredictor:
        """How the members of an ensemble predict together."""
        return EnsemblePredictor(self.clients.vote)

    @property
    def sampled(self) -> int:
        """Clients asked in a round."""
        return self.selector.size(self.clients.count)

    @property
    def warning(self) -> str | None:
        """What may void rounds of this experiment although it can run; None if nothing."""
        cohort = self.ensemble.cohort(self.sampled)
        return silence_warning(self.rule, cohort, " of each member" * (cohort < self.sampled))

    @property
    def filters(self) -> bool:
        """Whether the rule singles out clients, with as many updates as it is to get."""
        return self.rule.filters(self.ensemble.cohort(self.sampled))

    def load_task(self) -> Task:
        """Load the task's data.

        Raises
        ------
        DataError
            If the data is not where it should be.
        """
        clients = self.clients
        return load_task(self.task, clients.partition, clients.count, self.seed)

    def checked_task(self) -> Task:
        """Load the task's data, and check that the faults can act on it.

        What the check loads of the test set is not loaded again by whoever uses the task.

        Raises
        ------
        DataError
            If the data is not where it should be.
        ConfigError
            If a fault cannot act on this task: which one, and what it needs.
        """
        task = self.load_task()
        task = dataclasses.replace(task, test=cache(task.test))
        self.planned.check_task(task)
        return task

    @cached_property
    def planned(self) -> Faults:
        """Who is faulty, how and when."""
        return Faults(self.faults, self.clients.count, self.seed)

    @property
    def faulty(self) -> dict[int, str]:
        """Partition id -> name of its fault, for every client that is faulty in any round."""
        found: dict[int, str] = {}
        for number in range(1, self.rounds + 1):
            found = self.planned.in_round(number) | found
        return found

    # --- checks -----------------------------------------------------------------------------------

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ":" not in str(self.task.get("name")):
            check_component(TASKS, self.task, "task")
        check_component(PARTITIONERS, self.clients.partition, "clients.partition")
        check_component(RULES, self.strategy.rule, "strategy.rule")
        check_component(CODECS, self.strategy.codec, "strategy.codec")
        check_component(CODECS, self.strategy.downlink, "strategy.downlink")
        optimizer = self.strategy.server_optimizer
        check_component(SERVER_OPTIMIZERS, optimizer, "strategy.server-optimizer")
        check_component(SCREENING, self._screening_table(), "strategy.screening")
        check_component(VOTES, self.clients.vote, "clients.vote")
        self.predictor.predict(torch.full((self.clients.members, 1, 2), 0.5))  # it fits the members
        self._noises.check(self.sampled, self.clients.count, self.ensemble)
        self.planned.check(self.engine.name)
        downlink = self.strategy.downlink["name"]
        if downlink != "identity" and any(table["name"] in list(ATTACKS) for table in self.faults):
            raise ConfigError(
                "strategy.downlink needs to be 'identity' under an attack by colluding clients, "
                f"who read the model in the messages, found {downlink!r}"
            )
        if downlink != "identity" and self.metrics.honest_mean:
            raise ConfigError(
                "strategy.downlink needs to be 'identity' for metrics.honest-mean, "
                f"which reads the model in the messages, found {downlink!r}"
            )
        for place, table in enumerate(self.engine.resources):
            check_component(RESOURCES, _group(table), f"engine.resources.{place}")
        _ = self.training  # what only torch can tell: whether there is such a device
        if self.rule.is_preaggregation:
            name = self.strategy.rule["name"]
            raise ConfigError(
                f"strategy.rule {name!r} is a pre-aggregation, which feeds a rule: "
                "put both into a chain"
            )
        if self.engine.name not in ENGINES:
            raise UnknownNameError("engine", self.engine.name, ENGINES)
        self._check_confidence()
        self._check_cohort()
        return self

    def _check_confidence(self) -> None:
        """Whether the rule gets the confidence that it asks for, and nothing that it ignores."""
        asked, rule = self.rule.confidence_from, self.rule
        if (asked == "held-out") != (self.strategy.held_out > 0):
            raise ConfigError(
                "strategy.held-out > 0 goes together with a rule whose confidence is 'held-out', "
                f"found {self.strategy.held_out} and {rule}"
            )
        if self.strategy.confidence_metric and asked != "reported":
            raise ConfigError(
                "strategy.confidence-metric acts with a rule whose confidence is 'reported', "
                f"found {rule}"
            )
        for table in self.faults:
            if asked and table["name"] in list(ATTACKS) and ATTACKS[table["name"]].needs_rule:
                raise ConfigError(
                    f"attack {table['name']!r} is made for a rule that judges by the updates, "
                    f"found {rule}"
                )

    def _check_cohort(self) -> None:
        """Whether the numbers of clients go together."""
        clients, sampled, ensemble = self.clients.count, self.sampled, self.ensemble
        found = f"{clients} clients"
        if sampled < clients:
            found = (
                f"{sampled} ({found}, strategy.fraction-train = {self.strategy.fraction_train:g})"
            )
        cohort, whose = ensemble.cohort(sampled), ""
        if cohort < sampled:
            whose = " of each member"
            found = (
                f"{cohort} ({found}, clients.members-per-client = {ensemble.each} "
                f"of clients.members = {ensemble.members})"
            )
        if self.strategy.quorum > cohort:
            quorum = self.strategy.quorum
            raise ConfigError(
                f"strategy.quorum = {quorum} needs as many clients{whose}, found {found}"
            )
        minimum = self.rule.minimum()
        if cohort < minimum:
            raise ConfigError(f"{self.rule} needs at least {minimum} updates{whose}, found {found}")


def experiment_file(run_config: Mapping[str, Any]) -> Path | None:
    """Return the file of the experiment in a Flower run's config; None if it is there as JSON."""
    if run_config.get("config"):
        return None
    return APP_ROOT / str(run_config.get("experiment") or "experiments/quickstart.toml")


def _group(table: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "group", **table}
