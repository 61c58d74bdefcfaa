"""Lock a directory, so that one process at a time writes into it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from hqde_fl.errors import HQDEError

POLL_SECONDS = 0.1
UNSUPPORTED = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system that has no locks, or none for a descriptor that cannot write (NFS)."""


@contextmanager
def directory_lock(directory: Path, refusal: HQDEError, wait: float = 0.0) -> Iterator[int]:
    """Hold a directory against other processes for as long as the block lasts.

    The operating system ends the lock with the process, however that ends. A process that inherits
    the descriptor holds the lock too. On a file system without locks, nobody is refused.

    Parameters
    ----------
    directory : Path
        An existing directory; no file is written into it.
    refusal : HQDEError
        The error to raise if another process still holds the directory after ``wait`` seconds.
    wait : float, default=0.0
        Seconds to wait for another process, for instance one that is being ended.

    Yields
    ------
    int
        The file descriptor that holds the lock.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    end = time.monotonic() + wait
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > end:
                raise refusal
            time.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Try once to take the lock; return False if another process holds it.

    Return True without a lock on a file system that has none.
    """
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return True
