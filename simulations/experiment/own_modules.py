"""Modules of the user's own: what an experiment names as ``module:attribute``.

The command line looks for them in the folder of the experiment's file and in the working directory,
after everything that is installed, so that nothing there hides a package. Programs that call
``run_experiment`` have a ``sys.path`` of their own, which is left as it is.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.import_path import own

_folders: list[str] = []


def look_in(folders: Iterable[str | Path]) -> None:
    """Append folders to the end of ``sys.path``, unless they are in it.

    Parameters
    ----------
    folders : Iterable[str or Path]
        The folders, the first to be looked in first.
    """
    for folder in folders:
        path = os.path.abspath(folder)
        if path not in _folders:
            _folders.append(path)
        if path not in map(os.path.abspath, sys.path):
            sys.path.append(path)


def look_beside(file: Path | None, before: Iterable[str] = ()) -> None:
    """Look for modules beside an experiment's file, then in the working directory.

    Parameters
    ----------
    file : Path or None
        The file, if there is one.
    before : Iterable[str]
        Folders that an earlier part of the run looked in.
    """
    look_in([*([] if file is None else [file.absolute().parent]), *before, Path.cwd()])


def looked_in() -> list[str]:
    """Return the folders that modules of the user's own are looked for in, besides ``sys.path``."""
    return list(_folders)


def folders_of(name: Any) -> list[str]:
    """Return the folders in which the module of ``module:attribute`` is found, and all looked in.

    Parameters
    ----------
    name : Any
        The name; what is no such name has none.
    """
    if not isinstance(name, str) or ":" not in name:
        return []
    module = sys.modules.get(name.partition(":")[0].partition(".")[0])
    places = [*getattr(module, "__path__", ())] or [getattr(module, "__file__", None)]
    found = own(os.path.dirname(os.path.abspath(place)) for place in places if place)
    return list(dict.fromkeys([*found, *_folders]))


def attribute(kind: str, name: str, whole: bool = True) -> Any:
    """Import what a name stands for.

    Parameters
    ----------
    kind : str
        What it is meant to be, for the error messages.
    name : str
        ``package.module:attribute``.
    whole : bool
        Whether an exception of the module itself is passed on, so that its author sees it whole.

    Raises
    ------
    ConfigError
        If there is no such module, or it has no such attribute; unless ``whole``, also if the
        module raises an exception.
    """
    module_name, _, attribute_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute_name)):
        raise ConfigError(f"{kind} {name!r} must read package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        what = f"module {module_name!r} raised {type(error).__name__}: {error}"
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            what = f"there is no module {module_name!r}{_nowhere()}"
        elif whole:
            raise
        raise ConfigError(f"{kind} {name!r}: {what}") from error
    if not hasattr(module, attribute_name):
        where = getattr(module, "__file__", None)
        raise ConfigError(
            f"{kind} {name!r}: module {module_name!r} has no {attribute_name!r}"
            + (f" ({where})" if where else "")
        )
    return getattr(module, attribute_name)


def _nowhere() -> str:
    """Say where a module is not."""
    folders = own(dict.fromkeys(os.path.abspath(each) for each in sys.path))
    return f": it is not installed, nor in {', '.join(folders)}" if folders else ""
