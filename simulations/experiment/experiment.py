"""An experiment: the content of a TOML file, checked completely before anything runs.

Whatever an experiment names (rule, faults, task, ...) stays a table in it, so that ``to_json`` is
exact; ``parts`` are the objects that the tables describe. An ``Experiment`` that exists can run:
unknown keys and names, wrong types and impossible combinations never get past ``parse``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from hqde_fl.clients.initial_state import initial_roles, initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_check import (
    before_the_run,
    check_clients,
    check_finite,
    check_model,
    check_test_set,
    check_validation_set,
    needs_validation,
    require_validation,
)
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.given_objects import current_objects, given_objects
from hqde_fl.own_modules import first_folder, is_own, own_code, searched_first
from hqde_fl.protocol.records import to_record
from hqde_fl.simulations.catalogue import ENGINES
from hqde_fl.simulations.experiment.checks import (
    check_attacks,
    check_calibration,
    check_cohort,
    check_privacy,
    check_secure_aggregation,
)
from hqde_fl.simulations.experiment.client_privacy import check_private_training
from hqde_fl.simulations.experiment.components import Component, build_component
from hqde_fl.simulations.experiment.errors import parameters_of, to_config_error
from hqde_fl.simulations.experiment.held_out import Measure, certainty, measure_named
from hqde_fl.simulations.experiment.honest_division import (
    check_honest_division,
    divided_among_honest,
)
from hqde_fl.simulations.experiment.memory_check import require_memory
from hqde_fl.simulations.experiment.metrics import metric_functions, with_metrics
from hqde_fl.simulations.experiment.overrides import name_of, read_toml, with_overrides
from hqde_fl.simulations.experiment.parts import Parts, build_parts
from hqde_fl.simulations.experiment.python_settings import names_in, with_settings
from hqde_fl.simulations.experiment.sections import (
    CheckpointSection,
    ClientsSection,
    EdgesSection,
    EngineSection,
    MetricsSection,
    MonitorSection,
    PrivacySection,
    Section,
    StoppingSection,
    StrategySection,
)
from hqde_fl.simulations.experiment.shipped import experiment_file_of
from hqde_fl.simulations.experiment.trial import try_own_parts
from hqde_fl.simulations.tasks import TASKS, load_task
from hqde_fl.simulations.tasks.partition import PARTITIONERS
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.catalogue import CALLBACKS
from hqde_fl.strategies.state import ModelState

RUN_CONFIG_KEYS = ("config", "experiment", "set", "own-files")
"""Keys of a Flower run's config that tell the experiment, and the content of the user's files."""

APP_ROOT = Path(__file__).resolve().parents[2]
"""The root of the Flower App: experiments named in a run's config are found from here."""


class Experiment(Section):
    """Everything that decides the result of a run.

    Parameters
    ----------
    **settings : Any
        The keys of a file, with ``_`` or ``-``: ``rounds=5, clients={"count": 8}``. A value may be
        a part (``rule=Krum(f=2)``), and ``task`` a ``Task`` or a function that returns one.
        ``rule``, ``codec`` and ``partition`` are short for ``strategy={"rule": ...}`` and so on.

    Attributes
    ----------
    name : str
        The experiment's name; by default that of its file.
    seed : int
        The root of all randomness.
    rounds : int
        The number of rounds.
    task : Component
        Model, data and metrics: ``hqde-fl list tasks``, or a ``Task`` of your own, or a function
        that returns one, as ``module:attribute`` or ``file.py:attribute``.
    clients : ClientsSection
        Their number, their data, and how they train.
    strategy : StrategySection
        The clients of a round, and how their updates become the next model.
    privacy : PrivacySection
        Differential privacy.
    edges : EdgesSection
        Groups of clients that merge among themselves first.
    faults : tuple[Component, ...]
        The faulty clients: one ``[[faults]]`` table for each fault or attack.
    engine : EngineSection
        Where the experiment runs.
    checkpoint : CheckpointSection
        When checkpoints are written.
    metrics : MetricsSection
        Further measurements.
    stopping : StoppingSection
        When the run ends before its last round.
    monitor : MonitorSection
        The record of resources and time.
    callbacks : tuple[Component, ...]
        Callbacks of your own, subclasses of ``hqde_fl.Callback``, which get each round's record.

    Raises
    ------
    ConfigError
        If a key is wrong: one line that names it, and what would be right.
    """

    name: str = Field("experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    rounds: int = Field(10, ge=1, le=1_000_000)
    task: Component = Field({"name": "digits"})
    clients: ClientsSection = ClientsSection()
    strategy: StrategySection = StrategySection()
    privacy: PrivacySection = PrivacySection()
    edges: EdgesSection = EdgesSection()
    faults: tuple[Component, ...] = Field((), strict=False)
    engine: EngineSection = EngineSection()
    checkpoint: CheckpointSection = CheckpointSection()
    metrics: MetricsSection = MetricsSection()
    stopping: StoppingSection = StoppingSection()
    monitor: MonitorSection = MonitorSection()
    callbacks: tuple[Component, ...] = Field((), strict=False)
    _objects: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **settings: Any) -> None:
        objects: dict[str, Any] = {}
        document = with_settings({}, settings, type(self).defaults(), objects)
        with given_objects(objects):
            try:
                super().__init__(**document)
            except ValidationError as error:
                raise to_config_error(error, type(self)) from None

    # documents of files are validated without it: their keys have no "_"
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Return the experiment that a TOML file describes, with overrides applied.

        Parameters
        ----------
        path : str or Path
            The file, or the name of one that comes with hqde-fl, such as ``quickstart``; the
            experiment is named after it unless it has a ``name`` of its own.
        overrides : Sequence[str]
            ``"dotted.key=value"``, the value written as in TOML; what is no TOML is a string.

        Raises
        ------
        ConfigError
            If the file cannot be read, is no TOML or has a ``[sweep]`` table, or if a key is wrong:
            one line that names the key, what is wrong with it, and what would be right.
        """
        path = experiment_file_of(path)
        document = read_toml(path)
        if "sweep" in document:
            raise ConfigError(f"{path} has a [sweep] table: run it with `hqde-fl sweep {path}`")
        with searched_first(Path(path).absolute().parent):
            return cls.parse({"name": name_of(path), **document}, overrides)

    @classmethod
    def parse(cls, document: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """Return the experiment in a document with overrides applied, or raise ``ConfigError``."""
        if overrides:
            document = with_overrides(document, overrides, defaults=cls.defaults())
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise to_config_error(error, cls) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the experiment in a text from ``to_json``, or raise ``ConfigError``."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"the experiment is not JSON: {error}") from None
        return cls.parse(document)

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Any]) -> Self:
        """Return the experiment that a Flower run's config asks for.

        Parameters
        ----------
        run_config : Mapping[str, Any]
            ``config``: a complete experiment as JSON. Or ``experiment``: a TOML file, relative to
            the app's root, by default the quickstart's, and ``set``: overrides, separated by
            spaces.
        """
        file = experiment_file(run_config)
        if file is None:
            return cls.from_json(str(run_config["config"]))
        return cls.load(file, str(run_config.get("set", "")).split())

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the complete document of an experiment in which every key has its default."""
        return cls.model_construct().to_table()

    def on_engine(self, name: str) -> Self:
        """Return the same experiment on another engine, with the same parts.

        Raises
        ------
        ConfigError
            If there is no such engine, or a fault cannot act on it.
        """
        self._check_engine(name)
        return self.model_copy(update={"engine": self.engine.model_copy(update={"name": name})})

    def to_table(self) -> dict[str, Any]:
        """Return the complete document, as a file would have it."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> str:
        """Return the complete document as one line of JSON; ``from_json`` gives an equal one."""
        return json.dumps(self.to_table(), sort_keys=True, allow_nan=False)

    @cached_property
    def folder(self) -> str | None:
        """Return the folder of the file that the experiment was read from; None without a file."""
        return first_folder()

    @contextmanager
    def _names(self) -> Iterator[None]:
        """Let names stand for what they stood for when the experiment was read, in the block."""
        with given_objects(self._objects), searched_first(self.folder):
            yield

    @cached_property
    def parts(self) -> Parts:
        """Return the objects that the tables describe; they are built once.

        A copy shares them if it differs in nothing that they depend on.
        """
        with self._names():
            return build_parts(
                self.clients,
                self.strategy,
                self.faults,
                self.engine,
                self.seed,
                self.edges,
                self.privacy,
            )

    @property
    def objects(self) -> Mapping[str, Any]:
        """Name -> object of the parts that a program gave to the experiment, and no file can name.

        ``from_json`` of another process needs them, inside ``given_objects``.
        """
        return self._objects

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy in which some sections or values are replaced, without a check of them."""
        copy = super().model_copy(update=update, deep=deep)
        if copy._sources() != self._sources():
            copy.__dict__.pop("parts", None)
        return copy

    def _sources(self) -> tuple[Any, ...]:
        """Return all that the parts depend on; the name of the engine is not among it."""
        engine = self.engine.model_copy(update={"name": ""})
        return (
            self.clients,
            self.strategy,
            self.privacy,
            self.edges,
            self.faults,
            engine,
            self.seed,
        )

    @property
    def client_rounds(self) -> int:
        """Return the number of rounds in which clients may train: with edges, those of an edge."""
        return self.rounds * self.edges.rounds

    @cached_property
    def faulty(self) -> Mapping[int, str]:
        """Partition id -> name of its earliest fault, for clients faulty in any round."""
        faulty: dict[int, str] = {}
        for number in range(1, self.client_rounds + 1):
            faulty = self.parts.faults.in_round(number) | faulty
        return faulty

    @cached_property
    def lasting_attackers(self) -> frozenset[int]:
        """The partition ids of faults that keep their clients and act in some round."""
        plan = self.parts.faults.plan
        lasting = [not schedule.resample for schedule in plan.schedules]
        return frozenset(
            client
            for number in range(1, self.client_rounds + 1)
            for clients, keeps in zip(plan.faulty(number), lasting, strict=True)
            for client in clients
            if keeps
        )

    def load_task(self, partitions: int | None = None) -> Task:
        """Return the experiment's task, with its data divided among the clients.

        Parameters
        ----------
        partitions : int, optional
            The number of parts, if it is not ``clients.count``.

        Raises
        ------
        DataError
            If the data is not where it should be.
        """
        clients = self.clients
        with self._names():
            count = clients.count if partitions is None else partitions
            task = load_task(self.task, clients.partition, count, self.seed)
            if clients.divide_among == "honest":
                task = divided_among_honest(task, frozenset(self.faulty), count)
            return with_metrics(task, self.metrics)

    def held_out_measure(self) -> Measure:
        """Return the function that judges models by the held-out examples."""
        if not (name := self.strategy.held_out_measure):
            return certainty
        if not self.strategy.held_out:
            raise ConfigError("strategy.held-out-measure needs strategy.held-out > 0, found 0")
        with self._names():
            return measure_named(name)

    def new_callbacks(self) -> list[Callback]:
        """Return the callbacks in ``callbacks``: new ones, and objects that a program gave."""
        given = {name: o for name, o in self._objects.items() if isinstance(o, Callback)}
        with self._names():
            return [
                given[table["name"]]
                if table.get("name") in given
                else build_component(CALLBACKS, table, f"callbacks.{index}")
                for index, table in enumerate(self.callbacks)
            ]

    def for_clients(self) -> Self:
        """Return the experiment without callbacks and monitor, which only the server has."""
        copy = self.model_copy(update={"callbacks": (), "monitor": MonitorSection()})
        names = names_in(copy.to_table())
        copy._objects = {name: o for name, o in self._objects.items() if name in names}
        return copy

    def checked_task(self, *, test: bool = True, clients: bool = True) -> Task:
        """Return the experiment's task after a check of its model, data, loss, metrics and parts.

        The model is evaluated on a few examples of the test set, and trained on a batch of one
        client; it is used for nothing else. The test set is kept for the task's further use.

        Parameters
        ----------
        test : bool, default=True
            Look at the test set, which has to be here.
        clients : bool, default=True
            Look at a client's data, which has to be here, if the task or the partitioner is the
            user's own. Nobody looks at those on a Ray cluster that was running before.

        Raises
        ------
        DataError
            If the data is not where it should be.
        ConfigError
            If a part of the user's own fails on random numbers: which one, and how. If the model
            cannot be built, or has an entry that cannot be carried: its name. If the task's code
            raises an exception or returns what it must not: which part, and where. If a fault
            cannot act on this task: its name, and what it needs. If this machine, which is to
            simulate, has too little memory for the model.
        """
        with before_the_run():
            task = self.load_task()
        if task.test is not None:
            task = dataclasses.replace(task, test=cache(task.test))
        if task.validation is not None:
            task = dataclasses.replace(task, validation=cache(task.validation))
        if self.stopping.follows:
            require_validation(task, "[stopping]")
        parts = self.parts
        self.try_parts()
        model = check_model(task, parts.seeds)
        if clients and not self.engine.address:
            require_memory(self.engine.name, model.trained_bytes)
        if (plan := parts.plan) is not None:
            check_calibration(plan, self.rounds)
            with parameters_of("strategy"):
                arrays = to_record(initial_state(task, 1, parts.seeds))
                states = [ModelState.of(arrays, initial_roles(task))]
                plan.check_models(states, merges_statistics=parts.aggregation.buffers == "merge")
        losses = []
        if test:
            if task.validation is not None:
                losses += [
                    check_validation_set(task, model, parts.ensemble.members, parts.predictor)
                ]
            if task.test is not None:
                losses += [check_test_set(task, model, parts.ensemble.members, parts.predictor)]
            check_private_training(
                task,
                model,
                parts.training,
                local=parts.client_privacy.local is not None,
                buffers=self.strategy.buffers,
            )
        own = is_own(self.task["name"]) or is_own(self.clients.partition["name"])
        if clients and own and not self.engine.address:
            losses += [check_clients(task, model, parts.training, self.clients.count)]
        if len(losses) > 1:
            check_finite(task, *losses)
        self.parts.faults.check_task(task)
        return task

    def check_nodes(self, *, real_nodes: bool) -> None:
        """Raise ``ConfigError`` if a part needs real nodes, or simulated ones, in vain."""
        self.parts.heterogeneity.check_simulated(real_nodes=real_nodes)
        self.edges.check_nodes(real_nodes=real_nodes)
        self.clients.check_nodes(real_nodes=real_nodes)

    def try_parts(self) -> None:
        """Raise ``ConfigError`` if a part of the user's own fails on a few random numbers.

        The files of the simulated heterogeneity are read, too, which only the server needs.
        """
        with self._names():
            self.parts.heterogeneity.check(self.clients.count)
            if self.parts.edges is not None:
                self.parts.edges.check_bandwidth()
        try_own_parts(self.parts, self.strategy, self.faults, self.edges)

    @model_validator(mode="after")
    def _check(self) -> Self:
        objects = current_objects()
        names = names_in(self.to_table()) if objects else set()
        self._objects = {name: objects[name] for name in sorted(names & objects.keys())}
        _ = self.folder  # the one searched first while the tables are checked
        with before_the_run(), own_code("a part of the experiment"):
            self._check_tables()
        return self

    def _check_tables(self) -> None:
        if not is_own(self.task.get("name")):
            task = build_component(TASKS, self.task, "task")
            if self.stopping.follows and not task.validation:
                raise ConfigError(needs_validation("[stopping]"))
        build_component(PARTITIONERS, self.clients.partition, "clients.partition")
        parts = self.parts
        self.held_out_measure()
        self.new_callbacks()
        metric_functions(self.metrics.functions)
        self._check_engine(self.engine.name)
        check_attacks(parts)
        check_privacy(parts, self.strategy, self.metrics)
        check_secure_aggregation(parts, self.metrics)
        check_cohort(parts, self.clients, self.strategy)
        if self.clients.divide_among == "honest":
            check_honest_division(parts.faults, self.clients)

    def _check_engine(self, name: str) -> None:
        if name not in ENGINES:
            raise UnknownNameError("engine", name, ENGINES)
        if self._objects and name == "flower":
            raise ConfigError(
                f"engine flower runs in other programs, which do not have {min(self._objects)!r}: "
                "put it into a module and name it 'module:attribute', or use engine ray or inline"
            )
        self.parts.faults.check_engine(name)


def experiment_file(run_config: Mapping[str, Any]) -> Path | None:
    """Return the TOML file that a Flower run's config names, or None if it has the JSON instead.

    A config that has neither stands for the quickstart's file.
    """
    if run_config.get("config"):
        return None
    return APP_ROOT / str(run_config.get("experiment") or "experiments/quickstart.toml")
