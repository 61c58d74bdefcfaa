"""The partitions that a process has loaded for the clients that it simulates."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, final

import psutil
from torch.utils.data import Dataset

MIN_KEPT_PARTITIONS = 256
"""Partitions that are kept whatever the memory."""
MIN_FREE_MEMORY = 0.25
"""Part of the machine's memory that is to stay free for more of them to be kept."""


@final
class PartitionCache:
    """Keeps the data sets of clients for as many of them as the memory allows.

    If it is short, the newest ones beyond the first ``MIN_KEPT_PARTITIONS`` are dropped: of clients
    that come round again and again, most are then found. The oldest ones would never be.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Dataset[Any]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, load: Callable[[], Dataset[Any]]) -> Dataset[Any]:
        """Return the data set that is kept for a key; load it if there is none."""
        if key not in self._kept:
            data = load()
            if len(self._kept) >= MIN_KEPT_PARTITIONS and _is_memory_short():
                while len(self._kept) >= MIN_KEPT_PARTITIONS:
                    self._kept.popitem()
            self._kept[key] = data
        return self._kept[key]


def _is_memory_short() -> bool:
    """Return True if less than ``MIN_FREE_MEMORY`` of the machine's memory is free."""
    from hqde_fl.distributed.auto_executor import free_memory  # slow to import, seldom needed

    return free_memory() < MIN_FREE_MEMORY * psutil.virtual_memory().total
