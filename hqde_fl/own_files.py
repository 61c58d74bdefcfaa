"""The user's own Python files as modules, wherever they are and whatever they are called.

A file ``mine.py`` becomes the module ``hqde_fl.own_files.mine_1a2b3c4d``, whose name ends in a
hash of the content. So it neither hides nor is hidden by an installed module of that name, a
changed file is loaded again, and objects of its classes can be unpickled in another process: that
imports this module first, which finds the file by its name and content.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType

__path__: list[str] = []  # which makes a package of this module, so that it can have submodules

_files: dict[str, str] = {}
"""Full name of a module -> its file, as far as they have been loaded in this process."""

folders: list[str] = []
"""Absolute folders of the user's own, in the order in which files are searched there."""

carried: dict[str, str] = {}
"""A file as an experiment names it -> its path, in an app that has brought the file along."""


def load_file(path: str | os.PathLike[str]) -> ModuleType:
    """Return the module in a file; it is the same object until the file changes.

    A module that Python itself has imported from this file is returned as it is. The file's folder
    is appended to ``sys.path``, so that the file can import its neighbours.
    """
    file = os.path.realpath(path)
    for module in tuple(sys.modules.values()):
        known = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if not known or os.path.basename(known) != os.path.basename(file):
            continue
        if module.__name__ not in _files and os.path.realpath(known) == file:
            return module
    if (folder := os.path.dirname(file)) not in map(os.path.realpath, sys.path):
        sys.path.append(folder)
    name = f"{__name__}.{_module_name(file)}"
    if _files.setdefault(name, file) != file:  # a file of the same name and content
        name = f"{__name__}.{_module_name(file, file)}"
        _files[name] = file
    return importlib.import_module(name)


def loaded(name: str) -> list[ModuleType]:
    """Return the modules of this process that ``load_file`` made of files of a name."""
    found = [module for module, file in _files.items() if os.path.basename(file) == name]
    return [sys.modules[module] for module in found if module in sys.modules]


def _module_name(file: str, salt: str = "") -> str:
    """Return ``STEM_HASH`` for the content of a file, and of ``salt``."""
    stem = re.sub(r"\W", "_", os.path.basename(file).removesuffix(".py"))
    with open(file, "rb") as stream:
        digest = hashlib.sha256(stream.read() + salt.encode())
    return f"{stem}_{digest.hexdigest()[:8]}"


class _Finder(MetaPathFinder):
    """Finds the modules that ``load_file`` names, also in a process that did not load them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of a module below this one; None for all others."""
        parent, _, name = fullname.rpartition(".")
        if parent != __name__:
            return None
        file = _files.get(fullname) or _search(name, (*folders, *sys.path))
        if file is None:
            return None
        _files[fullname] = file
        return spec_from_file_location(fullname, file, loader=_Loader(fullname, file))


def _search(name: str, places: Iterable[str]) -> str | None:
    """Return the file in one of the folders whose module has the name, or None."""
    for folder in dict.fromkeys(places):
        try:
            files = [os.path.join(folder, file) for file in os.listdir(folder or ".")]
        except OSError:
            continue
        stem = name.rpartition("_")[0]
        for file in files:
            base = os.path.basename(file)
            if base.endswith(".py") and re.sub(r"\W", "_", base.removesuffix(".py")) == stem:
                real = os.path.realpath(file)
                if name in (_module_name(real), _module_name(real, real)):
                    return real
    return None


class _Loader(SourceFileLoader):
    """Compiles the file itself: compiled code on disk could be that of an earlier content."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled code of the file."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


sys.meta_path.append(_Finder())
