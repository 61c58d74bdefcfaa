"""The kinds of things that an experiment's file can name, and where; nothing is imported for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hqde_fl.catalogue import CODECS, EXECUTORS, NOISE_SOURCES, RULES, SCHEDULES, SELECTORS, VOTES
from hqde_fl.clients.catalogue import FAULTS, METRICS, OPTIMIZERS
from hqde_fl.errors import ConfigError
from hqde_fl.registry import Registry
from hqde_fl.simulations.catalogue import (
    ATTACKS,
    BANDWIDTHS,
    DROP_OUTS,
    ENGINES,
    PARTITIONERS,
    SPEEDS,
    TASKS,
)
from hqde_fl.simulations.console.part_source import Description, Parameter, describe
from hqde_fl.strategies.catalogue import CALLBACKS, SERVER_OPTIMIZERS

SECTIONS = "hqde_fl.simulations.experiment.sections"
EXPERIMENT = "hqde_fl.simulations.experiment.experiment:Experiment"
COMPARISON = "hqde_fl.simulations.statistics.analysis:Analysis"
FAULT_KEYS = (
    Parameter("name", "str", None, meaning="A fault or an attack; required."),
    Parameter(
        "count",
        "int",
        "None",
        ">= 0",
        "The number of clients that have it, drawn by the seed. One of ``count``, ``fraction`` and "
        "``clients`` is required.",
    ),
    Parameter("fraction", "float", "None", meaning="Their fraction of all clients, in [0, 1]."),
    Parameter("clients", "tuple[int, ...]", "None", meaning="Their partition ids."),
    Parameter("start", "int", "1", ">= 1", "The first round in which it acts."),
    Parameter("stop", "int", "0", ">= 0", "The last round in which it acts; 0 for no last round."),
    Parameter(
        "period",
        "int",
        "0",
        ">= 0",
        "The rounds of a cycle, counted from ``start``, of which only the first ``on`` are active; "
        "0 for no cycle.",
    ),
    Parameter("on", "int", "0", ">= 0", "The active rounds of a cycle, in [1, ``period``]."),
    Parameter(
        "absent",
        "bool",
        "False",
        meaning="Its clients take no part in training before ``start``, as if they joined late.",
    ),
    Parameter("resample", "bool", "False", meaning="Draw other clients in every round."),
)
"""Keys of a ``[[faults]]`` table besides the fault's own parameters, of which some are required."""


TABLES = {
    "clients.entanglement-noise": "hqde_fl.noise:EntanglementNoise",
    "clients.dp-sgd": "hqde_fl.privacy.example_level:DPSGD",
    "clients.local-dp": "hqde_fl.privacy.local:LocalDP",
    "clients.regularization-noise": "hqde_fl.noise:RegularizationNoise",
    "engine.resources": "hqde_fl.simulations.engines.ray.resources:Resources",
    "privacy.adaptive-clipping": "hqde_fl.privacy.central:AdaptiveClipping",
    "strategy.exploration-noise": "hqde_fl.noise:ExplorationNoise",
    "strategy.screening": "hqde_fl.protocol.screening:Screening",
    "strategy.secure-aggregation": "hqde_fl.privacy.secagg:SecureAggregation",
}
"""Tables whose keys are the parameters of a class."""


@dataclass(frozen=True)
class Kind:
    """A kind of things that have names.

    Parameters
    ----------
    name : str
        Its name, in the plural.
    one : str
        Its name, in the singular.
    keys : tuple[str, ...]
        The dotted keys of a file that take such a name.
    example : str
        A table of a file, in which ``{}`` stands for the name and the required parameters.
    registry : Registry, optional
        The parts.
    words : Mapping[str, str]
        Name -> meaning, where the names stand for no parts.
    """

    name: str
    one: str
    keys: tuple[str, ...]
    example: str
    registry: Registry[Any] | None = None
    words: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.words if self.registry is None else self.registry))

    def describe(self, name: str, *, meanings: bool = True) -> Description:
        """Return the description of an entry, as ``part_source.describe`` does.

        Raises
        ------
        ConfigError
            If it has no source.
        """
        if self.registry is None:
            return Description(self.words[name])
        return describe(self.registry.reference(name), meanings=meanings)

    def described(self, *, meanings: bool = True) -> Iterator[tuple[str, Description]]:
        """Yield each name and its description; a broken entry of a package is left out."""
        for name in self:
            try:
                yield name, self.describe(name, meanings=meanings)
            except ConfigError as error:
                warnings.warn(f"{self.one} {name!r} is left out: {error}", stacklevel=2)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("rules", "rule", ("strategy.rule",), "[strategy]\nrule = {}", RULES),
        Kind(
            "codecs",
            "codec",
            ("strategy.codec", "strategy.downlink"),
            "[strategy]\ncodec = {}",
            CODECS,
        ),
        Kind("faults", "fault", ("faults",), "[[faults]]\n{}\ncount = 2", FAULTS),
        Kind("attacks", "attack", ("faults",), "[[faults]]\n{}\ncount = 2", ATTACKS),
        Kind("tasks", "task", ("task",), "[task]\n{}", TASKS),
        Kind(
            "partitioners",
            "partitioner",
            ("clients.partition",),
            "[clients]\npartition = {}",
            PARTITIONERS,
        ),
        Kind(
            "selectors", "selector", ("strategy.selector",), "[strategy]\nselector = {}", SELECTORS
        ),
        Kind(
            "executors", "executor", ("strategy.executor",), "[strategy]\nexecutor = {}", EXECUTORS
        ),
        Kind(
            "server-optimizers",
            "server optimizer",
            ("strategy.server-optimizer",),
            "[strategy]\nserver-optimizer = {}",
            SERVER_OPTIMIZERS,
        ),
        Kind(
            "schedules",
            "schedule",
            ("clients.lr-schedule", "strategy.server-lr-schedule"),
            "[clients]\nlr-schedule = {}",
            SCHEDULES,
        ),
        Kind(
            "noise-sources",
            "noise source",
            ("privacy.noise", "clients.local-dp.noise", "clients.dp-sgd.noise"),
            '[strategy]\nrule = "mean"\n\n[privacy]\nnoise-multiplier = 1.0\nnoise = {}',
            NOISE_SOURCES,
        ),
        Kind("votes", "vote", ("clients.vote",), "[clients]\nvote = {}", VOTES),
        Kind("speeds", "speed", ("clients.speed",), "[clients]\nspeed = {}", SPEEDS),
        Kind(
            "bandwidths",
            "bandwidth",
            ("clients.bandwidth", "edges.bandwidth"),
            "[clients]\nbandwidth = {}",
            BANDWIDTHS,
        ),
        Kind("drop-outs", "drop-out", ("clients.drop-out",), "[clients]\ndrop-out = {}", DROP_OUTS),
        Kind("callbacks", "callback", ("callbacks",), "callbacks = [{}]", CALLBACKS),
        Kind(
            "optimizers",
            "optimizer",
            ("clients.optimizer",),
            "[clients]\noptimizer = {}",
            words=OPTIMIZERS,
        ),
        Kind("metrics", "metric", ("metrics.primary",), "[metrics]\nprimary = {}", words=METRICS),
        Kind("engines", "engine", ("engine.name",), "[engine]\nname = {}", words=ENGINES),
    )
}
"""Name of a kind -> the kind, in the order of ``hqde-fl list``."""


@cache
def keys() -> Mapping[str, Parameter]:
    """Return dotted key -> what it is, for every key of a file but the axes of ``[sweep]``."""
    found: dict[str, Parameter] = {}
    for parameter in describe(EXPERIMENT).parameters.values():
        if parameter.type.endswith("Section"):
            section = describe(f"{SECTIONS}:{parameter.type}")
            for inner in section.parameters.values():
                found[f"{parameter.key}.{inner.key}"] = inner
        else:
            found[parameter.key] = parameter
    for table, reference in TABLES.items():
        for inner in describe(reference).parameters.values():
            found[f"{table}.{inner.key}"] = inner
    found |= {f"faults.{key.name}": key for key in FAULT_KEYS}
    settings = describe(COMPARISON).parameters
    return found | {f"sweep.{name}": setting for name, setting in settings.items()}
