"""Registries of parts: the names in a TOML file, and the frozen dataclasses they stand for.

A registry is an explicit dict: no module registers itself by being imported. It holds the parts as
``"module:Class"``, so that it can be asked for its names without importing any of them. Besides its
own names it takes those of installed packages (entry points) and of the user's own classes,
``module:Class`` or ``file.py:Class``.

``build`` turns ``{"name": "trimmed-mean", "f": 3}`` into ``TrimmedMean(f=3)``; an unknown name, an
unknown parameter or a value of the wrong type is a ``ConfigError`` that names the right ones.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache, cached_property, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_type_hints
from weakref import WeakKeyDictionary

from hqde_fl.errors import ConfigError, HQDEError, UnknownNameError
from hqde_fl.own_modules import error_in, import_attribute, is_own, own_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pydantic import TypeAdapter

T = TypeVar("T")


class Registry(Generic[T]):
    """The named, configurable parts of one kind.

    Parameters
    ----------
    kind : str
        The kind of the entries ("rule", "fault"), for error messages.
    base : type[T] or str
        The base class of the entries, or ``"module:Class"``. A parameter of this type (or a tuple
        of it) is a nested table.
    entries : Mapping[str, type[T] or str]
        Kebab-case name -> frozen dataclass, or ``"module:Class"``. The first line of its docstring
        is its summary.
    group : str
        The group of entry points by which installed packages add entries; "" for none. Names in
        ``entries`` have precedence.
    frozen : bool
        True if the user's own classes must be frozen dataclasses, too; else classes without
        parameters need not be dataclasses.
    """

    def __init__(
        self,
        kind: str,
        base: type[T] | str,
        entries: Mapping[str, type[T] | str],
        *,
        group: str = "",
        frozen: bool = True,
    ) -> None:
        self.kind, self.group, self.frozen = kind, group, frozen
        self._base, self._entries = base, dict(entries)
        self._own: dict[str, type[T]] = {}

    @cached_property
    def base(self) -> type[T]:
        """The base class of the entries."""
        return _resolved(self._base)

    def __iter__(self) -> Iterator[str]:
        yield from self._entries
        yield from (name for name in self.plugins if name not in self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.plugins

    @property
    def plugins(self) -> Mapping[str, EntryPoint]:
        """The entries that installed packages add, by name."""
        return _plugins().get(self.group, {})

    def reference(self, name: str) -> str:
        """Return ``module:Class`` of an entry, which is not imported."""
        entry = self._entries.get(name)
        if entry is None and name in self.plugins:
            return self.plugins[name].value
        if entry is None:
            raise UnknownNameError(self.kind, name, self)
        return entry if isinstance(entry, str) else own_name(entry)

    def __getitem__(self, name: str) -> type[T]:
        if name in self._entries:
            return _resolved(self._entries[name])
        if is_own(name):
            value = import_attribute(self.kind, name)
        elif name in self.plugins:
            value = self._loaded(name)
        else:
            raise UnknownNameError(self.kind, name, self)
        cls = self._checked(name, value)
        self._own[own_name(cls)] = cls
        return cls

    def name_of(self, part: T) -> str:
        """Return the name of a part's class: the registered one, or ``module:Class``."""
        reference = own_name(type(part))
        for name in self._entries:
            if self.reference(name) == reference or _resolved(self._entries[name]) is type(part):
                return name
        self._own[reference] = type(part)
        return reference

    def summary(self, name: str) -> str:
        """Return the first line of the docstring of the class registered under a name."""
        return (self[name].__doc__ or "").strip().splitlines()[0]

    def parameters(self, name: str) -> dict[str, Any]:
        """Return an entry's parameters (kebab-case) and their defaults (``...`` if required)."""
        return _parameters(self[name])

    def build(self, table: Mapping[str, Any] | str, *, imports: bool = True) -> T:
        """Return the part that a table describes.

        Parameters
        ----------
        table : Mapping[str, Any] or str
            ``name`` and the entry's parameters in kebab-case, or just the name.
        imports : bool
            Import a class of the user's own; if False, only those are known that this process has
            used before, by ``name_of`` or by a table of its own.

        Raises
        ------
        ConfigError
            For a missing or unknown name, an unknown parameter or an impossible value.
        """
        table = {"name": table} if isinstance(table, str) else dict(table)
        name = table.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{self.kind} needs a name, found {name!r}")
        if not imports and name not in self._entries and name not in self._own:
            raise UnknownNameError(self.kind, name, self._entries)
        cls = self[name] if imports or name in self._entries else self._own[name]
        known = _parameters(cls)
        arguments = {}
        for key, value in table.items():
            if key not in known:
                raise UnknownNameError(f"parameter of {self.kind} {name!r}", key, known)
            arguments[key.replace("-", "_")] = value
        for key, default in known.items():
            if default is ... and key.replace("-", "_") not in arguments:
                raise ConfigError(f"{self.kind} {name!r} needs {key}")
        hints = self._hints(name, cls) if arguments else {}
        for key, value in arguments.items():
            arguments[key] = self._coerce(f"{name}.{key}", hints[key], value, imports)
        try:
            return cls(**arguments)
        except HQDEError:
            raise
        except Exception as error:
            if name in self._entries:
                raise
            raise ConfigError(f"{self.kind} {name!r}: {error_in(error)}") from error

    def _coerce(self, where: str, hint: Any, value: Any, imports: bool) -> Any:
        """Return a TOML value as the type that a parameter is annotated with; build nested parts.

        Raises ``ConfigError``, naming the parameter by ``where``, if the value is not of that type.
        """
        from pydantic import PydanticUserError, TypeAdapter, ValidationError

        kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
        if any(issubclass(kind, self.base) for kind in kinds):  # a rule of rules
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, str | Mapping) for part in parts):
                raise ConfigError(f"{self.kind} {where} needs a name or a table, found {value!r}")
            built = tuple(self.build(part, imports=imports) for part in parts)
            return built if isinstance(value, list) else built[0]
        try:
            # as JSON, a whole number may stand for a float, but "3" and true for no number
            adapter = _class_adapter(hint) if isinstance(hint, type) else TypeAdapter(hint)
            return adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"{self.kind} {where}: {problem}, found {value!r}") from None
        except PydanticUserError:
            raise ConfigError(
                f"{self.kind} {where} cannot be set in a file: it is annotated as {hint}"
            ) from None

    def _hints(self, name: str, cls: type[T]) -> dict[str, Any]:
        try:
            if cls not in _HINTS:
                _HINTS[cls] = get_type_hints(cls)
            return _HINTS[cls]
        except Exception as error:  # of an annotation that only type checkers can resolve
            raise ConfigError(
                f"{self.kind} {name!r}: its annotations cannot be resolved: {error_in(error)}"
            ) from error

    def _loaded(self, name: str) -> Any:
        """Return what an installed package's entry point refers to."""
        try:
            return self.plugins[name].load()
        except Exception as error:
            where = _origin(self.plugins[name])
            raise ConfigError(f"{self.kind} {name!r}{where}: {error_in(error)}") from error

    def _checked(self, name: str, value: Any) -> type[T]:
        """Return a class that is not one of ours, or raise ``ConfigError`` if it cannot be used."""
        what = f"{self.kind} {name!r}"
        if not isinstance(value, type) or not issubclass(value, self.base):
            base = f"{self.base.__module__.removesuffix('.base')}.{self.base.__name__}"
            found = "" if isinstance(value, type) else f", found {_brief(value)}"
            raise ConfigError(f"{what} must be a subclass of {base}{found}")
        if inspect.isabstract(value):
            missing = ", ".join(sorted(getattr(value, "__abstractmethods__", ())))
            raise ConfigError(f"{what} must implement {missing}")
        settings = vars(value).get("__dataclass_params__")
        if settings is None and (self.frozen or _needs_arguments(value)):
            frozen = "@dataclass(frozen=True)" if self.frozen else "@dataclass"
            raise ConfigError(f"{what} must be a dataclass: write {frozen} above the class")
        if self.frozen and not getattr(settings, "frozen", False):
            raise ConfigError(
                f"{what} must be frozen: write @dataclass(frozen=True) above the class"
            )
        return value


def _resolved(entry: type[T] | str) -> type[T]:
    """Return the class that ``module:Class`` refers to; a class is returned as it is."""
    if not isinstance(entry, str):
        return entry
    module, _, name = entry.partition(":")
    cls: type[T] = getattr(import_module(module), name)
    return cls


_HINTS: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()
"""Classes that have been built before, and their annotations: a sweep builds them for each cell."""


@lru_cache(maxsize=64)  # the adapters of int, float and the like
def _class_adapter(cls: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _parameters(cls: type) -> dict[str, Any]:
    """Return a class's parameters (kebab-case) and their defaults (``...`` if required)."""
    parameters: dict[str, Any] = {}
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.init:
            default: Any = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            key = field.name.replace("_", "-")
            parameters[key] = ... if default is dataclasses.MISSING else default
    return parameters


def _needs_arguments(cls: type) -> bool:
    """Return True if a class cannot be called without arguments, or its signature is unknown."""
    try:
        inspect.signature(cls).bind()
    except (TypeError, ValueError):
        return True
    return False


def _brief(value: Any) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return f"{text[:60]} of type {type(value).__name__}"


@cache
def _plugins() -> Mapping[str, Mapping[str, EntryPoint]]:
    """Return group -> name -> entry point of installed packages, for hqde-fl's groups."""
    groups: dict[str, dict[str, EntryPoint]] = {}
    if not any(map(_has_plugins, sys.path)):
        return groups
    from importlib.metadata import entry_points

    try:
        installed = entry_points()
        for group in installed.groups:
            if group.startswith("hqde_fl."):
                groups[group] = {point.name: point for point in installed.select(group=group)}
    except Exception as error:  # of a damaged installation of any package
        warnings.warn(f"entry points cannot be read: {error!r}", stacklevel=2)
    return groups


def _has_plugins(folder: str) -> bool:
    """Return True if a package in a folder may have entry points of hqde-fl's groups.

    ``entry_points`` reads the metadata of all packages, which takes longer than all else here.
    """
    try:
        names = [name for name in os.listdir(folder or ".") if name.endswith(("-info", ".egg"))]
    except OSError:
        return False
    for name in names:
        try:
            with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                if b"hqde_fl." in file.read().replace(b"= hqde_fl.", b""):
                    return True
        except OSError:
            continue
    return False


def _origin(point: EntryPoint) -> str:
    """Return " of PACKAGE", the package that an entry point belongs to, where known."""
    return f" of {point.dist.name}" if point.dist else ""
