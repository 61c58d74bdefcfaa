"""Estimate what bytes will weigh as Python objects, before they are parsed.

A parser allocates as it reads, so a limit on what it returns comes too late: 5 MB of ``{}, {}, ..``
are 100 MB of dictionaries. The estimates here are upper bounds for CPython 3.11 and protobuf's upb,
taken from measurements, which tests/simulations/engines/test_weighing.py repeats; making them takes
next to no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_JSON = {b"}": 240, b"]": 96, b",": 48, b":": 150, b'"': 30}
"""Bytes for each such character: every value, key and finished container needs some of them."""
_JSON_UNFINISHED = 512
"""Bytes for each container that is not finished: there are as many as Python's recursion allows."""
_JSON_ASCII, _JSON_OTHER = 3, 9
"""Bytes for each byte of JSON: the text and its strings, in one or in four bytes a character."""

_MESSAGE, _TEXT, _SCALAR = 700, 200, 100
"""Bytes for each message, string and number inside a message, its way back to bytes included."""
_ASCII, _OTHER = 7, 10
"""Bytes for each byte of a string or of bytes."""
_VARINT, _FIXED = 88, 80
"""Bytes for each number in a packed list."""

_VARINT_WIRE, _FIXED64, _LENGTH, _START, _END, _FIXED32 = range(6)
_STRING, _BYTES = 9, 12
"""Types of fields, as protobuf numbers them."""
_FIXED_WIDTH = {1: 8, 6: 8, 16: 8, 2: 4, 7: 4, 15: 4}
"""Type of a field -> bytes of each number of it, where all have as many."""
_CONTINUED = bytes(range(128, 256))
"""All bytes of a varint but its last."""


def json_weight(text: bytes) -> int:
    """Return an upper bound of the bytes that JSON takes while and after it is parsed."""
    plain = text.isascii() and b"\\u" not in text
    letters = len(text) * (_JSON_ASCII if plain else _JSON_OTHER)
    return (
        _JSON_UNFINISHED
        + letters
        + sum(weight * text.count(mark) for mark, weight in _JSON.items())
    )


def message_weight(data: bytes, kind: Any, most: int) -> int:
    """Return an upper bound of the bytes that a protobuf message takes as Python objects.

    Parameters
    ----------
    data : bytes
        The serialised message; malformed data is weighed up to where a parser would give up.
    kind : google.protobuf.descriptor.Descriptor
        The type of the message.
    most : int
        Counting stops beyond this.
    """
    weight = _MESSAGE
    waiting = [(0, len(data), kind)]
    while waiting and weight <= most:
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
            if weight > most:
                break
    return weight


def fields(
    data: bytes, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, start and end of each field of a protobuf message.

    Ends early where the data is malformed.
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
    """Return a varint and where it ends: beyond ``end`` if it is malformed."""
    value = 0
    for place, byte in enumerate(data[start : min(end, start + 10)]):
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, start + place + 1
    return value, end + 1


def _value_weight(part: bytes, field: Any) -> int:
    """Return the weight of a string, of bytes, or of a packed list of numbers."""
    if field.type in (_STRING, _BYTES):
        return _TEXT + len(part) * (_ASCII if _narrow(part, field) else _OTHER)
    if width := _FIXED_WIDTH.get(field.type):
        return _SCALAR + _FIXED * (len(part) // width)
    return _SCALAR + _VARINT * len(part.translate(None, _CONTINUED))


def _narrow(part: bytes, field: Any) -> bool:
    """Return whether a value takes one byte a character."""
    return field.type == _BYTES or part.isascii()
