"""What a ``[sweep]`` table says: which keys vary, and what an experiment becomes at each place.

Every key of the table lists values. A key is one of the experiment's, dotted, or one of the short
names in ``SHORT``; any other name is a variable of the sweep: wherever the file says ``"$f"``, the
value of ``f`` stands instead. ``"$rounds"`` and ``"$seeds"`` stand for a key that is set as well. A
value that is a table may carry a ``label``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.experiment.labels import CLIENT_KEYS, axis_labels
from hqde_fl.simulations.experiment.overrides import with_value
from hqde_fl.simulations.sweep.tables import columns

SHORT = {
    "attack": "faults",
    "codec": "strategy.codec",
    "partition": "clients.partition",
    "rule": "strategy.rule",
    "seeds": "seed",
}
"""Names that a sweep knows besides the experiment's own keys."""

COUNT = "$f"
"""How many clients an attack gets that does not say."""

NONE = "none"
"""The attack that is none."""


@dataclass(frozen=True)
class Axis:
    """One thing that varies.

    Parameters
    ----------
    key : str
        The dotted key of the experiment that is set, or the name of a variable.
    name : str
        What the axis is called in tables.
    values : tuple[Any, ...]
        What it is set to.
    labels : tuple[str, ...]
        What the values are called.
    written : str
        The key as the file has it.
    variable : bool
        Whether the key is none of the experiment's.
    """

    key: str
    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    written: str = ""
    variable: bool = False

    @property
    def texts(self) -> tuple[Any, ...]:
        """The values as columns of ``results.csv`` have them: plain, or else their labels."""
        if all(isinstance(value, bool | int | float | str) for value in self.values):
            return self.values
        return self.labels


def axes_of(
    table: Mapping[str, Any], document: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[Axis, ...]:
    """The axes of a ``[sweep]`` table in a document.

    Parameters
    ----------
    table : Mapping[str, Any]
        What varies.
    document : Mapping[str, Any]
        The file without it.
    defaults : Mapping[str, Any]
        A complete document: its keys are the experiment's.

    Raises
    ------
    ConfigError
        If a key has no list of values, two keys are the same, a seed is listed twice, or a variable
        is called as a column of the tables.
    """
    lists = dict(_lists(table, ""))
    named = _references([*lists.values(), document])
    known = {*SHORT, *defaults}
    variables = {name for name in named if name in lists and name.partition(".")[0] not in known}
    if "attack" in lists and "f" in lists:
        variables.add("f")
    axes: dict[str, Axis] = {}
    taken = columns()
    for written, values in lists.items():
        key = written if written in variables else SHORT.get(written, written)
        if key in axes:
            raise ConfigError(f"[sweep] {written} and {axes[key].name} are the same axis")
        name = key.rpartition(".")[2] if written not in SHORT or written == "seeds" else written
        if key in variables and key in taken:
            raise ConfigError(
                f"[sweep] {key} is the name of a column of the tables: choose another"
            )
        if key == "seed" and len({*map(repr, values)}) < len(values):
            raise ConfigError(f"[sweep] {written} needs different seeds, found {values}")
        labels, plain = _labelled(written, values)
        if written == "attack":
            plain = [_faults(value, "f" in lists) for value in plain]
        axes[key] = Axis(key, name, tuple(plain), tuple(labels), written, key in variables)
    names = [axis.name for axis in axes.values()]
    return tuple(
        axis
        if names.count(axis.name) == 1 and axis.name not in taken
        else replace(axis, name=axis.key)
        for axis in axes.values()
    )


def place(
    document: Mapping[str, Any],
    axes: Sequence[Axis],
    values: Sequence[Any],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """The document at one place of the sweep.

    Parameters
    ----------
    document : Mapping[str, Any]
        The file without ``[sweep]``; left as it is.
    axes : Sequence[Axis]
        What varies.
    values : Sequence[Any]
        One value of each.
    defaults : Mapping[str, Any]
        The complete document that a missing table is taken from.
    """
    changed = copy.deepcopy(dict(document))
    variables = {}
    for axis, value in zip(axes, values, strict=True):
        if axis.written not in SHORT or axis.written == "seeds":
            variables[axis.written] = value
        if not axis.variable:
            changed = with_value(changed, axis.key, value, defaults)
    found = _substituted(changed, variables)
    assert isinstance(found, dict)
    return found


def _lists(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """Dotted key and values, whether the key is quoted or spelt as nested tables."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _lists(value, f"{key}.")
        elif isinstance(value, list) and value:
            yield key, value
        else:
            raise ConfigError(f"[sweep] {key} needs to be a list of values, found {value!r}")


def _labelled(written: str, values: Sequence[Any]) -> tuple[list[str], list[Any]]:
    """What the values are called, and the values without it."""
    given, plain = [], []
    for value in values:
        label = value.get("label") if isinstance(value, Mapping) else None
        if label is not None and not (isinstance(label, str) and label):
            raise ConfigError(f"[sweep] {written}.label needs to be a string, found {label!r}")
        given.append(label)
        plain.append(
            {key: each for key, each in value.items() if key != "label"}
            if isinstance(value, Mapping)
            else value
        )
    key = "seed" if written == "seeds" else written
    made = axis_labels(key, [_without_references(value) for value in plain])
    labels = [label or own for label, own in zip(given, made, strict=True)]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"[sweep] {written} has two values called {label!r}")
    return labels, plain


def _faults(value: Any, counted: bool) -> list[Any]:
    """A value of ``attack`` as a value of ``faults``."""
    if value == NONE:
        return []
    faults = []
    for each in value if isinstance(value, list) else [value]:
        fault = {"name": each} if isinstance(each, str) else each
        if isinstance(fault, Mapping) and not set(CLIENT_KEYS) & set(fault):
            if not counted:
                raise ConfigError(
                    f"[sweep] attack {fault.get('name')!r} needs {', '.join(CLIENT_KEYS)}, "
                    "or a list f of counts beside it"
                )
            fault = {**fault, "count": COUNT}
        faults.append(fault)
    return faults


def _references(value: Any) -> Iterator[str]:
    """The names after ``$`` anywhere in a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _references(each)
    elif isinstance(value, str) and value.startswith("$"):
        yield value[1:]


def _without_references(value: Any) -> Any:
    """A value without the parameters that refer to variables, which say nothing in a label."""
    if isinstance(value, Mapping):
        return {
            key: _without_references(each)
            for key, each in value.items()
            if not (isinstance(each, str) and each.startswith("$"))
        }
    return [_without_references(each) for each in value] if isinstance(value, list) else value


def _substituted(value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _substituted(each, variables) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_substituted(each, variables) for each in value]
    if isinstance(value, str) and value.startswith("$"):
        if value[1:] not in variables:
            raise UnknownNameError("variable of the sweep", value[1:], variables)
        return variables[value[1:]]
    return value
