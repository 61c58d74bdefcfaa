"""A temporary folder that is removed at the end, even if its process was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

_ATTEMPTS = 3  # another process may take a new folder for an abandoned one, or still write into it


@final
class LockedFolder:
    """A new temporary folder (mode 0700), which is removed by ``close``, or else with this object.

    The process holds a lock of its folder. Folders without a lock belonged to processes that were
    killed; the next one of the same user that makes a folder with this prefix removes them.

    Parameters
    ----------
    prefix : str
        Beginning of the folder's name.
    parent : str, optional
        The folder that it is made in; the system's temporary folder if not given.
    at_exit : bool, default=True
        Remove the folder at the end of the process, too, if ``close`` was not called.

    Raises
    ------
    OSError
        If the folder cannot be made.

    Attributes
    ----------
    path : str
        The folder.
    """

    def __init__(self, prefix: str, parent: str | None = None, *, at_exit: bool = True) -> None:
        parent = tempfile.gettempdir() if parent is None else parent
        _remove_abandoned(prefix, parent)
        self.path, descriptor = _make(prefix, parent)
        self._finalizer = weakref.finalize(self, _remove, self.path, descriptor)
        self._finalizer.atexit = at_exit

    def close(self) -> None:
        """Remove the folder; calling it again has no effect."""
        self._finalizer()

    def keep(self) -> None:
        """Keep the folder for as long as this process lives; a later process removes it."""
        self._finalizer.detach()


@contextmanager
def temporary_folder(prefix: str = "hqde-fl-tmp-", parent: str | None = None) -> Iterator[Path]:
    """Yield a ``LockedFolder``'s path, which is removed at the end of the block."""
    folder = LockedFolder(prefix, parent)
    try:
        yield Path(folder.path)
    finally:
        folder.close()


def _make(prefix: str, parent: str) -> tuple[str, int]:
    """Make a folder; return its path, and a descriptor that locks it."""
    for _ in range(_ATTEMPTS):
        path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        descriptor = _locked(path)
        if descriptor is not None:
            return path, descriptor
    raise OSError(f"other processes remove new folders in {parent}")


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


def _remove_abandoned(prefix: str, parent: str) -> None:
    """Remove this user's folders in ``parent`` with a prefix that no process has locked."""
    for entry in os.scandir(parent):
        if not entry.name.startswith(prefix):
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
    for _ in range(_ATTEMPTS):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            break
    os.close(descriptor)
