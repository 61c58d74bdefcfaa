"""Settings of an experiment that are written in Python: keywords, nested dicts and objects.

They become the tables that a file would have, so that an experiment from Python and one from a file
are the same thing: ``rule=Krum(f=2)`` is ``strategy.rule = { name = "krum", f = 2 }``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import PurePath
from typing import Any

from hqde_fl.catalogue import EXECUTORS, SCHEDULES
from hqde_fl.clients.faults import FAULTS
from hqde_fl.clients.task import Task
from hqde_fl.codec import CODECS
from hqde_fl.errors import ConfigError
from hqde_fl.given_objects import is_given, name_object
from hqde_fl.prediction import VOTES
from hqde_fl.registry import Registry
from hqde_fl.rules import RULES
from hqde_fl.selection import SELECTORS
from hqde_fl.simulations.attacks import ATTACKS
from hqde_fl.simulations.catalogue import BANDWIDTHS, DROP_OUTS, SPEEDS
from hqde_fl.simulations.experiment.overrides import with_value
from hqde_fl.simulations.tasks import PARTITIONERS, TASKS
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.catalogue import CALLBACKS
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS
from hqde_fl.strategies.sinks.sink import Sink

SHORT_KEYS = {
    "codec": "strategy.codec",
    "partition": "clients.partition",
    "rule": "strategy.rule",
}
"""Short names of keys, as a ``[sweep]`` table has them."""

VERBATIM = ("engine.runtime-env",)
"""Tables whose keys are not ours: a ``_`` in them stays."""

_REGISTRIES: tuple[Registry[Any], ...] = (
    RULES,
    CODECS,
    FAULTS,
    ATTACKS,
    TASKS,
    PARTITIONERS,
    SELECTORS,
    EXECUTORS,
    SERVER_OPTIMIZERS,
    VOTES,
    CALLBACKS,
    SPEEDS,
    BANDWIDTHS,
    DROP_OUTS,
    SCHEDULES,
)


def with_settings(
    document: Mapping[str, Any],
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
    objects: MutableMapping[str, Any],
) -> dict[str, Any]:
    """Return a copy of a document with settings applied in order.

    Parameters
    ----------
    document : Mapping[str, Any]
        The content of a file; it is not changed.
    settings : Mapping[str, Any]
        Key, dotted key or short name -> value, with ``_`` or ``-``. A dict changes the keys that it
        has; one with a ``name`` replaces the whole table.
    defaults : Mapping[str, Any]
        A complete document, from which a missing table is taken.
    objects : MutableMapping[str, Any]
        Gets those objects in the settings that have no name, by the names that stand for them.

    Raises
    ------
    ConfigError
        If a key cannot be set; the message names it.
    """
    changed = dict(document)
    for key, value in settings.items():
        dotted = SHORT_KEYS.get(key, key.replace("_", "-"))
        changed = _with(changed, dotted, value, defaults, objects)
    return changed


def _with(
    document: dict[str, Any],
    key: str,
    value: Any,
    defaults: Mapping[str, Any],
    objects: MutableMapping[str, Any],
) -> dict[str, Any]:
    if key == "engine" and isinstance(value, str):
        key = "engine.name"
    if isinstance(value, Mapping) and "name" not in value and key not in VERBATIM:
        for name, entry in value.items():
            leaf = str(name).replace("_", "-")
            document = _with(document, f"{key}.{leaf}", entry, defaults, objects)
        return document
    return with_value(document, key, to_toml(value, objects, key), defaults)


def to_toml(value: Any, objects: MutableMapping[str, Any], key: str = "") -> Any:
    """Return a value as a file would have it: parts as tables, other objects as their names.

    Parameters
    ----------
    value : Any
        The value.
    objects : MutableMapping[str, Any]
        Gets the objects in it that have no name, by the names that stand for them.
    key : str
        Its dotted key, for tables whose keys are not ours and for error messages.

    Raises
    ------
    ConfigError
        If no file could have this value.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        verbatim = key in VERBATIM
        table = {
            str(name) if verbatim else str(name).replace("_", "-"): to_toml(
                entry, objects, key if verbatim else f"{key}.{name}"
            )
            for name, entry in value.items()
        }
        if isinstance(part := table.get("name"), Mapping):  # {"name": SignFlip(), "count": 2}
            table = {**part, **{name: entry for name, entry in table.items() if name != "name"}}
        return table
    if isinstance(value, list | tuple | range | set | frozenset):
        return [to_toml(entry, objects, key) for entry in value]
    if isinstance(value, PurePath):
        return str(value)
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
        return value.item()  # a number of NumPy or torch
    if isinstance(value, Task) or (isinstance(value, Callback) and not isinstance(value, Sink)):
        return {"name": name_object(value, objects)}
    for registry in _REGISTRIES:
        if isinstance(value, registry.base):
            return _part_table(registry, value, objects, key)
    if callable(getattr(value, "sample", None)):  # a sampler of dimod, for a selector
        return name_object(value, objects)
    if callable(value):  # a class or a function that makes the part
        return _class_name(value, objects)
    raise ConfigError(f"{key} needs to be a value that a file can have or a part, found {value!r}")


def _class_name(value: Any, objects: MutableMapping[str, Any]) -> str:
    for registry in _REGISTRIES:
        if isinstance(value, type) and issubclass(value, registry.base):
            return _registered(registry, value) or name_object(value, objects)
    return name_object(value, objects)


def _registered(registry: Registry[Any], cls: type) -> str | None:
    return next((name for name in registry if registry[name] is cls), None)


def _part_table(
    registry: Registry[Any], part: Any, objects: MutableMapping[str, Any], key: str
) -> dict[str, Any]:
    """Return the table of a part: its name, and the parameters that differ from their defaults."""
    if not dataclasses.is_dataclass(part):
        raise ConfigError(
            f"{key} needs to be a {registry.kind} that is a dataclass, found {part!r}"
        )
    name = _registered(registry, type(part)) or name_object(type(part), objects)
    table: dict[str, Any] = {"name": name}
    for field in dataclasses.fields(part):
        if not field.init:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        value = getattr(part, field.name)
        if default is dataclasses.MISSING or type(value) is not type(default) or value != default:
            leaf = field.name.replace("_", "-")
            table[leaf] = to_toml(value, objects, f"{key}.{leaf}")
    return table


def names_in(value: Any) -> set[str]:
    """Return the names of given objects that occur in a value, a table or a list, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return set().union(*map(names_in, value))
    return {value} if is_given(value) else set()
