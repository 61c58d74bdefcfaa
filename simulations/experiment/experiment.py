"""An experiment: the content of a TOML file, checked completely before anything runs.

Whatever an experiment names (rule, faults, task, ...) stays a table in it, so that ``to_json`` is
exact; ``parts`` are the objects that the tables describe. An ``Experiment`` that exists can run:
unknown keys and names, wrong types and impossible combinations never get past ``parse``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.experiment.checks import check_attacks, check_cohort, check_model
from hqde_fl.simulations.experiment.components import Component, build_component
from hqde_fl.simulations.experiment.errors import to_config_error
from hqde_fl.simulations.experiment.overrides import read_toml, with_overrides
from hqde_fl.simulations.experiment.parts import Parts, build_parts
from hqde_fl.simulations.experiment.sections import (
    CheckpointSection,
    ClientsSection,
    EngineSection,
    MetricsSection,
    Section,
    StrategySection,
)
from hqde_fl.simulations.tasks import TASKS, load_task
from hqde_fl.simulations.tasks.partition import PARTITIONERS

ENGINES = ("flower", "inline", "ray")
"""Names of the engines."""

RUN_CONFIG_KEYS = ("config", "experiment", "set")
"""Keys of a Flower run's config that tell the experiment."""

APP_ROOT = Path(__file__).resolve().parents[2]
"""The root of the Flower App: experiments named in a run's config are found from here."""


class Experiment(Section):
    """Everything that decides the result of a run."""

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
        """Return the experiment that a TOML file describes, with overrides applied.

        Parameters
        ----------
        path : str or Path
            The file; the experiment is named after it unless it has a ``name`` of its own.
        overrides : Sequence[str]
            ``"dotted.key=value"``, the value written as in TOML; what is no TOML is a string.

        Raises
        ------
        ConfigError
            If the file cannot be read, is no TOML or has a ``[sweep]`` table, or if a key is wrong:
            one line that names the key, what is wrong with it, and what would be right.
        """
        document = read_toml(path)
        if "sweep" in document:
            raise ConfigError(f"{path} has a [sweep] table: run it with `hqde-fl sweep {path}`")
        return cls.parse({"name": Path(path).stem, **document}, overrides)

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
    def parts(self) -> Parts:
        """Return the objects that the tables describe; they are built once.

        A copy shares them if it differs in nothing that they depend on.
        """
        return build_parts(self.clients, self.strategy, self.faults, self.engine, self.seed)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy in which some sections or values are replaced, without a check of them."""
        copy = super().model_copy(update=update, deep=deep)
        if copy._sources() != self._sources():
            copy.__dict__.pop("parts", None)
        return copy

    def _sources(self) -> tuple[Any, ...]:
        """Return all that the parts depend on; the name of the engine is not among it."""
        engine = self.engine.model_copy(update={"name": ""})
        return self.clients, self.strategy, self.faults, engine, self.seed

    @property
    def faulty(self) -> dict[int, str]:
        """Return partition id -> name of its earliest fault, for clients faulty in any round."""
        faulty: dict[int, str] = {}
        for number in range(1, self.rounds + 1):
            faulty = self.parts.faults.in_round(number) | faulty
        return faulty

    def load_task(self) -> Task:
        """Return the experiment's task, with its data divided among the clients.

        Raises
        ------
        DataError
            If the data is not where it should be.
        """
        clients = self.clients
        return load_task(self.task, clients.partition, clients.count, self.seed)

    def checked_task(self) -> Task:
        """Return the experiment's task after a check of its model, and that the faults can act.

        The test set that the check loads is kept for the task's further use.

        Raises
        ------
        DataError
            If the data is not where it should be.
        ConfigError
            If the model cannot be built, or has an entry that cannot be carried: its name. If a
            fault cannot act on this task: its name, and what it needs.
        """
        task = self.load_task()
        task = dataclasses.replace(task, test=cache(task.test))
        check_model(task, self.parts.seeds)
        self.parts.faults.check_task(task)
        return task

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ":" not in str(self.task.get("name")):
            build_component(TASKS, self.task, "task")
        build_component(PARTITIONERS, self.clients.partition, "clients.partition")
        parts = self.parts
        self._check_engine(self.engine.name)
        check_attacks(parts.rule, self.faults)
        check_cohort(parts, self.clients, self.strategy)
        return self

    def _check_engine(self, name: str) -> None:
        if name not in ENGINES:
            raise UnknownNameError("engine", name, ENGINES)
        self.parts.faults.check_engine(name)


def experiment_file(run_config: Mapping[str, Any]) -> Path | None:
    """Return the TOML file that a Flower run's config names, or None if it has the JSON instead.

    A config that has neither stands for the quickstart's file.
    """
    if run_config.get("config"):
        return None
    return APP_ROOT / str(run_config.get("experiment") or "experiments/quickstart.toml")
