"""The experiments that come with hqde-fl, which can be named without a path."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import hqde_fl
from hqde_fl.errors import UnknownNameError

FOLDERS = tuple(
    folder / "experiments"
    for folder in (Path(hqde_fl.__file__).parent, Path(hqde_fl.__file__).parent.parent)
)
"""Their folders: in the package, where a wheel has put them, or beside it, in a checkout."""


def shipped_experiments() -> dict[str, Path]:
    """Return name -> file of the experiments and sweeps that come with hqde-fl."""
    files = [file for folder in reversed(FOLDERS) for file in sorted(folder.glob("*.toml"))]
    return {file.stem: file for file in files}


def experiment_file_of(path: str | PathLike[str]) -> Path:
    """Return a path unchanged, or the file of an experiment that comes with hqde-fl.

    It is the latter if the path is a bare name, such as ``quickstart``, and there is no such file.

    Raises
    ------
    UnknownNameError
        If there is no experiment of that name either.
    """
    path = Path(path)
    if path.suffix or len(path.parts) != 1 or path.exists():
        return path
    shipped = shipped_experiments()
    if path.name not in shipped:
        raise UnknownNameError("experiment", path.name, shipped)
    return shipped[path.name]
