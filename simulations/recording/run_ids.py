"""Flower's ids of runs whose directories a ServerApp has chosen itself, and these directories."""

from __future__ import annotations

from pathlib import Path

from hqde_fl.simulations.recording.atomic_files import replace_file

_FOLDER = ".run-ids"


def note_run_id(directory: Path, run_id: int) -> None:
    """Note that a run's directory is ``directory``, in the folder in which this is."""
    folder = directory.parent / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / str(run_id), directory.name.encode())


def directory_of(runs: Path, run_id: str) -> Path | None:
    """Return the directory in ``runs`` of the run with an id; None if there is none."""
    if not (run_id.isascii() and run_id.isdigit() and len(run_id) <= 20):
        return None
    try:
        name = (runs / _FOLDER / run_id).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    directory = runs / name
    return directory if name == Path(name).name and directory.is_dir() else None
