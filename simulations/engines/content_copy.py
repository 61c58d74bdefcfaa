"""Copy the content of a message between clients and server that live in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from hqde_fl.protocol.records import plain_array
from hqde_fl.simulations.engines.flower_internals import recorddict_from_proto, recorddict_to_proto


def copied_content(content: RecordDict) -> RecordDict:
    """Return the content as Flower would deliver it; the copy shares no memory that can change.

    Records of plain values are copied by hand, because Flower's own serialisation takes longer than
    the training of a small model. All others go through it, with its errors.
    """
    copied = RecordDict()
    for name, record in content.items():
        copied[name] = (
            _COPIES[type(record)](record)
            if _is_plain(name, record)
            else recorddict_from_proto(recorddict_to_proto(RecordDict({name: record})))[name]
        )
    return copied


def _copied_arrays(record: ArrayRecord) -> ArrayRecord:
    copied = ArrayRecord()
    for key, array in record.items():
        data = bytes(array.data)  # no copy of what is bytes already
        copied[key] = plain_array(array.dtype, array.shape, array.stype, data)
    return copied


def _is_plain(name: str, record: ArrayRecord | MetricRecord | ConfigRecord) -> bool:
    """Return True if Flower would deliver a record with exactly the values that it has."""
    kind = type(record)
    if kind not in _COPIES or not name.isascii() or not all(map(str.isascii, record)):
        return False
    if isinstance(record, ArrayRecord):
        return all(map(_is_plain_array, record.values()))
    return all(_is_plain_value(value, _PLAIN[kind]) for value in record.values())


def _is_plain_value(value: Any, types: frozenset[type]) -> bool:
    """Return False for values of other types, and those that protobuf may not be able to carry."""
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 63
    return type(value) in types and (type(value) is not str or value.isascii())


def _is_plain_array(array: Array) -> bool:
    return (
        type(array.dtype) is type(array.stype) is str
        and array.dtype.isascii()
        and array.stype.isascii()
        and type(array.shape) is tuple
        and all(type(size) is int and 0 <= size < 1 << 31 for size in array.shape)
        and isinstance(array.data, bytes | bytearray | memoryview)
    )


_COPIES: Mapping[type, Callable[[Any], Any]] = {
    ArrayRecord: _copied_arrays,
    MetricRecord: MetricRecord.copy,
    ConfigRecord: ConfigRecord.copy,
}
"""The copy of each kind of record, which has no subclasses here."""

_PLAIN: Mapping[type, frozenset[type]] = {
    MetricRecord: frozenset((int, float)),
    ConfigRecord: frozenset((int, float, bool, str, bytes)),
}
"""Types of immutable values that Flower delivers as they are."""
