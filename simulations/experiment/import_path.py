"""Where Python looks for modules: the same places in the same order in every process of a run.

Processes that others start look elsewhere first: Ray's workers in the working directory, where a
``clients.py`` of the user's own would hide a package of hqde-fl. So each of them is handed the path
of the process that started the run, and follows it before it imports anything of hqde-fl.

This file is therefore carried there as it is, with a generated Flower App and by Ray: standard
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


def current(anywhere: bool = False) -> dict[str, Any]:
    """Describe this process's ``sys.path`` in plain values.

    Parameters
    ----------
    anywhere : bool
        Whether it is for processes that need not be on this machine, or need not have the same
        Python: they only add what is the user's own.

    Returns
    -------
    dict[str, Any]
        ``machine``: the host and its Python, empty for ``anywhere``; ``path``: all of ``sys.path``;
        ``own``: what of it is not installed with Python; ``first``: what Ray's workers look in
        first, whatever ``sys.path`` says.
    """
    here = os.getcwd()
    path = list(dict.fromkeys(os.path.abspath(each) for each in sys.path))
    script = os.path.dirname(os.path.realpath(sys.argv[0])) if sys.argv else here
    if anywhere:
        return {"machine": "", "path": [], "own": own(path), "first": []}
    return {"machine": _machine(), "path": path, "own": own(path), "first": [here, script]}


def follow(path: Mapping[str, Any]) -> None:
    """Look for modules where another process does.

    On the same machine that is its ``sys.path``, and after it what this process has besides.
    Elsewhere folders of the user's own come last, as far as there are such folders.

    Parameters
    ----------
    path : Mapping[str, Any]
        What ``current`` returned there.
    """
    if path["machine"] == _machine():
        sys.path[:] = [*path["path"], *(each for each in sys.path if each not in path["path"])]
        return
    for each in path["first"]:
        if each in sys.path[: len(path["first"])]:
            sys.path.remove(each)
    for each in (*path["own"], *path["first"]):
        if each not in sys.path and os.path.isdir(each):
            sys.path.append(each)


def own(path: Iterable[str]) -> list[str]:
    """Return the folders that hold neither the standard library nor installed packages.

    Parameters
    ----------
    path : Iterable[str]
        The folders.
    """
    places = sysconfig.get_paths()
    installed = {places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    installed |= {*site.getsitepackages(), site.getusersitepackages()}
    return [
        each
        for each in path
        if not each.endswith(".zip")
        and not any(each == place or each.startswith(f"{place}{os.sep}") for place in installed)
    ]


def _machine() -> str:
    """Name the host and its Python."""
    return f"{socket.gethostname()}:{sys.prefix}"
