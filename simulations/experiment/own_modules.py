"""Import the user's own modules, which an experiment names as ``module:attribute``.

The command line searches the folder of the experiment's file and the working directory for them,
after all installed packages, so that nothing there hides a package. The ``sys.path`` of a program
that calls ``run_experiment`` is not changed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.import_path import own_folders

_folders: list[str] = []


def add_folders(folders: Iterable[str | Path]) -> None:
    """Append folders that are not in ``sys.path`` to its end; ``added_folders`` returns all given.

    Parameters
    ----------
    folders : Iterable[str or Path]
        The folders, in the order in which they are searched.
    """
    for folder in folders:
        path = os.path.abspath(folder)
        if path not in _folders:
            _folders.append(path)
        if path not in map(os.path.abspath, sys.path):
            sys.path.append(path)


def add_folder_of(file: Path | None, before: Iterable[str] = ()) -> None:
    """Append the folder of an experiment's file and the working directory to ``sys.path``.

    Folders that are in ``sys.path`` already are not appended again.

    Parameters
    ----------
    file : Path or None
        The file, if there is one.
    before : Iterable[str]
        Folders to append between the two: those that an earlier part of the run searched.
    """
    add_folders([*([] if file is None else [file.absolute().parent]), *before, Path.cwd()])


def added_folders() -> list[str]:
    """Return the absolute folders given to ``add_folders`` so far, each of them once."""
    return list(_folders)


def module_folders(name: Any) -> list[str]:
    """Return the folders of the module in ``module:attribute``, and all folders added.

    The folder of a module that is an installed one, or is not imported, is left out.

    Parameters
    ----------
    name : Any
        The name; for any other value, also a name without a colon, the list is empty.
    """
    if not isinstance(name, str) or ":" not in name:
        return []
    module = sys.modules.get(name.partition(":")[0].partition(".")[0])
    places = [*getattr(module, "__path__", ())] or [getattr(module, "__file__", None)]
    own = own_folders(os.path.dirname(os.path.abspath(place)) for place in places if place)
    return list(dict.fromkeys([*own, *_folders]))


def import_attribute(kind: str, name: str, whole: bool = True) -> Any:
    """Import the object that a name refers to.

    Parameters
    ----------
    kind : str
        Kind of the object ("task"), for the error messages.
    name : str
        ``package.module:attribute``.
    whole : bool
        Pass on an exception that the module itself raises, rather than make it a ``ConfigError``.

    Raises
    ------
    ConfigError
        If the name has another form, there is no such module, or it has no such attribute; unless
        ``whole``, also if the module raises an exception.
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
            what = f"there is no module {module_name!r}{_searched()}"
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


def _searched() -> str:
    """Return an error message's part that names the user's own folders searched; "" without any."""
    folders = own_folders(dict.fromkeys(os.path.abspath(folder) for folder in sys.path))
    return f": it is not installed, nor in {', '.join(folders)}" if folders else ""
