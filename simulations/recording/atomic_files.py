"""Write files atomically and durably, for their owner alone."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from hqde_fl.errors import RunError
from hqde_fl.private_files import PRIVATE_MODE, private


def replace_file(path: Path, *pieces: bytes | memoryview) -> None:
    """Write a file under another name, flush it to the disk, then give it its name.

    A reader sees the complete old file or the complete new one, also after a power failure. A file
    that was there keeps its mode; a new one is readable for its owner alone.

    Parameters
    ----------
    path : Path
        The file.
    *pieces : bytes or memoryview
        Its new content, in this order.

    Raises
    ------
    RunError
        If it cannot be written; the old file is left as it was.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else PRIVATE_MODE
        with open(new, "wb", opener=private) as file:
            os.fchmod(file.fileno(), mode)
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
    """Flush a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
