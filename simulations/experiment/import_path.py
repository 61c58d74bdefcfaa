"""Give every process of a run the import path of the process that started it.

Processes that Ray and Flower start have other import paths: Ray's workers begin with the working
directory, where a module of the user would hide an installed package. So each of them gets the path
of the process that started the run, and adopts it before it imports anything of hqde-fl.

This file is carried there as it is, with a generated Flower App and by Ray: it imports the standard
library only.
"""

from __future__ import annotations

import os
import site
import socket
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from typing import Any


def describe_path() -> dict[str, Any]:
    """Describe this process's ``sys.path`` in plain values.

    Returns
    -------
    dict[str, Any]
        ``machine``: the host and its Python; ``path``: all of ``sys.path``;
        ``own``: its folders that hold no installed packages; ``first``: the folders that Ray's
        workers search first, whatever ``sys.path`` says.
    """
    here = os.getcwd()
    path = list(dict.fromkeys(os.path.abspath(folder) for folder in sys.path))
    script = os.path.dirname(os.path.realpath(sys.argv[0])) if sys.argv else here
    return {"machine": _machine(), "path": path, "own": own_folders(path), "first": [here, script]}


def adopt_path(path: Mapping[str, Any]) -> None:
    """Change ``sys.path`` to the import path of another process.

    On the same machine, its folders come first and the others of this process last. On another one,
    the other process's ``own`` and ``first`` folders come last, if they exist here.

    Parameters
    ----------
    path : Mapping[str, Any]
        Result of ``describe_path`` in the other process.
    """
    if path["machine"] == _machine():
        sys.path[:] = [*path["path"], *(own for own in sys.path if own not in path["path"])]
        return
    for folder in path["first"]:
        if folder in sys.path[: len(path["first"])]:
            sys.path.remove(folder)
    for folder in (*path["own"], *path["first"]):
        if folder not in sys.path and os.path.isdir(folder):
            sys.path.append(folder)


def own_folders(path: Iterable[str]) -> list[str]:
    """Return the folders of ``path`` outside of the standard library and installed packages.

    Zip archives are left out.

    Parameters
    ----------
    path : Iterable[str]
        The folders.
    """
    places = sysconfig.get_paths()
    installed = {places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    installed |= {*site.getsitepackages(), site.getusersitepackages()}
    return [
        folder
        for folder in path
        if not folder.endswith(".zip")
        and not any(folder == root or folder.startswith(f"{root}{os.sep}") for root in installed)
    ]


def _machine() -> str:
    """Return ``HOST:PREFIX``, the host's name and the folder of its Python."""
    return f"{socket.gethostname()}:{sys.prefix}"
