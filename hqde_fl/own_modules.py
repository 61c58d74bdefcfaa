"""Import the user's own code: ``module:attribute``, or ``file.py:attribute``.

A file is searched for in the folder of the experiment, then in the other folders of the user's own,
then in the working directory. A module is searched for wherever Python finds modules.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from hqde_fl import own_files
from hqde_fl.code_origin import failure_text, is_failure, origin, passed_users_code
from hqde_fl.errors import ConfigError, HQDEError, TaskError
from hqde_fl.given_objects import given_object, is_given

_first: ContextVar[str | None] = ContextVar("first", default=None)


def is_own(name: object) -> bool:
    """Return True if a name is that of a user's own part: ``module:attribute``."""
    return isinstance(name, str) and ":" in name


def own_name(value: Any) -> str:
    """Return the name ``module:attribute`` of a class or function, by which it can be imported."""
    return f"{value.__module__}:{value.__qualname__}"


def display_name(name: str) -> str:
    """Return a name as tables show it: ``Nearest`` for ``parts/mine.py:Nearest``.

    The module stays before an attribute that is no class: ``mine:task``.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or attribute[:1].isupper():
        return attribute
    return f"{os.path.basename(place).removesuffix('.py')}:{attribute}"


@contextmanager
def searched_first(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Search files in a folder before all others, in the block; None changes nothing."""
    if folder is None:
        yield
        return
    token = _first.set(os.path.abspath(folder))
    try:
        yield
    finally:
        _first.reset(token)


def first_folder() -> str | None:
    """Return the folder of the innermost ``searched_first`` block, if there is one."""
    return _first.get()


def search_in(folders: Iterable[str | os.PathLike[str]]) -> None:
    """Search files in some folders from now on, before those that are searched already."""
    new = list(dict.fromkeys(os.path.abspath(folder) for folder in folders))
    own_files.folders[:] = [*new, *(old for old in own_files.folders if old not in new)]


def import_attribute(kind: str, name: str) -> Any:
    """Import the object that a name refers to.

    Parameters
    ----------
    kind : str
        Kind of the object ("task"), for the error messages.
    name : str
        ``package.module:attribute`` or ``path/to/file.py:attribute``.

    Raises
    ------
    ConfigError
        One line: if the name has another form, there is no such module or file, it raises an
        exception (which, and where), or it has no such attribute.
    """
    if is_given(name):
        return given_object(kind, name)
    place, _, attribute = name.rpartition(":")
    module = _module(kind, name, place, attribute)
    if attribute not in vars(module) and not hasattr(module, attribute):
        what = f"{os.path.basename(place)} has" if _is_file(place) else f"module {place!r} has"
        file = getattr(module, "__file__", None)
        near = _suggestion(attribute, vars(module))
        raise ConfigError(f"{kind} {name!r}: {what} no {attribute!r}{near} ({file})")
    return getattr(module, attribute)


def _module(kind: str, name: str, place: str, attribute: str) -> ModuleType:
    if not attribute.isidentifier() or not (
        _is_file(place) or all(part.isidentifier() for part in place.split("."))
    ):
        raise ConfigError(
            f"{kind} {name!r} must read package.module:attribute or FILE.py:attribute"
        )
    file = find_file(kind, name, place) if _is_file(place) else None
    try:
        return _imported(place) if file is None else own_files.load_file(file)
    except BaseException as error:
        if not is_failure(error):
            raise
        what = f"{os.path.basename(place)} raised" if file else f"module {place!r} raised"
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if not file and missing and f"{place}.".startswith(f"{missing}."):
            raise ConfigError(
                f"{kind} {name!r}: there is no module {place!r}{_searched()}"
            ) from error
        text = f"{what} {error_in(error)}"
        raise ConfigError(f"{kind} {name!r}: {text}") from error


def _imported(name: str) -> ModuleType:
    """Import a module, at last from the folder that is searched first, which stays in sys.path."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        folder = first_folder()
        if folder is None or folder in map(os.path.abspath, sys.path):
            raise
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        sys.path.append(folder)
        importlib.invalidate_caches()
        return importlib.import_module(name)


def _is_file(place: str) -> bool:
    return place.endswith(".py")


def find_file(kind: str, name: str, place: str) -> str:
    """Return the path of the file ``place`` in the name of an object.

    Raises
    ------
    ConfigError
        If there is no such file; the message names the folders searched.
    """
    if place in own_files.carried:
        return own_files.carried[place]
    if os.path.isabs(place):
        folders = [""]
    else:
        first = [] if _first.get() is None else [str(_first.get())]
        folders = list(dict.fromkeys([*first, *own_files.folders, os.getcwd()]))
    for folder in folders:
        if os.path.isfile(path := os.path.join(folder, place)):
            return path
    where = f" in {', '.join(folders)}" if folders != [""] else ""
    raise ConfigError(f"{kind} {name!r}: there is no file {place!r}{where}")


def _searched() -> str:
    """Return an error message's part that names the user's own folders searched; "" without any."""
    folders = [folder for folder in own_files.folders if folder in map(os.path.abspath, sys.path)]
    return f": it is not installed, nor in {', '.join(folders)}" if folders else ""


def _suggestion(name: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {near[0]!r}?" if near else ""


@contextmanager
def own_code(part: str) -> Iterator[None]:
    """Make a one-line ``TaskError`` of an exception that passed through a file of the user.

    Parameters
    ----------
    part : str
        What runs in the block, for the message: "rule Nearest(radius=2)".
    """
    try:
        yield
    except BaseException as error:
        own = is_failure(error) and not isinstance(error, HQDEError) and passed_users_code(error)
        if not own:
            raise
        raise TaskError(f"{part} raised {error_in(error)}") from error


def error_in(error: BaseException) -> str:
    """Return an exception of the user's own code as one line with the place that raised it."""
    return f"{failure_text(error)}{origin(error)}"
