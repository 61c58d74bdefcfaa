"""Errors about an experiment's file: one line each, in the words of the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.experiment.components import NO_COMPONENT, UNSUPPORTED_VALUE

_TYPES = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    NO_COMPONENT: "a name or a table",
    "string_type": "a string",
    "tuple_type": "a list of tables",
}
SHOWN_KEYS = 3
"""Keys of a table that an error names where the table was expected."""

_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


def to_config_error(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """Return a one-line ``ConfigError`` about the first problem of a pydantic error.

    Unknown keys come before all other problems. A ``ConfigError`` that a validator raised is
    returned as it is.
    """
    problems = error.errors()
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            return unknown_key([str(part) for part in problem["loc"]], model)
    problem = problems[0]
    context: Mapping[str, Any] = problem.get("ctx", {})
    key = ".".join(str(part) for part in problem["loc"])
    if isinstance(cause := context.get("error"), ConfigError):
        return cause
    if problem["type"] == UNSUPPORTED_VALUE:
        values = "a finite number, string, boolean, list or table"
        return ConfigError(f"{key}{context['key']} needs to be {values}, found {context['found']}")
    if problem["type"] in _BOUNDS:
        name, sign = _BOUNDS[problem["type"]]
        bound = f"{sign} {context[name]:g}"
    elif problem["type"] == "literal_error":
        bound = str(context["expected"])
    elif problem["type"] == "string_pattern_mismatch":
        bound = "letters, digits, '.', '_' and '-'"
    elif problem["type"] == "model_type":
        bound = _table_of(key, model)
    else:
        bound = _TYPES.get(problem["type"], problem["msg"])
    return ConfigError(f"{key} needs to be {bound}, found {problem['input']!r}")


def _table_of(section: str, model: type[BaseModel]) -> str:
    """Return "a table", and the first keys that the section of this dotted key has."""
    keys = [key for key in known_keys(model) if key.startswith(f"{section}.")]
    some = ", ".join(key.removeprefix(f"{section}.") for key in keys[:SHOWN_KEYS])
    return f"a table with keys such as {some}"


@contextmanager
def parameters_of(table: str, /, **keys: str) -> Iterator[None]:
    """Replace a parameter's name by its key in the file in a ``ConfigError`` of the block.

    ``Training.batch_size must be >= 1, found 0`` becomes
    ``clients.batch-size needs to be >= 1, found 0``. An error of another form passes unchanged.

    Parameters
    ----------
    table : str
        The table that has the parameters.
    keys : str
        Parameter -> its key there, if it is another word.
    """
    try:
        yield
    except ConfigError as error:
        owned = re.fullmatch(r"[A-Z]\w*\.(\w+) must be (.*)", str(error), re.DOTALL)
        if owned is None:
            raise
        key = keys.get(owned[1], owned[1]).replace("_", "-")
        raise ConfigError(f"{table}.{key} needs to be {owned[2]}") from None


def unknown_key(path: list[str], model: type[BaseModel]) -> ConfigError:
    """Return the error for a key that its table does not have; it suggests a similar key, if any.

    Parameters
    ----------
    path : list[str]
        The key, and the tables around it.
    model : type[BaseModel]
        The model of the whole file. Keys of the same table are preferred to others.
    """
    *tables, unknown = path
    prefix = ".".join(tables)
    keys = known_keys(model)
    siblings = [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == prefix]
    if not difflib.get_close_matches(unknown, siblings):
        leaves: dict[str, str] = {}
        for key in keys:
            leaves.setdefault(key.rpartition(".")[2], key)
        if near := difflib.get_close_matches(unknown, leaves, n=1, cutoff=0.75):
            key = ".".join(path)
            return ConfigError(f"unknown key {key!r}: did you mean {leaves[near[0]]!r}?")
    return UnknownNameError(f"[{prefix}] key" if prefix else "key", unknown, siblings)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return ``prefix`` + each dotted key of a model, those of the models within it included."""
    keys = []
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        keys.append(key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{key}.")
    return keys
