"""Registries of parts: the names in a TOML file, and the frozen dataclasses they stand for.

A registry is an explicit dict: no module registers itself by being imported. ``build`` turns
``{"name": "trimmed-mean", "f": 3}`` into ``TrimmedMean(f=3)``; an unknown name, an unknown
parameter or a value of the wrong type is a ``ConfigError`` that names the right ones.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from hqde_fl.errors import ConfigError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A closed set of named, configurable parts of one kind.

    Parameters
    ----------
    kind : str
        The kind of the entries ("rule", "fault"), for error messages.
    base : type[T]
        The base class of the entries. A parameter of this type (or a tuple of it) is a nested
        table.
    entries : Mapping[str, type[T]]
        Kebab-case name -> frozen dataclass. The first line of its docstring is its summary.
    """

    def __init__(self, kind: str, base: type[T], entries: Mapping[str, type[T]]) -> None:
        self.kind, self.base = kind, base
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return self._entries[name]

    def name_of(self, part: T) -> str:
        """Return the registered name of a part's class; ``ConfigError`` if it has none."""
        for name, cls in self._entries.items():
            if type(part) is cls:
                return name
        raise ConfigError(f"{type(part).__name__} is not in the registry of {self.kind}s")

    def summary(self, name: str) -> str:
        """Return the first line of the docstring of the class registered under a name."""
        return (self[name].__doc__ or "").strip().splitlines()[0]

    def parameters(self, name: str) -> dict[str, Any]:
        """Return an entry's parameters (kebab-case) and their defaults (``...`` if required)."""
        parameters: dict[str, Any] = {}
        for field in dataclasses.fields(self[name]):  # type: ignore[arg-type]
            default: Any = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            key = field.name.replace("_", "-")
            parameters[key] = ... if default is dataclasses.MISSING else default
        return parameters

    def build(self, table: Mapping[str, Any] | str) -> T:
        """Return the part that a table describes.

        Parameters
        ----------
        table : Mapping[str, Any] or str
            ``name`` and the entry's parameters in kebab-case, or just the name.

        Raises
        ------
        ConfigError
            For a missing or unknown name, an unknown parameter or an impossible value.
        """
        table = {"name": table} if isinstance(table, str) else dict(table)
        name = table.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{self.kind} needs a name, found {name!r}")
        cls = self[name]
        known = self.parameters(name)
        arguments = {}
        for key, value in table.items():
            if key not in known:
                raise UnknownNameError(f"parameter of {self.kind} {name!r}", key, known)
            arguments[key.replace("-", "_")] = value
        for key, default in known.items():
            if default is ... and key.replace("-", "_") not in arguments:
                raise ConfigError(f"{self.kind} {name!r} needs {key}")
        hints = get_type_hints(cls)
        for key, value in arguments.items():
            arguments[key] = self._coerce(f"{name}.{key}", hints[key], value)
        return cls(**arguments)

    def _coerce(self, where: str, hint: Any, value: Any) -> Any:
        """Return a TOML value as the type that a parameter is annotated with; build nested parts.

        Raises ``ConfigError``, naming the parameter by ``where``, if the value is not of that type.
        """
        kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
        if any(issubclass(kind, self.base) for kind in kinds):  # a rule of rules
            return tuple(map(self.build, value)) if isinstance(value, list) else self.build(value)
        try:
            # as JSON, a whole number may stand for a float, but "3" and true for no number
            return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"{self.kind} {where}: {problem}, found {value!r}") from None
