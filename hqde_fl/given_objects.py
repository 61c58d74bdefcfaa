"""Objects that a program gives to an experiment in place of the names that a file would have.

Most objects of Python can be named as ``module:attribute``. One that cannot, such as a ``Task``
made in a notebook, gets a name of the form ``python:NAME`` in the experiment's tables, and the
experiment keeps the object. While tables are read, ``given_objects`` says what a name stands for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from hqde_fl.errors import ConfigError

PREFIX = "python:"
"""The beginning of the names of given objects."""

_current: ContextVar[Mapping[str, Any]] = ContextVar("given_objects")


@contextmanager
def given_objects(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let names stand for these objects in the block, besides those of blocks around it."""
    token = _current.set({**current_objects(), **objects})
    try:
        yield
    finally:
        _current.reset(token)


def current_objects() -> Mapping[str, Any]:
    """Return name -> object for all ``given_objects`` blocks around the call."""
    return _current.get({})


def is_given(name: object) -> bool:
    """Return True if a name is that of an object that a program has given."""
    return isinstance(name, str) and name.startswith(PREFIX)


def given_object(kind: str, name: str) -> Any:
    """Return the object that a name stands for.

    Parameters
    ----------
    kind : str
        Kind of the object ("task"), for the error message.
    name : str
        Its name.

    Raises
    ------
    ConfigError
        If this process was not given the object.
    """
    if name not in current_objects():
        raise ConfigError(
            f"{kind} {name!r} was an object of the program that made the experiment, which this "
            "process does not have: use hqde_fl.run or hqde_fl.sweep with the same objects, or "
            "put it into a module and name it 'module:attribute'"
        )
    return current_objects()[name]


def name_object(value: Any, objects: MutableMapping[str, Any]) -> str:
    """Return ``module:attribute`` of an object that can be imported, else a name for it.

    Parameters
    ----------
    value : Any
        A class, a function, or any other object.
    objects : MutableMapping[str, Any]
        Name -> object of the objects named before; this one is added if it cannot be imported.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if name is None:
        name = type(value).__name__
    elif module not in (None, "__main__") and vars(sys.modules[module]).get(name) is value:
        return f"{module}:{name}"
    name = name.rpartition(".")[2].strip("<>")
    same = [known for known, other in objects.items() if other is value]
    if same:
        return same[0]
    known, number = f"{PREFIX}{name}", 2
    while known in objects:
        known, number = f"{PREFIX}{name}-{number}", number + 1
    objects[known] = value
    return known
