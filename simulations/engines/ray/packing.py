"""Convert Flower records to values that Ray moves between processes without copying arrays.

An array's bytes become a ``PickleBuffer``: pickle protocol 5 hands it over out of band, Ray keeps
it in shared memory, and the other side sees a read-only view of that memory. Small arrays travel
inside the pickle, where a thousand of them cost less.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from hqde_fl.protocol.npy import view_array
from hqde_fl.protocol.records import plain_array

OUT_OF_BAND_BYTES = 1 << 14
"""Size from which an array is pickled out of band."""

Packed = Sequence[tuple[str, str, Any]]
"""(name, kind, items) for each record."""


def pack(content: RecordDict) -> Packed:
    """Return a content as plain tuples in which large arrays are ``PickleBuffer``s."""
    packed: list[tuple[str, str, Any]] = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            packed.append((name, "arrays", [(key, *_packed(a)) for key, a in record.items()]))
        else:
            kind = "metrics" if isinstance(record, MetricRecord) else "config"
            packed.append((name, kind, dict(record)))
    return packed


def unpack(packed: Packed) -> RecordDict:
    """Return a content from what ``pack`` has made of it; large arrays are views, not copies."""
    content = RecordDict()
    for name, kind, items in packed:
        if kind == "arrays":
            record = ArrayRecord()  # its constructor would copy every array
            for key, *array in items:
                record[key] = _unpacked(*array)
            content[name] = record
        else:
            content[name] = MetricRecord(items) if kind == "metrics" else ConfigRecord(items)
    return content


class SharedArray(Array):
    """An ``Array`` whose bytes are a view of shared memory.

    Its ``numpy`` copies them once; Flower's own reads through a file object and copies them twice.
    """

    def numpy(self) -> NDArray[Any]:
        """Return a copy of the array as a NumPy array."""
        try:
            return view_array(self).copy()
        except Exception:  # Flower reads what it can of such an array, or says what is wrong
            return super().numpy()


def _packed(array: Array) -> tuple[str, tuple[int, ...], str, Any]:
    large = len(array.data) >= OUT_OF_BAND_BYTES
    data = pickle.PickleBuffer(array.data) if large else bytes(array.data)
    return array.dtype, array.shape, array.stype, data


def _unpacked(dtype: str, shape: tuple[int, ...], stype: str, data: Any) -> Array:
    sound = type(dtype) is type(stype) is str and type(shape) is tuple
    if not sound or not all(type(size) is int for size in shape):
        Array(dtype, shape, stype, b"")  # raises Flower's error, unless the types are derived ones
    if isinstance(data, bytes):
        return plain_array(dtype, shape, stype, data)
    view: Any = memoryview(data)  # Flower reads it as it reads bytes
    return plain_array(dtype, shape, stype, view, SharedArray)
