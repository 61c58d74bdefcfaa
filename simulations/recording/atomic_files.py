"""Files that are whole, whenever the power goes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hqde_fl.errors import RunError


def replace_file(path: Path, *pieces: bytes | memoryview) -> None:
    """Write a file, wait until the disk has it, and only then give it its name.

    A reader sees the old one or the new one, whole.

    Raises
    ------
    RunError
        If it cannot be written; a file of that name is left as it was.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        sync(path.parent)  # the name is in the directory, not in the file
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def sync(path: Path) -> None:
    """Wait until the disk has a file or a directory as it is now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
