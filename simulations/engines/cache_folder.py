"""A temporary folder for the caches of simulated clients, which is removed at the end of a run."""

from __future__ import annotations

from logging import WARNING
from typing import final

from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.engines.locked_folder import LockedFolder

PREFIX = "hqde-fl-entries-"


@final
class CacheFolder:
    """A ``LockedFolder`` for caches; if none can be made, clients have no cache."""

    def __init__(self) -> None:
        self._folder: LockedFolder | None = None
        try:
            self._folder = LockedFolder(PREFIX)
        except OSError as error:
            log(WARNING, "clients have no cache: %s", error)

    @property
    def path(self) -> str:
        """The folder; empty if none can be made."""
        return "" if self._folder is None else self._folder.path

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            self._folder.close()
