"""Find the part of a value that cannot be pickled."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

MAX_DEPTH = 16
"""Levels of attributes and items below a value that are looked at, at most."""
MAX_ITEMS = 1000
"""Items of a list or dict that are looked at, at most."""


def unpicklable_part(value: Any) -> tuple[str, Any] | None:
    """Return the path and value of the innermost part that cannot be pickled.

    The path, such as ``source.files[2]``, is empty if it is the value itself. None if the whole
    value can be pickled.
    """
    if can_pickle(value):
        return None
    path, seen = "", {id(value)}
    for _ in range(MAX_DEPTH):
        for step, part in _parts(value):
            if id(part) not in seen and not can_pickle(part):
                path, value = path + step, part
                seen.add(id(part))
                break
        else:
            break
    return path.removeprefix("."), value


def can_pickle(value: Any) -> bool:
    """Return whether a value can be sent to another process of Ray's."""
    from ray import cloudpickle

    file = _Nowhere()
    with suppress(Exception):  # of the value's own code, too
        pickler = cloudpickle.CloudPickler(  # type: ignore[no-untyped-call]
            file, protocol=5, buffer_callback=_ignore
        )
        pickler.dump(value)  # type: ignore[no-untyped-call]
        return True
    return False


class _Nowhere(io.RawIOBase):
    """A file that forgets what is written to it."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _ignore(buffer: Any) -> None: ...


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes and items of a value, each with its step in a path.

    Those of a function are also the variables of the functions around it that it uses.
    """
    if isinstance(value, functools.partial):
        yield from ((f".{name}", getattr(value, name)) for name in ("func", "args", "keywords"))
    elif isinstance(value, Mapping):
        pairs = itertools.islice(value.items(), MAX_ITEMS)
        yield from ((f"[{str(key)[:40]!r}]", part) for key, part in pairs)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (
            (f"[{index}]", part) for index, part in enumerate(itertools.islice(value, MAX_ITEMS))
        )
    if hasattr(value, "__dict__") and not isinstance(value, type):
        yield from ((f".{name}", part) for name, part in vars(value).items())
    if (bound := getattr(value, "__self__", None)) is not None:
        yield ".__self__", bound
    for name, cell in zip(
        _free_variables(value), getattr(value, "__closure__", None) or (), strict=True
    ):
        with suppress(ValueError):  # it has no value yet
            yield f".{name}", cell.cell_contents


def _free_variables(value: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(getattr(value, "__code__", None), "co_freevars", ())
    return names
