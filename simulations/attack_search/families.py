"""The attacks that a search tries, with the ranges of their parameters."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from hqde_fl.errors import ConfigError


class Trial(Protocol):
    """A source of a candidate's parameters, such as a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number in [low, high], on a logarithmic scale if ``log``."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return an integer in [low, high]."""

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        """Return one of the choices."""


@dataclass(frozen=True)
class Range:
    """The values of a parameter.

    Parameters
    ----------
    low, high : float
        The bounds, both included.
    log : bool
        Draw from a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Trial, name: str) -> float:
        """Return a value that a trial draws under a name, with three significant digits."""
        return float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.3g}")


@dataclass(frozen=True)
class AttackFamily:
    """An attack by name with the parameters that a search may set.

    Parameters
    ----------
    name : str
        The name of the fault, as in ``[[faults]]``.
    ranges : Mapping[str, Range]
        Parameter -> its values.
    choices : Mapping[str, tuple]
        Parameter -> its values, where they are no numbers.
    fixed : Mapping[str, Any] or None
        The parameters of the fixed attack, beside which the search is measured; its defaults where
        they are not given. None if the family is only searched.
    """

    name: str
    ranges: Mapping[str, Range] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    fixed: Mapping[str, Any] | None = field(default_factory=dict)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Return the fault's table with parameters that a trial draws."""
        table: dict[str, Any] = {"name": self.name}
        for name, values in self.ranges.items():
            table[name] = values.suggest(trial, f"{self.name}.{name}")
        for name, choices in self.choices.items():
            places = tuple(range(len(choices)))  # Optuna stores numbers, not tables
            table[name] = choices[trial.suggest_categorical(f"{self.name}.{name}", places)]
        return table


def named_table(text: str, argument: str) -> dict[str, Any]:
    """Return the table of a part that an argument of the command line gives.

    Parameters
    ----------
    text : str
        The part's name, or an inline TOML table.
    argument : str
        The argument, for the error.

    Raises
    ------
    ConfigError
        If the table is not TOML.
    """
    if not text.startswith("{"):
        return {"name": text}
    try:
        table: dict[str, Any] = tomllib.loads(f"part = {text}")["part"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{argument} must be a name or a TOML table, found {text!r}: {error}"
        ) from None
    return table


def own_family(text: str) -> AttackFamily:
    """Return the family that an option describes: an attack's name, or a TOML table of one.

    A list of two numbers is the range of a parameter, any other value a fixed one:
    ``{ name = "mine.py:Opposite", scale = [0.5, 10.0] }``. The fixed attack has the lower bounds.

    Raises
    ------
    ConfigError
        If the text is neither.
    """
    table = named_table(text, "--also")
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"--also must have a name, found {text!r}")
    ranges, choices, fixed = {}, {}, {}
    for key, value in table.items():
        if not isinstance(value, list):
            choices[key], fixed[key] = (value,), value
            continue
        if len(value) != 2 or not all(type(end) in (int, float) for end in value):
            raise ConfigError(f"--also: {key} must be [low, high], found {value!r}")
        low, high = map(float, value)
        if not -inf < low < high < inf:
            raise ConfigError(f"--also: {key} must be [low, high], low < high, found {value!r}")
        ranges[key], fixed[key] = Range(low, high, log=low > 0), low
    return AttackFamily(name, ranges, choices, fixed)


PERTURBATIONS = {"perturbation": ("std", "unit", "sign")}

FAMILIES = (
    AttackFamily("sign-flip", {"scale": Range(0.3, 10, log=True)}, fixed={"scale": 4.0}),
    AttackFamily("scaling", {"scale": Range(1.5, 30, log=True)}),
    AttackFamily("gaussian", {"sigma": Range(0.003, 1, log=True)}),
    AttackFamily("label-flip"),
    AttackFamily("ipm", {"epsilon": Range(0.05, 10, log=True)}),
    AttackFamily("alie", {"z": Range(0.1, 6)}, fixed={"z": 1.5}),
    AttackFamily("min-max", choices=PERTURBATIONS),
    AttackFamily("min-sum", choices=PERTURBATIONS),
    AttackFamily("mimic"),
    AttackFamily("copycat", {"noise": Range(0, 0.5)}),
    AttackFamily("sideways", {"strength": Range(0.2, 5, log=True), "noise": Range(0, 1)}),
    AttackFamily(
        "constant-direction", {"strength": Range(0.1, 4, log=True), "noise": Range(0, 1.5)}
    ),
    AttackFamily("poisoned-fl", {"scale": Range(0.5, 20, log=True)}),
    AttackFamily("fed-sa", {"rate": Range(0.05, 0.9), "reach": Range(0.01, 1, log=True)}),
    AttackFamily("optimal-alie"),
    AttackFamily("optimal-ipm"),
    AttackFamily("optimal-push", choices={"goal": ("opposite", "distance")}, fixed=None),
    AttackFamily(
        "evasive",
        {"share": Range(0.5, 1), "limit": Range(1, 8, log=True), "noise": Range(0, 1)},
        {
            "attack": (
                {"name": "min-max"},
                {"name": "min-sum"},
                {"name": "ipm"},
                {"name": "alie", "z": 1.5},
            )
        },
    ),
)
"""Attacks that are known to hurt some rule. Backdoors, which aim at other metrics, are none."""
