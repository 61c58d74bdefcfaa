"""One sweep at a time in a directory, and no process of a killed one beside its successor."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hqde_fl.errors import ConfigError

LOCK = ".lock"
PATIENCE = 10.0
"""Seconds in which the processes of a sweep that was killed must have ended."""

POLL_SECONDS = 0.1


@contextmanager
def locked(directory: Path, patience: float = PATIENCE) -> Iterator[int]:
    """Hold a directory; yields the lock's file descriptor.

    Processes that inherit the descriptor hold the lock too, until the last of them has ended.

    Raises
    ------
    ConfigError
        If another sweep still holds it after ``patience`` seconds.
    """
    end = time.monotonic() + patience
    with (directory / LOCK).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ConfigError(f"another sweep is running in {directory}") from None
                time.sleep(POLL_SECONDS)
        yield file.fileno()
