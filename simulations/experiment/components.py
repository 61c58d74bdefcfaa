"""Tables that describe a part, such as ``rule = { name = "trimmed-mean", f = 2 }``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.registry import Registry

T = TypeVar("T")

UNSUPPORTED_VALUE = "unsupported_value"
"""Type of the validation error about a value that JSON cannot express."""

NO_COMPONENT = "no_component"
"""Type of the validation error about a value that is neither a name nor a table."""

NONE = "none"
"""The value of an optional table that stands for an empty one."""


def as_table(value: Any) -> Any:
    """Return ``{"name": value}`` for a string, and any other value unchanged."""
    return {"name": value} if isinstance(value, str) else value


def _named_table(value: Any) -> Any:
    """Return the table of a name or a table; raise a validation error for any other value."""
    table = as_table(value)
    if not isinstance(table, Mapping):
        raise PydanticCustomError(NO_COMPONENT, "neither a name nor a table")
    return table


def _empty_if_none(value: Any) -> Any:
    """Return an empty table for ``"none"``, and any other value unchanged."""
    return {} if value == NONE else value


def _identity_if_none(value: Any) -> Any:
    """Return ``"identity"`` for ``"none"``, and any other value unchanged."""
    return "identity" if value == NONE else value


def _require_json_values(value: Any) -> Any:
    """Return a value unchanged, or raise a validation error if JSON cannot express a part of it.

    JSON has no dates, times, infinities and nan.
    """
    for key, unsupported in _unsupported_values(value, ""):
        context = {"key": key, "found": unsupported}
        raise PydanticCustomError(UNSUPPORTED_VALUE, "unsupported value", context)
    return value


def _unsupported_values(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _unsupported_values(entry, f"{key}.{name}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _unsupported_values(entry, f"{key}.{index}")
    elif isinstance(value, float) and math.isfinite(value):
        return
    elif not isinstance(value, bool | int | str):
        yield key, value


Table = Annotated[dict[str, Any], AfterValidator(_require_json_values)]
"""A table of the values that JSON knows."""

Component = Annotated[Table, BeforeValidator(_named_table)]
"""A table whose ``name`` says what the other keys configure, or just that name."""

# the validator that is written last runs first
OptionalTable = Annotated[Table, BeforeValidator(_empty_if_none)]
"""A table that may be empty, or ``"none"``."""

OptionalComponent = Annotated[Component, BeforeValidator(_empty_if_none)]
"""A component that may be empty, or ``"none"``."""

CodecComponent = Annotated[Component, BeforeValidator(_identity_if_none)]
"""A codec; ``"none"`` is ``"identity"``."""


@contextmanager
def errors_named(key: str) -> Iterator[None]:
    """Put a key before the message of a ``ConfigError`` of the block that does not name it."""
    try:
        yield
    except ConfigError as error:
        if key not in str(error):
            error.args = (f"{key}: {error}",)
        raise


def build_component(
    registry: Registry[T], table: Mapping[str, Any], key: str, known: Iterable[str] = ()
) -> T:
    """Build the part that a table describes.

    Parameters
    ----------
    registry : Registry
        Entries among which the table's ``name`` is looked up.
    table : Mapping[str, Any]
        The name and its parameters.
    key : str
        Dotted key of the table in the file, for the error messages.
    known : Iterable[str]
        Other keys that the table may have in the file, for suggestions.

    Raises
    ------
    ConfigError
        If the name, a parameter or a value is not right.
    """
    if "name" not in table:
        if near := difflib.get_close_matches("name", table, n=1):
            raise UnknownNameError(f"[{key}] key", near[0], ["name"])
        raise ConfigError(f"{key} needs a name, one of: {', '.join(registry)}")
    name = table["name"]
    if not isinstance(name, str):
        raise ConfigError(f"{key}.name needs to be a string, found {name!r}")
    parameters = [*registry.parameters(name)]
    for parameter in table:
        if parameter not in ("name", *parameters):
            suggestions = [*parameters, *known]
            hint = str(UnknownNameError("", parameter, suggestions)).partition(": ")[2]
            raise ConfigError(
                f"parameter {parameter!r} does not belong to {registry.kind} {name!r}: "
                + (hint if suggestions else f"{name} takes none")
            )
    return registry.build(table)
