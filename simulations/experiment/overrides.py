"""Read an experiment's TOML file and apply ``key=value`` overrides to what it says."""

from __future__ import annotations

import copy
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.components import as_table


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises
    ------
    ConfigError
        One line, if the file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def name_of(path: str | Path) -> str:
    """Return the name of an experiment without a name of its own, from that of its file.

    Accents are dropped, and other characters that a name cannot have become ``-``.
    """
    plain = unicodedata.normalize("NFKD", Path(path).stem).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    return re.sub(r"^[^A-Za-z0-9]+|-+$", "", name) or "experiment"


def with_overrides(
    document: Mapping[str, Any], overrides: Sequence[str], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a copy of a document with ``"dotted.key=value"`` overrides applied in order.

    Parameters
    ----------
    document : Mapping[str, Any]
        The content of a file; it is not changed.
    overrides : Sequence[str]
        The overrides; a value that is not TOML is a string.
    defaults : Mapping[str, Any]
        A complete document, from which a missing table is taken.

    Raises
    ------
    ConfigError
        If an override is not ``key=value``, or its key cannot be set.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"an override reads key=value, found {override!r}")
        document = with_value(document, key.strip(), parse_value(text.strip()), defaults)
    return dict(document)


def with_value(
    document: Mapping[str, Any], key: str, value: Any, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a copy of a document with one dotted key set.

    Parameters
    ----------
    document : Mapping[str, Any]
        The content of a file; it is not changed.
    key : str
        Table keys, and indices into lists, separated by dots.
    value : Any
        The new value; it replaces a whole table, too.
    defaults : Mapping[str, Any]
        A complete document, from which a missing table is taken.

    Raises
    ------
    ConfigError
        If the key leads into a value that is no table, or beyond the end of a list.
    """
    changed = copy.deepcopy(dict(document))
    *parents, last = key.split(".")
    table: Any = changed
    default: Any = defaults
    for depth, part in enumerate(parents):
        default = default.get(part, {}) if isinstance(default, Mapping) else {}
        prefix = ".".join(parents[: depth + 1])
        place = _key_or_index(table, part, key)
        if isinstance(table, dict) and place not in table:
            table[place] = copy.deepcopy(default)
        table[place] = as_table(table[place])
        table = table[place]
        if not isinstance(table, dict | list):
            raise ConfigError(f"cannot set {key}: {prefix} is {table!r}, not a table")
    table[_key_or_index(table, last, key)] = copy.deepcopy(value)
    return changed


def _key_or_index(table: dict[str, Any] | list[Any], part: str, key: str) -> Any:
    """Return ``part`` of a dotted key as it is for a table, and as an index for a list.

    Raise ``ConfigError``, which names the whole ``key``, if the list has no such place.
    """
    if isinstance(table, dict):
        return part
    if not part.isdecimal() or int(part) >= len(table):
        count = f"{len(table)} entries" if table else "no entries"
        raise ConfigError(f"cannot set {key}: {part!r} is no place in a list of {count}")
    return int(part)


def parse_value(text: str) -> Any:
    """Return the value of a TOML expression, or the text itself if it is none."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if list(parsed) == ["value"] else text
