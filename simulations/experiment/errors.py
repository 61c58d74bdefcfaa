"""What pydantic found wrong, as one line in the words of the file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.experiment.overrides import NOT_PLAIN

_KINDS = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "a table",
    "string_type": "a string",
    "tuple_type": "a list of tables",
}
_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


def complaint(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """The error to raise instead: about the first problem, a key nobody knows before all others."""
    problems = error.errors()
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            return unknown_key([str(part) for part in problem["loc"]], model)
    problem = problems[0]
    context: Mapping[str, Any] = problem.get("ctx", {})
    key = ".".join(str(part) for part in problem["loc"])
    if isinstance(cause := context.get("error"), ConfigError):
        return cause
    if problem["type"] == NOT_PLAIN:
        what = "a finite number, string, boolean, list or table"
        return ConfigError(f"{key}{context['key']} needs to be {what}, found {context['found']}")
    if problem["type"] in _BOUNDS:
        name, sign = _BOUNDS[problem["type"]]
        what = f"{sign} {context[name]:g}"
    elif problem["type"] == "string_pattern_mismatch":
        what = "letters, digits, '.', '_' and '-'"
    else:
        what = _KINDS.get(problem["type"], problem["msg"])
    return ConfigError(f"{key} needs to be {what}, found {problem['input']!r}")


def unknown_key(path: list[str], model: type[BaseModel]) -> ConfigError:
    """About a key that its table does not have: the nearest one there, or else anywhere."""
    *tables, found = path
    prefix = ".".join(tables)
    every = known_keys(model)
    here = [key for key in every if key.rpartition(".")[0] == prefix]
    if not difflib.get_close_matches(found, [key.rpartition(".")[2] for key in here]):
        leaves: dict[str, str] = {}
        for key in every:
            leaves.setdefault(key.rpartition(".")[2], key)
        if near := difflib.get_close_matches(found, leaves, n=1, cutoff=0.75):
            key = ".".join(path)
            return ConfigError(f"unknown key {key!r}: did you mean {leaves[near[0]]!r}?")
    names = [key.rpartition(".")[2] for key in here]
    return UnknownNameError(f"[{prefix}] key" if prefix else "key", found, names)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a model and the models within it."""
    keys = []
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        keys.append(key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{key}.")
    return keys
