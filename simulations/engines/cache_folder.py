"""A temporary folder for the caches of simulated clients, which is removed at the end of a run."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from logging import WARNING
from typing import final

from hqde_fl.protocol.flower_internals import log

PREFIX = "hqde-fl-entries-"
_ATTEMPTS = 3  # another process may take a new folder for an abandoned one


@final
class CacheFolder:
    """A temporary folder, which is removed by ``close``, or else with this object.

    The process holds a lock of its folder. Folders without a lock belonged to processes that were
    killed; the next one of the same user removes them.

    Attributes
    ----------
    path : str
        The folder; empty if none can be made.
    """

    def __init__(self) -> None:
        self.path, self._descriptor = "", -1
        try:
            _remove_abandoned()
            self._make()
        except OSError as error:
            log(WARNING, "clients have no cache: %s", error)
        self._finalizer = weakref.finalize(self, _remove, self.path, self._descriptor)

    def close(self) -> None:
        """Remove the folder."""
        self._finalizer()

    def _make(self) -> None:
        for _ in range(_ATTEMPTS):
            path = tempfile.mkdtemp(prefix=PREFIX)  # mode 0700
            descriptor = _locked(path)
            if descriptor is not None:
                self.path, self._descriptor = path, descriptor
                return


def _locked(path: str) -> int | None:
    """Return a descriptor that locks a folder; None if another process does, or removed it.

    On a file system without locks the descriptor locks nothing, and no process removes the folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass
    if os.path.isdir(path):
        return descriptor
    os.close(descriptor)
    return None


def _remove_abandoned() -> None:
    """Remove the folders of this user that no process has locked."""
    for entry in os.scandir(tempfile.gettempdir()):
        if not entry.name.startswith(PREFIX):
            continue
        with suppress(OSError):
            if entry.stat(follow_symlinks=False).st_uid != os.getuid() or entry.is_symlink():
                continue
            descriptor = os.open(entry.path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _remove(path: str, descriptor: int) -> None:
    if path:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)
