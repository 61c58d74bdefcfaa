"""The replies of several clients in one block of memory, and messages that are views of it.

A worker that trains a cohort with this project's own client returns one block: a row of bytes for
each client with the entries of its model, and its metrics as columns. Strategies, grids and user
code see ordinary messages, whose records are made when somebody looks at them. Blocks exist only
within a simulation: what comes over a network is always an ordinary message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from hqde_fl.protocol.npy import NUMPY, ViewArray, view_array
from hqde_fl.protocol.records import plain_array

METRICS = "metrics"
"""Name of the ``MetricRecord`` of a reply in a block."""

ALIGNMENT = 64
"""Bytes to multiples of which entries are placed, as torch allocates them: results of products may
differ in their last bits with the alignment of their factors."""


@final
@dataclass(frozen=True)
class BlockEntry:
    """An entry of a model in the rows of a block.

    Parameters
    ----------
    name : str
        The entry's name in the ``ArrayRecord``.
    shape : tuple[int, ...]
        Its shape.
    dtype : str
        The name of its dtype, in this machine's byte order.
    offset : int
        The place of its first byte in a row.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        """The number of its bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@final
@dataclass(frozen=True)
class BlockLayout:
    """The places of a model's entries in a row.

    Parameters
    ----------
    record : str
        The name of the ``ArrayRecord``.
    entries : tuple[BlockEntry, ...]
        The entries in the model's order.
    """

    record: str
    entries: tuple[BlockEntry, ...]

    @classmethod
    def of(cls, name: str, record: Mapping[str, Array]) -> BlockLayout | None:
        """Return the layout of a trusted record's model.

        None if an array is empty, or not in .npy form, C order and this machine's byte order.
        """
        entries, offset = [], 0
        for key, array in record.items():
            if array.stype != NUMPY:
                return None
            values = view_array(array)
            if not (values.size and values.flags.c_contiguous and values.dtype.isnative):
                return None
            entry = BlockEntry(key, tuple(array.shape), values.dtype.name, offset)
            entries.append(entry)
            offset += -(-entry.nbytes // ALIGNMENT) * ALIGNMENT
        return cls(name, tuple(entries)) if entries else None

    @cached_property
    def stride(self) -> int:
        """The number of bytes of a row."""
        last = self.entries[-1]
        return last.offset + -(-last.nbytes // ALIGNMENT) * ALIGNMENT

    def row(self, record: Mapping[str, Array]) -> npt.NDArray[np.uint8]:
        """Return a row with the values of a record of this layout."""
        row = np.zeros(self.stride, dtype=np.uint8)
        for entry in self.entries:
            values = view_array(record[entry.name])
            row[entry.offset : entry.offset + entry.nbytes].view(entry.dtype)[:] = values.reshape(
                -1
            )
        return row


def has_finite_square(row: npt.NDArray[np.uint8]) -> bool:
    """Return True if the sum of the squares of a row's numbers is finite, read as float32.

    That proves every float32 in it finite, and small enough for any difference.
    """
    numbers = row.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(numbers, numbers)))


def aligned_rows(rows: int, stride: int) -> npt.NDArray[np.uint8]:
    """Return memory for rows of some bytes, which begins at a multiple of ``ALIGNMENT``."""
    memory = np.empty(rows * stride + ALIGNMENT, dtype=np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + rows * stride].reshape(rows, stride)


@final
@dataclass(frozen=True, eq=False)
class ReplyBlock:
    """The models and metrics of several clients.

    Parameters
    ----------
    layout : BlockLayout
        The places of the entries in a row.
    numbers : NDArray
        (clients, stride) bytes; never written to once the block is made.
    metrics : Mapping[str, Sequence[int or float]]
        A column for each metric.
    finite : Sequence[bool]
        For each client True if the sum of the squares of its row is finite, read as float32; empty
        if nobody has looked. Whoever trains a client has its row in the processor's cache.
    """

    layout: BlockLayout
    numbers: npt.NDArray[np.uint8]
    metrics: Mapping[str, Sequence[int | float]]
    finite: Sequence[bool] = ()

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.numbers)

    def values(self, row: int, entry: BlockEntry) -> npt.NDArray[Any]:
        """Return an entry of a client as a view."""
        part = self.numbers[row, entry.offset : entry.offset + entry.nbytes]
        return part.view(entry.dtype).reshape(entry.shape)

    def metrics_of(self, row: int) -> dict[str, int | float]:
        """Return the metrics of a client."""
        return {name: column[row] for name, column in self.metrics.items()}

    def arrays(self, row: int) -> ArrayRecord:
        """Return the model of a client as Flower's record, whose arrays are views of its row."""
        record = ArrayRecord()
        for entry in self.layout.entries:
            values = self.values(row, entry)
            values.flags.writeable = False
            array = plain_array(entry.dtype, entry.shape, NUMPY, b"", ViewArray)
            array.__dict__["values"] = values
            record[entry.name] = array
        return record

    def content(self, row: int) -> RecordDict:
        """Return the reply of a client as Flower's records."""
        metrics = MetricRecord({**self.metrics_of(row)})
        return RecordDict({self.layout.record: self.arrays(row), METRICS: metrics})


@final
@dataclass(frozen=True, eq=False)
class BlockRow:
    """One client's reply in a block."""

    block: ReplyBlock
    row: int


class RowMessage(Message):
    """A reply whose content is made of a row of a block when somebody looks at it.

    Parameters
    ----------
    row : BlockRow
        The row.
    reply_to : Message
        The message that it answers.
    """

    def __init__(self, row: BlockRow, reply_to: Message) -> None:
        super().__init__(_PLACEHOLDER, reply_to=reply_to)
        self.__dict__["_row"] = row

    @property
    def row(self) -> BlockRow | None:
        """The row; None once the content was looked at, and so may have been changed."""
        return self.__dict__["_row"]  # type: ignore[no-any-return]

    @property
    def content(self) -> RecordDict:
        """The content of the message."""
        if (row := self.row) is not None:
            self.content = row.block.content(row.row)
        return self.__dict__["_content"]  # type: ignore[no-any-return]

    @content.setter
    def content(self, value: RecordDict) -> None:
        self.__dict__.update(_row=None, _content=value)


_PLACEHOLDER = RecordDict()
"""Stands for a content that has not been made."""


def untouched_row(message: Message) -> BlockRow | None:
    """Return the row that a message's content would be made of; None if it is another message."""
    return message.row if type(message) is RowMessage else None
