"""The actor that holds all versions of a weight store; ``weight_coordinator`` says how many do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from hqde_fl.distributed.weight_versions import Index, StoreSettings, SupersededError, Version


class Replica:
    """An actor that holds all versions of a store.

    Parameters
    ----------
    settings : StoreSettings
        The store's settings, which it tells others.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._epoch = 0
        self._filled = False
        self._index: Index = {}
        self._values: dict[tuple[str, int], Any] = {}
        self._reads: dict[tuple[str, int], int] = {}
        self._last_read: dict[tuple[str, int], float] = {}

    def settings(self) -> StoreSettings:
        """Return the store's settings."""
        return self._settings

    def fence(self, epoch: int | None) -> tuple[int, bool, Index]:
        """Return the epoch, whether it is filled, and the index.

        Parameters
        ----------
        epoch : int or None
            The caller's epoch, which ends those before it; None to ask only.
        """
        if epoch is not None:
            self._require(epoch)
        return self._epoch, self._filled, self._index

    def check(self, epoch: int) -> bool:
        """Return whether it is filled; raise ``SupersededError`` for an epoch that has ended."""
        self._require(epoch)
        return self._filled

    def fill(self, epoch: int, versions: Sequence[Version], values: Sequence[Any]) -> None:
        """Add versions; from then on it answers.

        Parameters
        ----------
        epoch : int
            The coordinator's epoch.
        versions : Sequence[Version]
            Those that it lacks.
        values : Sequence[ObjectRef]
            References to their bytes.
        """
        self._require(epoch)
        for version, value in zip(versions, values, strict=True):
            self._add(version, ray.get(value))
        self._filled = True

    def write(self, epoch: int, version: Version, value: Any) -> bool:
        """Add a version with its bytes; return False if it has not been filled."""
        self._require(epoch)
        if self._filled:
            self._add(version, value)
        return self._filled

    def evict(self, epoch: int, versions: Sequence[Version]) -> None:
        """Remove versions."""
        self._require(epoch)
        for version in versions:
            place = version.key, version.version
            self._index.get(version.key, {}).pop(version.version, None)
            for held in (self._values, self._reads, self._last_read):
                held.pop(place, None)

    def look_up(
        self, key: str, version: int | None, *, count: bool = True
    ) -> tuple[bool, Version | None, list[Any]]:
        """Return whether it is filled, a version's description, and a reference to its bytes.

        The description is None, and the list of references empty, if it has no such version.

        Parameters
        ----------
        key : str
            The key.
        version : int or None
            The version; None for the latest.
        count : bool
            True to count a read.
        """
        versions = self._index.get(key, {})
        found = versions.get(max(versions, default=0) if version is None else version)
        if found is None or not self._filled:
            return self._filled, None, []
        place = key, found.version
        if count:
            self._reads[place] = self._reads.get(place, 0) + 1
            self._last_read[place] = time.time()
        return True, found, [self._values[place]]

    def values(self, versions: Sequence[Version]) -> list[Any]:
        """Return references to the bytes of versions."""
        return [self._values[version.key, version.version] for version in versions]

    def accesses(self) -> dict[tuple[str, int], tuple[int, float]]:
        """Return (key, version) -> the number of reads and the time of the last one."""
        return {place: (n, self._last_read[place]) for place, n in self._reads.items()}

    def adopt_accesses(self, accesses: Mapping[tuple[str, int], tuple[int, float]]) -> None:
        """Take over another replica's numbers of reads, where they are higher."""
        for place, (reads, last) in accesses.items():
            self._reads[place] = max(reads, self._reads.get(place, 0))
            self._last_read[place] = max(last, self._last_read.get(place, 0.0))

    def _add(self, version: Version, value: Any) -> None:
        """Hold a version in an object of this replica's own."""
        if self._index.setdefault(version.key, {}).get(version.version) != version:
            self._values[version.key, version.version] = ray.put(value)
            self._index[version.key][version.version] = version

    def _require(self, epoch: int) -> None:
        """Raise ``SupersededError`` if a later coordinator has taken over."""
        if epoch < self._epoch:
            raise SupersededError(f"epoch {epoch} has ended: it is {self._epoch}")
        self._epoch = epoch
