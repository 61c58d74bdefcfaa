"""Read a ``[sweep]`` table: its axes, and the experiment for one value of each.

Every key of the table lists values. A key is a dotted key of the experiment or one of
``SHORT_NAMES``. Any other name is a variable of the sweep, whose value replaces ``"$NAME"`` in the
file, and may be part of a sum or a difference of integers: ``"10 + $f"``, ``"$n - $f"``.
``"$rounds"`` and ``"$seeds"`` refer to a key that is set as well. A value that is a table may have
a ``label``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.experiment.display_names import CLIENT_KEYS, axis_labels
from hqde_fl.simulations.experiment.overrides import with_value
from hqde_fl.simulations.sweep.tables import columns

SHORT_NAMES = {
    "attack": "faults",
    "codec": "strategy.codec",
    "partition": "clients.partition",
    "rule": "strategy.rule",
    "seeds": "seed",
}
"""Short names of keys in a ``[sweep]`` table."""

DEFAULT_COUNT = "$f"
"""Number of clients of an attack that gives none."""

NO_ATTACK = "none"
"""Value of ``attack`` for an experiment without faults."""

_SUM = re.compile(r"(\$[\w.-]+|\d+) ([+-]) (\$[\w.-]+|\d+)")
"""A sum or a difference; one without a ``$`` is a string like any other."""


@dataclass(frozen=True)
class Axis:
    """One key or variable that varies, with its values.

    Parameters
    ----------
    key : str
        The dotted key of the experiment that is set, or the name of a variable.
    name : str
        Name of the axis in tables.
    values : tuple[Any, ...]
        The values.
    labels : tuple[str, ...]
        The values' names in tables, all different.
    written : str
        The key as the file has it.
    variable : bool
        True for a variable, which is no key of the experiment.
    """

    key: str
    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    written: str = ""
    variable: bool = False

    @property
    def texts(self) -> tuple[Any, ...]:
        """Return the values, or all labels if a value is no boolean, number or string."""
        if all(isinstance(value, bool | int | float | str) for value in self.values):
            return self.values
        return self.labels


def axes_of(
    table: Mapping[str, Any], document: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[Axis, ...]:
    """Return the axes of a ``[sweep]`` table in a document.

    Parameters
    ----------
    table : Mapping[str, Any]
        The table.
    document : Mapping[str, Any]
        The file without it.
    defaults : Mapping[str, Any]
        A complete document, which has all keys of an experiment.

    Raises
    ------
    ConfigError
        If a key has no list of values, two keys are the same, a seed is listed twice, or a variable
        has the name of a column of the tables.
    """
    lists = dict(_lists(table, ""))
    referenced = _references([*lists.values(), document])
    known = {*SHORT_NAMES, *defaults}
    variables = {
        name for name in referenced if name in lists and name.partition(".")[0] not in known
    }
    if "attack" in lists and "f" in lists:
        variables.add("f")
    axes: dict[str, Axis] = {}
    taken = columns()
    for written, values in lists.items():
        key = written if written in variables else SHORT_NAMES.get(written, written)
        if key in axes:
            raise ConfigError(f"[sweep] {written} and {axes[key].name} are the same axis")
        name = (
            key.rpartition(".")[2] if written not in SHORT_NAMES or written == "seeds" else written
        )
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


def document_at(
    document: Mapping[str, Any],
    axes: Sequence[Axis],
    values: Sequence[Any],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the document for one value of each axis, which also replaces ``"$NAME"`` in it.

    Parameters
    ----------
    document : Mapping[str, Any]
        The file without ``[sweep]``; it is not changed.
    axes : Sequence[Axis]
        The axes.
    values : Sequence[Any]
        One value of each axis.
    defaults : Mapping[str, Any]
        A complete document, from which a missing table is taken.
    """
    changed = dict(document)
    variables = {}
    for axis, value in zip(axes, values, strict=True):
        if axis.written not in SHORT_NAMES or axis.written == "seeds":
            variables[axis.written] = value
        if not axis.variable:
            changed = with_value(changed, axis.key, value, defaults)
    document_here = _substituted(changed, variables)
    assert isinstance(document_here, dict)
    return document_here


def _lists(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield each dotted key of a ``[sweep]`` table and its values, each key after ``prefix``.

    A key may be quoted or spelt as nested tables. One without a list of values raises
    ``ConfigError``.
    """
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _lists(value, f"{key}.")
        elif isinstance(value, list) and value:
            yield key, value
        else:
            raise ConfigError(f"[sweep] {key} needs to be a list of values, found {value!r}")


def _labelled(written: str, values: Sequence[Any]) -> tuple[list[str], list[Any]]:
    """Return the labels of a key's values, and the values without their ``label``.

    A value without a label is labelled by what is in it. Raise ``ConfigError`` if two are the same.
    """
    given, plain = [], []
    for value in values:
        label = value.get("label") if isinstance(value, Mapping) else None
        if label is not None and not (isinstance(label, str) and label):
            raise ConfigError(f"[sweep] {written}.label needs to be a string, found {label!r}")
        given.append(label)
        plain.append(
            {key: entry for key, entry in value.items() if key != "label"}
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
    """Return a value of ``attack`` (a name, a table or a list of them) as a list of faults.

    ``"none"`` gives an empty list. An attack that names no clients gets ``"$f"`` of them if
    ``counted``, and is a ``ConfigError`` otherwise.
    """
    if value == NO_ATTACK:
        return []
    faults = []
    for attack in value if isinstance(value, list) else [value]:
        fault = {"name": attack} if isinstance(attack, str) else attack
        if isinstance(fault, Mapping) and not set(CLIENT_KEYS) & set(fault):
            if not counted:
                raise ConfigError(
                    f"[sweep] attack {fault.get('name')!r} needs {', '.join(CLIENT_KEYS)}, "
                    "or a list f of counts beside it"
                )
            fault = {**fault, "count": DEFAULT_COUNT}
        faults.append(fault)
    return faults


def _references(value: Any) -> Iterator[str]:
    """Yield NAME for every ``"$NAME"`` in a value, a table or a list, at any depth, and in sums."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _references(entry)
    elif isinstance(value, str):
        terms = match.group(1, 3) if (match := _SUM.fullmatch(value)) else (value,)
        yield from (term[1:] for term in terms if term.startswith("$"))


def _without_references(value: Any) -> Any:
    """Return a copy of a value without entries of tables that refer to variables, for its label."""
    if isinstance(value, Mapping):
        return {
            key: _without_references(entry)
            for key, entry in value.items()
            if not (isinstance(entry, str) and any(_references(entry)))
        }
    return [_without_references(entry) for entry in value] if isinstance(value, list) else value


def _substituted(value: Any, variables: Mapping[str, Any]) -> Any:
    """Return a copy of a value with values of variables in place of ``"$NAME"``, and with sums.

    Raise ``UnknownNameError`` for a name that is not in ``variables``, and ``ConfigError`` for a
    sum of anything but integers.
    """
    if isinstance(value, Mapping):
        return {key: _substituted(entry, variables) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_substituted(entry, variables) for entry in value]
    if not isinstance(value, str):
        return value
    if (match := _SUM.fullmatch(value)) and "$" in value:
        left, right = (_term(term, variables) for term in match.group(1, 3))
        if type(left) is not int or type(right) is not int:
            raise ConfigError(f"{value!r} needs integers, found {left!r} and {right!r}")
        return left + right if match[2] == "+" else left - right
    return _term(value, variables) if value.startswith("$") else value


def _term(text: str, variables: Mapping[str, Any]) -> Any:
    """Return the value of ``"$NAME"``, or the integer that another text is."""
    if not text.startswith("$"):
        return int(text)
    if text[1:] not in variables:
        raise UnknownNameError("variable of the sweep", text[1:], variables)
    return variables[text[1:]]
