"""The folder of a Ray that this process starts: its sockets, logs and spilled objects.

Ray would write to a folder that all users of the host share, leave its files there, and not start
if the path is long (a job's ``TMPDIR``), as the path of a Unix socket has at most 107 bytes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress

from hqde_fl.errors import RunError
from hqde_fl.simulations.engines.locked_folder import LockedFolder

PREFIX = "hqde-ray-"
_RANDOM_LENGTH = 8  # characters that ``tempfile`` adds to a prefix
_MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
_LONGEST_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Longest path of a socket below ``RAY_TMPDIR``; the last number is a process id."""


def new_session_folder() -> LockedFolder:
    """Make the folder of a new Ray, which is not removed before the Ray has ended.

    Raises
    ------
    RunError
        If there is no writable folder with a short path.
    """
    parent = short_folder(len(PREFIX) + _RANDOM_LENGTH)
    try:
        return LockedFolder(PREFIX, parent, at_exit=False)
    except OSError as error:
        raise RunError(f"Ray has no folder for its files: {error}") from None


def short_folder(name_length: int) -> str:
    """Return a folder in which a Ray's own folder may be made without too long paths of sockets.

    It is the first that fits and is writable of ``RAY_TMPDIR``, the system's temporary folder
    (``TMPDIR``), ``/tmp``, ``/var/tmp`` and ``/dev/shm``.

    Parameters
    ----------
    name_length : int
        Number of characters of the name of Ray's own folder.

    Raises
    ------
    RunError
        If none of them is short and writable.
    """
    longest = _MAX_SOCKET_PATH - len(_LONGEST_SOCKET) - name_length - 1
    candidates = []
    if own := os.environ.get("RAY_TMPDIR"):
        with suppress(OSError):
            os.makedirs(own, mode=0o700, exist_ok=True)
        candidates.append(own)
    with suppress(OSError):
        candidates.append(tempfile.gettempdir())
    candidates += ["/tmp", "/var/tmp", "/dev/shm"]
    folders = list(dict.fromkeys(map(os.path.abspath, candidates)))
    for folder in folders:
        if len(os.fsencode(folder)) <= longest and _writable(folder):
            return folder
    raise RunError(
        f"Ray needs a writable folder whose path has at most {longest} bytes, tried "
        f"{', '.join(folders)}: set RAY_TMPDIR"
    )


def _writable(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
