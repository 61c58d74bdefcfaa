"""Label parts of an experiment briefly, for tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hqde_fl.own_modules import display_name

PARTS = (
    "rule",
    "codec",
    "downlink",
    "task",
    "partition",
    "server-optimizer",
    "selector",
    "vote",
    "speed",
    "bandwidth",
)
"""Keys of components, whose name needs no key in a label."""

CLIENT_KEYS = ("clients", "count", "fraction")
"""Keys of a fault, of which one tells the clients that have it."""

NO_FAULTS = "no faults"
"""The label of an empty list of faults."""


def value_label(key: str, value: Any, *, brief: bool = False) -> str:
    """Label the value of a key: ``trimmed-mean (f=3)``, ``3 sign-flip``, ``alpha=0.5``.

    Parameters
    ----------
    key : str
        The dotted key.
    value : Any
        A component, a list of faults, or a plain value.
    brief : bool
        Leave the parameters of faults out.
    """
    leaf = key.rpartition(".")[2]
    if key == "attack" and _are_faults(value, str):
        return attack_label(value, brief=brief)
    if leaf == "faults" and isinstance(value, list | tuple) and _are_faults(value):
        return faults_label(value, brief=brief)
    if isinstance(value, Mapping) and "name" in value:
        return component_label(value)
    if isinstance(value, str):
        return display_name(value) if leaf in (*PARTS, "name") else f"{leaf}={value}"
    return f"{leaf}={_value_text(value)}"


def component_label(table: Mapping[str, Any], drop: Sequence[str] = ()) -> str:
    """Label a component, without the parameters in ``drop``: ``name (parameter=value, flag)``."""
    parameters = [
        key if value is True else f"{key}={_value_text(value)}"
        for key, value in table.items()
        if key != "name" and key not in drop
    ]
    name = display_name(str(table["name"]))
    return f"{name} ({', '.join(parameters)})" if parameters else name


def faults_label(faults: Sequence[Mapping[str, Any]], *, brief: bool = False) -> str:
    """Label a list of faults: ``3 sign-flip (scale=4) + 1 crash``, or ``no faults``.

    A fault of no clients is left out, and with ``brief`` the parameters of all faults.
    """
    labels = []
    for fault in faults:
        if number := _count_or_fraction(fault):
            name = component_label(fault, drop=["count", "fraction"])
            who = f"{number:.0%}" if "fraction" in fault else f"{number}"
            labels.append(f"{who} {display_name(str(fault['name'])) if brief else name}")
    return " + ".join(labels) or NO_FAULTS


def _count_or_fraction(fault: Mapping[str, Any]) -> Any:
    """Return the number of clients that a fault lists, else its count, its fraction, or None."""
    if isinstance(clients := fault.get("clients"), list | tuple):
        return len(clients)
    return fault.get("count", fault.get("fraction"))


def attack_label(value: Any, *, brief: bool = False) -> str:
    """Label an attack, given as a name, a table or a list of them: ``sign-flip (scale=4)``.

    An empty list is ``no faults``; with ``brief`` the parameters are left out.
    """
    labels = []
    for attack in value if isinstance(value, list | tuple) else [value]:
        table = {"name": attack} if isinstance(attack, str) else attack
        brief_name = display_name(str(table["name"]))
        labels.append(brief_name if brief else component_label(table))
    return " + ".join(labels) or NO_FAULTS


def axis_labels(key: str, values: Sequence[Any]) -> list[str]:
    """Return a different label for each value of a key.

    The labels are brief if these differ, else they have all parameters; labels that are still equal
    get ``#1``, ``#2``, ...
    """
    labels = [value_label(key, value, brief=True) for value in values]
    if len(set(labels)) < len(labels):
        labels = [value_label(key, value) for value in values]
    return [
        label if labels.count(label) == 1 else f"{label} #{labels[: place + 1].count(label)}"
        for place, label in enumerate(labels)
    ]


def _are_faults(value: Any, *also: type) -> bool:
    """Return True if a value, or each entry of a list, is a table with a ``name``.

    A value of one of the types in ``also`` counts as such a table.
    """
    return all(
        isinstance(fault, also) or (isinstance(fault, Mapping) and "name" in fault)
        for fault in (value if isinstance(value, list | tuple) else [value])
    )


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        if "name" in value:
            return component_label(value)
        return "{" + ", ".join(f"{key}={_value_text(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value_text, value)) + "]"
    if isinstance(value, str) and value.rpartition(":")[2][:1].isupper():
        return display_name(value)  # a class of the user's own
    return str(value)
