"""The size of a Flower message in bytes, in all and by role, without serialising its arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from hqde_fl.protocol.members import member_name
from hqde_fl.protocol.packed_updates import DELTA
from hqde_fl.protocol.secure_messages import MASKED
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import Role

OTHER = "other"
"""Key of all bytes that belong to no entry: configs, metrics, names, unknown arrays."""
ROLES_AND_OTHER = (*get_args(Role), OTHER)
"""The keys of ``bytes_by_role``."""

MAX_CACHED_LENGTH = 512
"""Longer names and shapes are not cached, so that clients cannot fill the memory with them."""


def message_bytes(content: Mapping[str, ArrayRecord | MetricRecord | ConfigRecord]) -> int:
    """Return the size in bytes of a message's content as Flower serialises it, without doing so.

    The content is a ``RecordDict``, or some of its records. Never raises: values that no message
    can hold, like half a character in a name, are counted too.
    """
    return sum(_field(_text(name) + _record(record)) for name, record in content.items())


def bytes_by_role(content: RecordDict, layouts: Sequence[Layout]) -> dict[str, int]:
    """Return the bytes of a message's content by the role of what they carry.

    They sum to ``message_bytes``. Payloads of codecs and masked vectors are trainable. An array
    counts with its name, shape and dtype, as they travel with it.

    Parameters
    ----------
    content : RecordDict
        The content, not trusted: arrays that are no entry of a model count as ``other``.
    layouts : Sequence[Layout]
        Layout of each member; a single model's entries carry no member's name.
    """
    sizes = dict.fromkeys(ROLES_AND_OTHER, 0)
    for key, record in content.items():
        if not isinstance(record, ArrayRecord):
            sizes[OTHER] += _field(_text(key) + _record(record))
            continue
        arrays = 0
        for name, array in record.items():
            size = _entry(name, array)
            sizes[_role(name, layouts)] += size
            arrays += size
        sizes[OTHER] += _field(_text(key) + _field(arrays)) - arrays
    return sizes


def _role(name: str, layouts: Sequence[Layout]) -> str:
    """Return the role of an array in a message, or ``OTHER`` if no model has such an entry."""
    if name == MASKED:
        return "trainable"
    if len(layouts) == 1:
        layout, own_name = layouts[0], name
    else:
        prefix, _, own_name = name.partition("/")
        named = [layout for i, layout in enumerate(layouts) if member_name(i) == prefix]
        if not named:
            return OTHER
        layout = named[0]
    if own_name == DELTA or own_name.startswith(f"{DELTA}-"):
        return "trainable"
    entry = layout.by_name.get(own_name)
    return OTHER if entry is None else entry.role


def _record(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    """Return the bytes of the protobuf field that holds a record."""
    if isinstance(record, ArrayRecord):
        return _field(sum(_entry(name, array) for name, array in record.items()))
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


def _entry(name: str, array: Array) -> int:
    """Return the bytes of the protobuf field that holds an ``Array`` and its name."""
    dtype, shape, stype = array.dtype, tuple(array.shape), array.stype
    short = len(name) + len(dtype) + len(stype) + 8 * len(shape) <= MAX_CACHED_LENGTH
    size = _entry_size if short else _entry_size.__wrapped__
    return size(name, dtype, shape, stype, len(array.data))


@lru_cache(maxsize=4096)
def _entry_size(name: str, dtype: str, shape: tuple[int, ...], stype: str, data: int) -> int:
    names = _text(dtype) + _text(stype)
    sizes = _field(sum(map(_varint, shape))) if shape else 0
    return _field(_text(name) + _field(names + sizes + (_field(data) if data else 0)))


def _varint(number: int) -> int:
    """Return the bytes of an integer as a protobuf varint: 10 for any negative one."""
    return 10 if number < 0 else max(1, -(-number.bit_length() // 7))


def _field(length: int) -> int:
    """Return the bytes of a protobuf field, numbered below 16, with ``length`` bytes of content."""
    return 1 + _varint(length) + length
