"""Flower records as something Ray moves between processes without copying the numbers.

An array's bytes become a ``PickleBuffer``: pickle protocol 5 hands it over out of band, Ray keeps
it in shared memory, and the other side sees a read-only view of that memory. Small arrays travel
inside the pickle, where a thousand of them cost less.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.lib import format as npy
from numpy.typing import NDArray

HEADER_BYTES = 1 << 12
"""Within so many bytes lies the header of any .npy file that Flower writes."""
OUT_OF_BAND_BYTES = 1 << 14
"""Arrays of at least this size travel out of band."""

Packed = Sequence[tuple[str, str, Any]]
"""(name, kind, items) for each record."""


def pack(content: RecordDict) -> Packed:
    """Plain tuples, with the large arrays' bytes out of band."""
    packed: list[tuple[str, str, Any]] = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            packed.append((name, "arrays", [(key, *_packed(a)) for key, a in record.items()]))
        else:
            kind = "metrics" if isinstance(record, MetricRecord) else "config"
            packed.append((name, kind, dict(record)))
    return packed


def unpack(packed: Packed) -> RecordDict:
    """New records; the large arrays' bytes are read-only views of what was packed."""
    content = RecordDict()
    for name, kind, items in packed:
        if kind == "arrays":
            record = ArrayRecord()  # filled by hand: its constructor would copy every array
            for key, *array in items:
                record[key] = _unpacked(*array)
            content[name] = record
        else:
            content[name] = MetricRecord(items) if kind == "metrics" else ConfigRecord(items)
    return content


class SharedArray(Array):
    """An ``Array`` whose bytes are a view of shared memory; ``numpy`` copies them once.

    Flower's own ``numpy`` reads through a file object, which copies a view once more on the way.
    """

    def numpy(self) -> NDArray[Any]:
        """The numbers, in memory of their own."""
        head = BytesIO(bytes(self.data[:HEADER_BYTES]))
        if self.stype != "numpy.ndarray" or npy.read_magic(head) != (1, 0):
            return super().numpy()
        shape, fortran, dtype = npy.read_array_header_1_0(head)
        if dtype.hasobject:
            return super().numpy()
        flat = np.frombuffer(self.data, dtype, offset=head.tell())
        return flat.reshape(shape, order="F" if fortran else "C").copy()


def _packed(array: Array) -> tuple[str, tuple[int, ...], str, Any]:
    large = len(array.data) >= OUT_OF_BAND_BYTES
    data = pickle.PickleBuffer(array.data) if large else bytes(array.data)
    return array.dtype, array.shape, array.stype, data


def _unpacked(dtype: str, shape: tuple[int, ...], stype: str, data: Any) -> Array:
    if isinstance(data, bytes):
        return Array(dtype, shape, stype, data)
    array = SharedArray(dtype, shape, stype, b"")
    array.data = memoryview(data)  # type: ignore[assignment]  # Flower reads it as it reads bytes
    return array
