"""TOML tables before they mean anything: reading, overriding, checking against a registry."""

from __future__ import annotations

import copy
import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.registry import Registry

NOT_PLAIN = "not_plain"
"""Type of the validation error about a value that a table cannot hold."""


def _named(value: Any) -> Any:
    """``rule = "median"`` is short for ``rule = { name = "median" }``."""
    return {"name": value} if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Refuse what JSON cannot say: dates, times, infinities and nan."""
    for key, odd in _oddities(value, ""):
        raise PydanticCustomError(NOT_PLAIN, "not plain", {"key": key, "found": odd})
    return value


def _oddities(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _oddities(each, f"{key}.{name}")
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _oddities(each, f"{key}.{place}")
    elif isinstance(value, float) and math.isfinite(value):
        return
    elif not isinstance(value, bool | int | str):
        yield key, value


Table = Annotated[dict[str, Any], AfterValidator(_plain)]
"""A plain table."""

Component = Annotated[Table, BeforeValidator(_named)]
"""A table whose ``name`` says what the other keys configure; just the name is enough."""


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file; ``ConfigError`` in one line if there is none."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def with_overrides(
    document: Mapping[str, Any], overrides: Sequence[str], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of a document with ``"dotted.key=value"`` overrides applied in order."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"an override reads key=value, found {override!r}")
        document = with_value(document, key.strip(), parse_value(text.strip()), defaults)
    return dict(document)


def with_value(
    document: Mapping[str, Any], key: str, value: Any, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of a document with one dotted key set.

    Parameters
    ----------
    document : Mapping[str, Any]
        Left as it is.
    key : str
        Table keys, and places in lists, separated by dots.
    value : Any
        Replaces whatever was there, a whole table too.
    defaults : Mapping[str, Any]
        The complete document that a missing table is taken from.
    """
    changed = copy.deepcopy(dict(document))
    *parents, last = key.split(".")
    table: Any = changed
    usual: Any = defaults
    for depth, part in enumerate(parents):
        usual = usual.get(part, {}) if isinstance(usual, Mapping) else {}
        where = ".".join(parents[: depth + 1])
        place = _place(table, part, key)
        if isinstance(table, dict):
            table.setdefault(place, copy.deepcopy(usual))
        table[place] = _named(table[place])
        table = table[place]
        if not isinstance(table, dict | list):
            raise ConfigError(f"cannot set {key}: {where} is {table!r}, not a table")
    table[_place(table, last, key)] = copy.deepcopy(value)
    return changed


def _place(table: dict[str, Any] | list[Any], part: str, key: str) -> Any:
    if isinstance(table, dict):
        return part
    if not part.isdecimal() or int(part) >= len(table):
        count = f"{len(table)} entries" if table else "no entries"
        raise ConfigError(f"cannot set {key}: {part!r} is no place in a list of {count}")
    return int(part)


def parse_value(text: str) -> Any:
    """A value as TOML writes it; what is no TOML is a string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def check_component(
    registry: Registry[Any], table: Mapping[str, Any], key: str, known: Iterable[str] = ()
) -> None:
    """Raise ``ConfigError`` unless the registry can build what the table describes.

    Parameters
    ----------
    registry : Registry
        Where the table's ``name`` is looked up.
    table : Mapping[str, Any]
        The name and its parameters.
    key : str
        Where the table stands in the file.
    known : Iterable[str]
        Other keys that the table may have there, for suggestions.
    """
    if "name" not in table:
        if near := difflib.get_close_matches("name", table, n=1):
            raise UnknownNameError(f"[{key}] key", near[0], ["name"])
        raise ConfigError(f"{key} needs a name, one of: {', '.join(registry)}")
    name = table["name"]
    if not isinstance(name, str):
        raise ConfigError(f"{key}.name needs to be a string, found {name!r}")
    parameters = registry.parameters(name)
    for found in table:
        if found not in ("name", *parameters):
            raise _foreign(registry.kind, name, found, [*parameters, *known])
    registry.build(table)


def _foreign(kind: str, name: str, found: str, known: Sequence[str]) -> ConfigError:
    hint = str(UnknownNameError(kind, found, known)).partition(": ")[2]
    takes = hint if known else f"{name} takes none"
    return ConfigError(f"parameter {found!r} does not belong to {kind} {name!r}: {takes}")
