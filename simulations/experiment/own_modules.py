"""The user's own modules and files, which an experiment names as ``module:attribute``.

The command line searches the folder of the experiment's file and the working directory for them,
after all installed packages, so that nothing there hides a package. The ``sys.path`` of a program
that calls ``run_experiment`` is not changed for modules, and gets the folder of a file that an
experiment names.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from hqde_fl import own_files
from hqde_fl.code_origin import is_users
from hqde_fl.given_objects import is_given
from hqde_fl.own_modules import find_file, import_attribute, search_in
from hqde_fl.simulations.experiment.import_path import own_folders

__all__ = [
    "add_folder_of",
    "add_folders",
    "added_folders",
    "import_attribute",
    "module_folders",
    "named_files",
    "own_file_modules",
    "own_names",
    "user_files",
]

_OWN_NAME = re.compile(r"[^:]*[^:\s]:[^\W\d]\w*")
_OWN_TABLES = ("task", "clients", "strategy", "faults", "metrics", "callbacks")


def add_folders(folders: Iterable[str | Path]) -> None:
    """Search own modules and files in some folders; ``added_folders`` returns all given so far.

    Folders that are not in ``sys.path`` are appended to it. The user's own files are searched for
    in these folders before those that were given earlier.

    Parameters
    ----------
    folders : Iterable[str or Path]
        The folders, in the order in which they are searched.
    """
    paths = [os.path.abspath(folder) for folder in folders]
    search_in(paths)
    for path in paths:
        if path not in map(os.path.abspath, sys.path):
            sys.path.append(path)


def add_folder_of(file: Path | None, before: Iterable[str] = ()) -> None:
    """Search in the folder of an experiment's file, and then in the working directory.

    Parameters
    ----------
    file : Path or None
        The file, if there is one.
    before : Iterable[str]
        Folders to search between the two: those that an earlier part of the run searched.
    """
    add_folders([*([] if file is None else [file.absolute().parent]), *before, Path.cwd()])


def added_folders() -> list[str]:
    """Return the absolute folders given to ``add_folders`` so far, each of them once."""
    return list(own_files.folders)


def own_names(table: Mapping[str, Any]) -> list[str]:
    """Return the names of the user's own parts in an experiment's complete table, sorted.

    Names of objects that a program has given are not among them.
    """
    tables = [table.get(key) for key in _OWN_TABLES]
    names = {text for text in _strings(tables) if _OWN_NAME.fullmatch(text)}
    return sorted(name for name in names if not is_given(name))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _strings(entry)


def module_folders(table: Mapping[str, Any]) -> list[str]:
    """Return the folders of the own modules that an experiment names, and all folders added.

    The list is empty if it names none. The folder of a module that is an installed one, or is not
    imported, is left out.

    Parameters
    ----------
    table : Mapping[str, Any]
        The experiment's complete table.
    """
    names = own_names(table)
    places: list[str | None] = [str(file) for file in named_files(table).values()]  # searched first
    for module in _named_modules(names):
        places += [*getattr(module, "__path__", ())] or [getattr(module, "__file__", None)]
    own = own_folders(os.path.dirname(os.path.abspath(place)) for place in places if place)
    return list(dict.fromkeys([*own, *own_files.folders])) if names else []


def own_file_modules(table: Mapping[str, Any]) -> str:
    """Return the modules of the files that an experiment names; their names tell the content."""
    places = {name.rpartition(":")[0] for name in own_names(table)}
    files = sorted(os.path.basename(place) for place in places if place.endswith(".py"))
    return " ".join(module.__name__ for file in files for module in own_files.loaded(file)[-1:])


def named_files(table: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files that an experiment names, as in ``mine.py:Nearest``, by how it names them.

    Raises
    ------
    ConfigError
        If there is no such file.
    """
    places = {name: name.rpartition(":")[0] for name in own_names(table)}
    return {
        place: Path(os.path.realpath(find_file("part", name, place)))
        for name, place in places.items()
        if place.endswith(".py")
    }


def user_files(table: Mapping[str, Any]) -> dict[Path, Path]:
    """Return the Python files of the user's own that an experiment needs.

    Those are the files of the parts that it names, which are imported if they have not been, and
    those of all other modules of this process that lie in the same folders or below.

    Parameters
    ----------
    table : Mapping[str, Any]
        The experiment's complete table.

    Returns
    -------
    dict[Path, Path]
        File -> the folder in which Python finds its module.
    """
    for name in own_names(table):
        import_attribute("part", name)
    folders = [f"{os.path.realpath(folder)}{os.sep}" for folder in module_folders(table)]
    files = {}
    for module in tuple(sys.modules.values()):
        known = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if not known or module.__name__ == "__main__" or not known.endswith(".py"):
            continue
        file = Path(os.path.realpath(known))
        if str(file).startswith(tuple(folders)) and is_users(known):
            files[file] = _root(module, file)
    return dict(sorted(files.items()))


def _root(module: ModuleType, file: Path) -> Path:
    """Return the folder in which Python finds the module in a file."""
    if module.__name__.startswith(f"{own_files.__name__}."):
        return file.parent
    levels = module.__name__.count(".") + (file.name == "__init__.py")
    return file.parents[levels]


def _named_modules(names: Iterable[str]) -> list[ModuleType]:
    """Return the imported modules, or top-level packages, that names of own parts begin with."""
    modules = []
    for name in names:
        place = name.rpartition(":")[0]
        if place.endswith(".py"):
            modules += own_files.loaded(os.path.basename(place))
        elif module := sys.modules.get(place.partition(".")[0]):
            modules.append(module)
    return modules
