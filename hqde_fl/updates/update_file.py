"""Updates in a file that is mapped into memory, for rounds that do not fit into it.

The file has no name: the system removes it when the last view of it is gone, also after ``kill``.
A stored update can be read like any other, to the same bits; its numbers lie in the file, of which
the system keeps in memory what it has room for. Rules read tiles of all updates: these are cut from
blocks that are read one after the other, each update's part of a block at once, because pages that
are read as they are touched make many small reads, or large ones of which little is used.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, final

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from hqde_fl.errors import RunError
from hqde_fl.updates import Columns, Updates
from hqde_fl.updates.received_updates import ReceivedModel, StoredUpdate

IN_MEMORY = ("tmpfs", "ramfs")
"""File systems whose files take memory."""

LARGE_FOLDER = "/var/tmp"
"""Folder for large temporary files on Unix."""


BLOCK_BYTES = 1 << 26
"""Bytes of a block of columns of all updates; a few are in memory."""

BLOCKS_KEPT = 3
"""Blocks in memory: threads read neighbouring tiles."""


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
        self._updates, self.numbers, self.dtype = updates, numbers, dtype
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

    def __call__(
        self, client: int, update: Tensor | ReceivedModel
    ) -> Tensor | ReceivedModel | StoredUpdate:
        """Return a client's update after its numbers have been moved to the file.

        One that is not of the expected size and dtype, or not on the CPU, is returned as it is.

        Raises
        ------
        RunError
            If the disk is full.
        """
        if isinstance(update, ReceivedModel):
            parts: Sequence[npt.NDArray[Any]] = update.parts
            sound = self.dtype == torch.float32 and sum(map(len, parts)) == self.numbers
        else:
            sound = update.dtype == self.dtype and update.shape == (self.numbers,)
            sound &= update.device.type == "cpu"
            parts = [update.detach().contiguous().view(torch.uint8).numpy()] if sound else []
        if not sound or self._stored == self._updates or not self.numbers:
            return update
        row = self._stored
        self._write(row * self._stride, parts)
        self._stored += 1
        if not isinstance(update, ReceivedModel):
            return FileDelta(self, row)
        numbers = np.frombuffer(self._pages, np.float32, self.numbers, row * self._stride)
        numbers.flags.writeable = False
        views = tuple(np.split(numbers, update.starts[1:-1]))
        return FileModel(views, update.base, file=self, row=row)

    def mapped(self, row: int) -> Tensor:
        """Return an update (d,) as a view of the file."""
        start = row * self._stride
        return torch.frombuffer(self._pages, dtype=self.dtype, count=self.numbers, offset=start)

    def read(self, row: int, start: int, out: npt.NDArray[Any]) -> None:
        """Read the numbers of an update from ``start`` on into an array.

        Raises
        ------
        RunError
            If they cannot be read.
        """
        left, place = out.view(np.uint8).data, row * self._stride + start * self.dtype.itemsize
        while left.nbytes:
            try:
                count = os.preadv(self._file.fileno(), [left], place)
            except OSError as error:
                raise RunError(self._failure(error)) from error
            left, place = left[count:], place + count

    def announce(self, row: int, start: int, stop: int) -> None:
        """Let the system begin to read some numbers of an update."""
        size = self.dtype.itemsize
        if hasattr(os, "posix_fadvise") and start < (stop := min(stop, self.numbers)):
            offset, length = row * self._stride + start * size, (stop - start) * size
            os.posix_fadvise(self._file.fileno(), offset, length, os.POSIX_FADV_WILLNEED)

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


@final
@dataclass(frozen=True, eq=False)
class FileModel(ReceivedModel):
    """A received model whose numbers lie in a file.

    Parameters
    ----------
    file : UpdateFile
        The file.
    row : int
        Its place among the updates there.
    """

    file: UpdateFile | None = None
    row: int = 0

    def columns(self, rows: Sequence[Any]) -> Columns | None:
        """Return updates as columns if all lie in this file and have this base; else None."""
        return file_columns(self.file, rows, self.base)


@final
@dataclass(frozen=True, eq=False)
class FileDelta(StoredUpdate):
    """An update that lies in a file.

    Parameters
    ----------
    file : UpdateFile
        The file.
    row : int
        Its place among the updates there.
    """

    file: UpdateFile
    row: int

    def delta(self) -> Tensor:
        """Return the update (d,) as a view of the file."""
        return self.file.mapped(self.row)

    def columns(self, rows: Sequence[Any]) -> Columns:
        """Return updates as columns."""
        bases = [row.base for row in rows if isinstance(row, FileModel)]
        columns = file_columns(self.file, rows, bases[0] if bases else None)
        return Updates([row.delta() for row in rows]) if columns is None else columns


def file_columns(
    file: UpdateFile | None, rows: Sequence[Any], base: Tensor | None
) -> Columns | None:
    """Return updates as columns that are read from a file; None if they are not all there.

    Parameters
    ----------
    file : UpdateFile or None
        The file.
    rows : Sequence
        The updates.
    base : Tensor or None
        (d,) the base of those that are models.
    """
    for row in rows:
        if not isinstance(row, FileModel | FileDelta) or row.file is not file:
            return None
        if isinstance(row, FileModel) and row.base is not base:
            return None
    if file is None or file.dtype not in (torch.float32, torch.float64):
        return None
    is_model = [isinstance(row, FileModel) for row in rows]
    return FileColumns(file, [row.row for row in rows], is_model, base)


@final
@dataclass(frozen=True, eq=False)
class FileColumns:
    """``Columns`` of updates in a file, which are read block by block.

    Parameters
    ----------
    file : UpdateFile
        The file.
    rows : Sequence[int]
        Places of the updates in it.
    is_model : Sequence[bool]
        True for those that are models, from which the base is subtracted.
    base : Tensor or None
        (d,) the base.
    """

    file: UpdateFile
    rows: Sequence[int]
    is_model: Sequence[bool]
    base: Tensor | None
    _blocks: dict[int, npt.NDArray[Any]] = field(default_factory=dict, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, (n, d)."""
        return len(self.rows), self.file.numbers

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tiles."""
        return self.file.dtype

    @property
    def device(self) -> torch.device:
        """The device of the tiles: the CPU."""
        return torch.device("cpu")

    def tile(self, start: int, stop: int) -> Tensor:
        """Return columns ``start:stop`` of all updates, of models minus their base, as a copy."""
        width = self._width
        tile = np.empty((len(self.rows), stop - start), dtype=_numpy_dtype(self.dtype))
        place = start
        while place < stop:
            first = place // width * width
            end = min(stop, first + width)
            tile[:, place - start : end - start] = self._block(first)[
                :, place - first : end - first
            ]
            place = end
        if self.base is not None:
            base = self.base[start:stop].numpy()
            if all(self.is_model):
                np.subtract(tile, base, out=tile)
            else:
                tile[np.flatnonzero(self.is_model)] -= base
        return torch.from_numpy(tile)

    def select(self, rows: Sequence[int]) -> FileColumns:
        """Return the given rows; nothing is copied."""
        chosen = [self.rows[i] for i in rows], [self.is_model[i] for i in rows]
        return FileColumns(self.file, *chosen, self.base)

    @property
    def _width(self) -> int:
        """Columns of a block."""
        bytes_of_column = max(1, len(self.rows)) * self.dtype.itemsize
        return max(1024, BLOCK_BYTES // bytes_of_column // 1024 * 1024)

    def _block(self, first: int) -> npt.NDArray[Any]:
        """Return the block that begins at a column."""
        with self._lock:
            if first not in self._blocks:
                stop = min(first + self._width, self.file.numbers)
                block = np.empty((len(self.rows), stop - first), dtype=_numpy_dtype(self.dtype))
                for line, row in zip(block, self.rows, strict=True):
                    self.file.read(row, first, line)
                for row in self.rows:  # while this block is worked on
                    self.file.announce(row, stop, stop + self._width)
                while len(self._blocks) >= BLOCKS_KEPT:
                    del self._blocks[min(self._blocks)]
                self._blocks[first] = block
            return self._blocks[first]


def _numpy_dtype(dtype: torch.dtype) -> npt.DTypeLike:
    return np.float64 if dtype == torch.float64 else np.float32


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
