"""The experiment in which an attack search tries a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attack_search.candidates import fixed_candidates
from hqde_fl.simulations.attack_search.families import FAMILIES, AttackFamily, named_table
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.overrides import read_toml
from hqde_fl.simulations.experiment.shipped import experiment_file_of

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
        If there is no such rule, it does not fit, or the file is a sweep's.
    """
    from hqde_fl.catalogue import RULES

    table = named_table(rule, "RULE")
    name = table.get("name")
    if "f" not in table and isinstance(name, str) and "f" in RULES.parameters(name):
        table = {**table, "f": f}
    if file is not None:
        _require_one_experiment(file)
        base = Experiment.load(file, overrides).to_table()
    else:
        base = Experiment.parse({"name": "search", **SETTING}, overrides).to_table()
    label = str(name).replace(":", "-").replace("/", "-")
    strategy = {**base["strategy"], "rule": table}
    return Experiment.parse({**base, "name": label, "strategy": strategy, "faults": []})


def require_attacks(
    experiment: Experiment, families: Sequence[AttackFamily], f: int
) -> tuple[AttackFamily, ...]:
    """Return families of attacks to try besides ``FAMILIES``.

    Raises ``ConfigError`` if one of them is among these, or an experiment cannot have it.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    families : Sequence[AttackFamily]
        The families, each of which is tried with the parameters of its fixed attack.
    f : int
        The number of attackers.
    """
    names = [family.name for family in FAMILIES]
    for family in families:
        if family.name in names:
            raise ConfigError(f"--also {family.name!r} is tried already")
        names.append(family.name)
    for candidate in fixed_candidates(families):
        Experiment.parse({**experiment.to_table(), "faults": candidate.faults(f, ())})
    return tuple(families)


def _require_one_experiment(file: Path) -> None:
    """Raise ``ConfigError`` if a file has a ``[sweep]`` table."""
    path = experiment_file_of(file)
    keys = read_toml(path).get("sweep")
    if keys is not None:
        named = f" with {', '.join(keys)}" if isinstance(keys, Mapping) and keys else ""
        raise ConfigError(
            f"{path} has a [sweep] table{named}: attack-search takes one experiment. Use a copy "
            "without that table, in which each key that varies, and each variable such as $f, has "
            "one value; RULE, --attackers, --seeds and --held-out say the rule, f and the seeds"
        )
