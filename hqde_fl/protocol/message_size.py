"""The size of a Flower message in bytes, counted without serialising its arrays."""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict


def message_bytes(content: RecordDict) -> int:
    """Return the size in bytes of a message's content as Flower serialises it, without doing so.

    Never raises: values that no message can hold, like half a character in a name, are counted too.
    """
    return sum(_field(_text(name) + _record(record)) for name, record in content.items())


def _record(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    """Return the bytes of the protobuf field that holds a record."""
    if isinstance(record, ArrayRecord):
        return _field(sum(_field(_text(key) + _array(array)) for key, array in record.items()))
    return _field(sum(_field(_text(key) + _field(_value(value))) for key, value in record.items()))


def _value(value: Any) -> int:
    """Return the bytes of the protobuf field that holds a metric's or a config's value."""
    if not isinstance(value, list):
        return _single(value)
    if value and isinstance(value[0], str | bytes):
        return 1 + _field(sum(_single(item) for item in value))
    unsigned = any(isinstance(item, int) and item >= 1 << 63 for item in value)
    numbers = sum(_varint(item) if unsigned else _single(item) - 1 for item in value)
    return 1 + _field(_field(numbers) if value else 0)


def _single(value: Any) -> int:
    """Return the bytes of a protobuf field that holds one number, text or bytes."""
    if isinstance(value, float):
        return 9
    if isinstance(value, int):
        return 1 + _varint(value if value >= 1 << 63 else 2 * value if value >= 0 else ~(2 * value))
    return _field(len(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value))


def _text(text: str) -> int:
    """Return the bytes of a protobuf text field: 0 if empty, as protobuf then leaves it out."""
    return _field(len(text.encode("utf-8", "surrogatepass"))) if text else 0


def _array(array: Array) -> int:
    """Return the bytes of the protobuf field that holds an ``Array``, its data included."""
    shape = sum(_varint(size) for size in array.shape)
    names = _text(array.dtype) + _text(array.stype)
    data = _field(len(array.data)) if array.data else 0
    return _field(names + (_field(shape) if array.shape else 0) + data)


def _varint(number: int) -> int:
    """Return the bytes of an integer as a protobuf varint: 10 for any negative one."""
    return 10 if number < 0 else max(1, -(-number.bit_length() // 7))


def _field(length: int) -> int:
    """Return the bytes of a protobuf field, numbered below 16, with ``length`` bytes of content."""
    return 1 + _varint(length) + length
