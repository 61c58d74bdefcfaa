"""Updates in a file that is mapped into memory, for rounds that do not fit into it.

The file has no name: the system removes it when the last view of it is gone, also after ``kill``.
A stored update is what it was before, a tensor or a received model; only its numbers lie in the
file, from which the system reads the pages that a rule looks at, and drops them as it needs memory.
So every reader of updates works on them as ever, to the same bits.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from hqde_fl.errors import RunError
from hqde_fl.updates.received_updates import ReceivedModel

IN_MEMORY = ("tmpfs", "ramfs")
"""File systems whose files take memory."""

LARGE_FOLDER = "/var/tmp"
"""Folder for large temporary files on Unix."""


@final
class UpdateFile:
    """An unnamed temporary file for the updates of a round, one after the other.

    Parameters
    ----------
    updates : int
        Number of updates that are expected, at most.
    numbers : int
        Numbers in an update.
    dtype : torch.dtype
        Their dtype.
    folder : str
        The folder whose disk the file takes; ``file_folder()`` if empty.

    Raises
    ------
    RunError
        If the file cannot be made.
    """

    def __init__(self, updates: int, numbers: int, dtype: torch.dtype, folder: str = "") -> None:
        self._updates, self._numbers, self._dtype = updates, numbers, dtype
        self._folder = folder or file_folder()
        self._stride = -(-numbers * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        self._stored, self._size = 0, max(1, updates * self._stride)
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            self._file.truncate(self._size)  # takes no space until something is written
            self._pages = mmap.mmap(self._file.fileno(), self._size)
        except OSError as error:
            raise RunError(self._failure(error)) from error

    def __str__(self) -> str:
        return f"a file in {self._folder}"

    def __call__(self, client: int, update: Tensor | ReceivedModel) -> Tensor | ReceivedModel:
        """Return a client's update after its numbers have been moved to the file.

        One that is not of the expected size and dtype, or not on the CPU, is returned as it is.

        Raises
        ------
        RunError
            If the disk is full.
        """
        if isinstance(update, ReceivedModel):
            parts: Sequence[npt.NDArray[Any]] = update.parts
            sound = self._dtype == torch.float32 and sum(map(len, parts)) == self._numbers
        else:
            sound = update.dtype == self._dtype and update.shape == (self._numbers,)
            sound &= update.device.type == "cpu"
            parts = [update.detach().contiguous().view(torch.uint8).numpy()] if sound else []
        if not sound or self._stored == self._updates or not self._numbers:
            return update
        start = self._stored * self._stride
        self._write(start, parts)
        self._stored += 1
        if isinstance(update, ReceivedModel):
            row = np.frombuffer(self._pages, np.float32, self._numbers, start)
            row.flags.writeable = False
            return ReceivedModel(tuple(np.split(row, update.starts[1:-1])), update.base)
        return torch.frombuffer(self._pages, dtype=self._dtype, count=self._numbers, offset=start)

    def _write(self, start: int, parts: Sequence[npt.NDArray[Any]]) -> None:
        """Write arrays to the file; a full disk is an error here, and a crash in a mapped page."""
        try:
            self._file.seek(start)
            for part in parts:
                left = np.ascontiguousarray(part).view(np.uint8).data
                while left.nbytes:
                    left = left[self._file.write(left) :]
        except OSError as error:
            raise RunError(self._failure(error)) from error

    def _failure(self, error: OSError) -> str:
        return (
            f"the updates of a round need {self._size / 1e9:.1f} GB in {self._folder}: "
            f"{error.strerror}; "
            "set AutoExecutor.folder (strategy.executor) to a folder of a larger disk"
        )


def file_folder() -> str:
    """Return the system's folder for temporary files, or another if that one is in memory.

    On many systems ``/tmp`` takes memory; ``/var/tmp`` does not.
    """
    folder = tempfile.gettempdir()
    if _is_in_memory(folder) and os.path.isdir(LARGE_FOLDER) and not _is_in_memory(LARGE_FOLDER):
        return LARGE_FOLDER
    return folder


def _is_in_memory(folder: str) -> bool:
    path = os.path.join(os.path.realpath(folder), "")
    disks = psutil.disk_partitions(all=True)
    above = [disk for disk in disks if path.startswith(os.path.join(disk.mountpoint, ""))]
    nearest = max(above, key=lambda disk: len(disk.mountpoint), default=None)
    return nearest is not None and nearest.fstype in IN_MEMORY
