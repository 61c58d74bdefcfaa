"""Estimate the memory that JSON and protobuf messages take once parsed, before they are parsed.

A parser allocates while it reads, so a limit on its result comes too late: 5 MB of ``{}, {}, ..``
become 100 MB of dictionaries. The estimates are upper bounds for CPython 3.11 and protobuf's upb.
They come from measurements that ``test_memory_estimate.py`` repeats, and take hardly any memory
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_JSON = {b"}": 240, b"]": 96, b",": 48, b":": 150, b'"': 30}
"""Bytes of memory for each such character; every value, key and closed container needs one."""
_JSON_UNFINISHED = 512
"""Bytes of memory for containers that are never closed; Python's recursion limit bounds them."""
_JSON_ASCII, _JSON_OTHER = 3, 9
"""Bytes of memory for each byte of JSON text and strings: one or four bytes a character."""

_MESSAGE, _TEXT, _SCALAR = 700, 200, 100
"""Bytes of memory for each message, string and number in a message, including serialising it."""
_ASCII, _OTHER = 7, 10
"""Bytes of memory for each byte of a string or of bytes."""
_VARINT, _FIXED = 88, 80
"""Bytes of memory for each number in a packed list."""

_VARINT_WIRE, _FIXED64, _LENGTH, _START, _END, _FIXED32 = range(6)
_STRING, _BYTES = 9, 12
"""Field types, as numbered by protobuf."""
_FIXED_WIDTH = {1: 8, 6: 8, 16: 8, 2: 4, 7: 4, 15: 4}
"""Field type -> bytes of each number, for types with numbers of a fixed size."""
_CONTINUED = bytes(range(128, 256))
"""The values of all bytes of a varint except its last."""


def json_weight(text: bytes) -> int:
    """Return an upper bound of the bytes of memory that JSON takes during and after parsing."""
    plain = text.isascii() and b"\\u" not in text
    letters = len(text) * (_JSON_ASCII if plain else _JSON_OTHER)
    return (
        _JSON_UNFINISHED
        + letters
        + sum(weight * text.count(mark) for mark, weight in _JSON.items())
    )


def message_weight(data: bytes, kind: Any, limit: int) -> int:
    """Return an upper bound of the bytes of memory that a protobuf message takes once parsed.

    Parameters
    ----------
    data : bytes
        The serialised message; malformed data counts up to the place where a parser stops.
    kind : google.protobuf.descriptor.Descriptor
        The type of the message.
    limit : int
        Value above which counting stops; the result is then any number above it.
    """
    weight = _MESSAGE
    waiting = [(0, len(data), kind)]
    while waiting and weight <= limit:
        start, end, kind = waiting.pop()
        for number, wire, begin, stop in fields(data, start, end):
            field = kind.fields_by_number.get(number)
            if wire != _LENGTH:
                weight += _SCALAR
            elif field is None:
                weight += _TEXT + _ASCII * (stop - begin)
            elif field.message_type is not None:
                weight += _MESSAGE
                waiting.append((begin, stop, field.message_type))
            else:
                weight += _value_weight(data[begin:stop], field)
            if weight > limit:
                break
    return weight


def fields(
    data: bytes, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, wire type, start, end) of each field of the message in ``data[start:end]``.

    Start and end are those of the field's value. The iterator ends at the first malformed field.
    """
    end = len(data) if end is None else end
    while start < end:
        tag, start = _varint(data, start, end)
        wire = tag & 7
        stop = start
        if wire == _VARINT_WIRE:
            _, stop = _varint(data, start, end)
        elif wire == _LENGTH:
            length, start = _varint(data, start, end)
            stop = start + length
        elif wire in (_FIXED64, _FIXED32):
            stop = start + (8 if wire == _FIXED64 else 4)
        elif wire not in (_START, _END):
            return
        if stop > end:
            return
        yield tag >> 3, wire, start, stop
        start = stop


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the varint that begins at ``start`` and the index after it.

    The index is ``end + 1`` if the varint is malformed.
    """
    value = 0
    for place, byte in enumerate(data[start : min(end, start + 10)]):
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, start + place + 1
    return value, end + 1


def _value_weight(part: bytes, field: Any) -> int:
    """Return an upper bound of the bytes of memory that the value of a field takes once parsed.

    The value is a string, bytes, or a packed list of numbers.
    """
    if field.type in (_STRING, _BYTES):
        return _TEXT + len(part) * (_ASCII if _is_one_byte_text(part, field) else _OTHER)
    if width := _FIXED_WIDTH.get(field.type):
        return _SCALAR + _FIXED * (len(part) // width)
    return _SCALAR + _VARINT * len(part.translate(None, _CONTINUED))


def _is_one_byte_text(part: bytes, field: Any) -> bool:
    """Return True if a value takes one byte a character in Python: bytes, and ASCII strings."""
    return field.type == _BYTES or part.isascii()
