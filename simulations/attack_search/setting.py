"""The experiment in which an attack search tries a rule."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment

SETTING: dict[str, Any] = {
    "rounds": 20,
    "task": {"name": "digits"},
    "clients": {
        "count": 10,
        "epochs": 3,
        "batch-size": 32,
        "lr": 0.2,
        "partition": {"name": "dirichlet", "alpha": 0.5},
    },
}
"""The experiment without a file."""


def searched_experiment(
    rule: str, file: Path | None, overrides: Sequence[str], f: int
) -> Experiment:
    """Return an experiment with a rule, which is told f where it takes it.

    Parameters
    ----------
    rule : str
        A rule's name, or an inline TOML table with a name and parameters.
    file : Path or None
        The experiment's file; ``SETTING`` if None.
    overrides : Sequence[str]
        Overrides of dotted keys.
    f : int
        The number of attackers.

    Raises
    ------
    ConfigError
        If there is no such rule, or it does not fit.
    """
    from hqde_fl.catalogue import RULES

    try:
        table = tomllib.loads(f"rule = {rule}")["rule"] if rule.startswith("{") else {"name": rule}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"RULE must be a name or a TOML table, found {rule!r}: {error}") from None
    name = table.get("name")
    if "f" not in table and isinstance(name, str) and "f" in RULES.parameters(name):
        table = {**table, "f": f}
    if file is not None:
        base = Experiment.load(file, overrides).to_table()
    else:
        base = Experiment.parse({"name": "search", **SETTING}, overrides).to_table()
    label = str(name).replace(":", "-").replace("/", "-")
    strategy = {**base["strategy"], "rule": table}
    return Experiment.parse({**base, "name": label, "strategy": strategy, "faults": []})
