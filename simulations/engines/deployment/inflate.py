"""Read the content of a reply from the objects that a SuperNode uploaded, without trusting them.

Flower sends a message as a tree of objects: message, records, arrays, chunks of arrays. Each object
has a head (its type, its children's ids, its length) and a body. Flower's own reader believes the
heads and bodies. But an array that lists one chunk two hundred times turns five megabytes into a
gigabyte, and five megabytes of JSON become a hundred megabytes of dictionaries.

So this reader knows which types may be below which, and checks sizes before it parses, in two ways.
``Limits`` bound the size of the upload; they follow from the size of the server's own message. And
the memory that parsing will take is estimated first and may not exceed a few times the upload.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from hqde_fl.simulations.engines.deployment.limits import (
    CHUNK_BYTES,
    ID_LENGTH,
    MESSAGE_BYTES,
    Limits,
    ReplyError,
)
from hqde_fl.simulations.engines.deployment.memory_estimate import json_weight, message_weight
from hqde_fl.simulations.engines.flower_internals import (
    HEAD_BODY_DIVIDER,
    ArrayChunk,
    InflatableObject,
    ProtoConfigRecord,
    ProtoMessage,
    ProtoMetricRecord,
    error_from_proto,
)

MAX_REASON_LENGTH = 4096
"""Number of characters of an error's reason that are kept, counted from its end."""

_ARRAY_BYTES, _CHUNK_ENTRY = 1 << 17, 16  # of JSON that describes an array, and for each chunk
_DIMENSIONS = 64  # as many as NumPy has
_MEMORY_FLOOR, _MEMORY_FACTOR = 8 << 20, 3
_ARRAY_WEIGHT, _DIMENSION_WEIGHT, _LETTER_WEIGHT = 600, 40, 4

_BELOW: dict[type[InflatableObject], tuple[type[InflatableObject], ...]] = {
    Message: (RecordDict,),
    RecordDict: (ArrayRecord, ConfigRecord, MetricRecord),
    ArrayRecord: (Array,),
    Array: (ArrayChunk,),
    ArrayChunk: (),
    ConfigRecord: (),
    MetricRecord: (),
}
_PROTO = {
    ConfigRecord: ProtoConfigRecord.DESCRIPTOR,
    MetricRecord: ProtoMetricRecord.DESCRIPTOR,
    Message: ProtoMessage.DESCRIPTOR,
}


def inflate(root: str, objects: Mapping[str, bytes], limits: Limits) -> RecordDict | Error:
    """Read a reply from its objects.

    Parameters
    ----------
    root : str
        The id of the message's object.
    objects : Mapping of str to bytes
        Every object of the reply by its id.
    limits : Limits
        Limits on its size.

    Returns
    -------
    RecordDict or Error
        The content of the reply, or the error that it reports.

    Raises
    ------
    ReplyError
        If the reply is malformed or too large.
    """
    try:
        return _ReplyReader(objects, limits).message(root)
    except ReplyError:
        raise
    except RecursionError:
        raise ReplyError("malformed reply: nested too deeply") from None
    except Exception as error:  # any failure concerns only the reply of this client
        reason = f"malformed reply ({type(error).__name__}: {str(error)[:120]})"
        raise ReplyError(reason) from None


def unlisted_children(objects: Mapping[str, bytes]) -> list[str]:
    """Return the ids of children that the heads of objects name and that are not among them.

    A SuperLink that keeps its objects in memory lists the parts of an object as the first node
    that declared it did. If that node left some out, they are missing in the list of every other
    reply with the same object, although they have been uploaded.

    A malformed head names none here: ``inflate`` raises for it, and says what is wrong.
    """
    missing: dict[str, None] = {}
    for content in objects.values():
        with suppress(ReplyError):
            first, last, _ = _head(content)
            children = _ids(content, first + 1, last, "object")
            missing |= dict.fromkeys(child for child in children if child not in objects)
    return list(missing)


@dataclass(frozen=True)
class _Opened:
    """An object whose head has been checked; ``body`` is a view of its content from ``start``."""

    kind: type[InflatableObject]
    children: list[str]
    content: bytes
    start: int

    @property
    def body(self) -> memoryview:
        return memoryview(self.content)[self.start :]


class _ReplyReader:
    """Reads objects from the root down; an object with several parents is read once."""

    def __init__(self, objects: Mapping[str, bytes], limits: Limits) -> None:
        self._objects, self._limits = objects, limits
        self._max_text = limits.text_bytes
        self._done: dict[str, InflatableObject] = {}
        self._inflated = 0  # bytes of arrays
        self._records = 0  # bytes of metrics and configs
        self._text = 0  # bytes of heads, and of JSON
        received = sum(len(key) + len(content) for key, content in objects.items())
        self._memory = _MEMORY_FLOOR + _MEMORY_FACTOR * received
        self._left = self._memory

    def message(self, root: str) -> RecordDict | Error:
        opened = self._open(root, (Message,))
        if len(opened.body) > MESSAGE_BYTES:
            raise ReplyError(f"too large: its message takes more than {MESSAGE_BYTES} bytes")
        body = bytes(opened.body)
        self._spend(message_weight(body, _PROTO[Message], self._left))
        proto = ProtoMessage.FromString(body)
        if proto.HasField("error"):
            error = error_from_proto(proto.error)
            return Error(error.code, (error.reason or "")[-MAX_REASON_LENGTH:])
        if len(opened.children) != 1:
            raise ReplyError(f"malformed reply: a message with {len(opened.children)} contents")
        return cast(RecordDict, self._inflate(opened.children[0], _BELOW[Message]))

    def _open(self, key: str, allowed: tuple[type[InflatableObject], ...]) -> _Opened:
        """Return the object with id ``key`` once its head has been checked.

        ``ReplyError`` is raised if it is missing, malformed, or of a type not in ``allowed``.
        """
        content = self._objects.get(key)
        if content is None:
            raise ReplyError("malformed reply: it refers to an object that is not part of it")
        first, last, end = _head(content)
        self._describe(end)
        name = content[: min(40, first)].decode()
        kind = next((known for known in allowed if known.__qualname__ == name), None)
        if kind is None:
            expected = " or ".join(known.__qualname__ for known in allowed) or "nothing"
            raise ReplyError(f"malformed reply: expected {expected}, found {name!r}")
        start = end + len(HEAD_BODY_DIVIDER)
        if content[last + 1 : end] != str(len(content) - start).encode():
            raise ReplyError(f"malformed reply: the length of its {name} is wrong")
        return _Opened(kind, _ids(content, first + 1, last, name), content, start)

    def _inflate(self, key: str, allowed: tuple[type[InflatableObject], ...]) -> InflatableObject:
        if key in self._done:
            inflated = self._done[key]
            if not isinstance(inflated, allowed):
                raise ReplyError("malformed reply: an object in two places")
            return inflated
        opened = self._open(key, allowed)
        if opened.kind is Array:
            inflated = self._array(opened)
        elif opened.kind in (ConfigRecord, MetricRecord):
            inflated = self._values(opened)
        else:
            inflated = self._names(opened)
        self._done[key] = inflated
        return inflated

    def _names(self, opened: _Opened) -> InflatableObject:
        """Return an ``ArrayRecord`` or ``RecordDict`` with all that is below it.

        Its body is a table of names and ids. An error is raised if it is malformed or too large.
        """
        self._describe(len(opened.body))
        text = bytes(opened.body)
        self._spend(json_weight(text))
        below = {child: self._inflate(child, _BELOW[opened.kind]) for child in opened.children}
        names: dict[str, str] = json.loads(text.decode())
        if set(names.values()) != below.keys():
            raise ValueError("it names other objects than it has")
        kind = cast(Any, opened.kind)
        return cast(InflatableObject, kind({name: below[child] for name, child in names.items()}))

    def _values(self, opened: _Opened) -> InflatableObject:
        """Return a ``MetricRecord`` or ``ConfigRecord``; raise if it is malformed or too large."""
        limit = self._limits.max_record_bytes
        self._records += len(opened.content)
        if self._records > limit:
            raise ReplyError(f"too large: its metrics and configs take more than {limit} bytes")
        self._spend(message_weight(bytes(opened.body), _PROTO[opened.kind], self._left))
        if opened.children:
            raise ValueError("metrics and configs have nothing below them")
        return opened.kind.inflate(opened.content, children={})

    def _array(self, opened: _Opened) -> Array:
        """Return an ``Array`` with its data; raise if it is malformed or too large.

        A chunk that is listed several times counts each time.
        """
        limit = self._limits.max_bytes
        length = len(opened.body)
        self._describe(length)
        entries = len(opened.children) + limit // CHUNK_BYTES
        if length > _ARRAY_BYTES + _CHUNK_ENTRY * entries:
            raise ReplyError(f"too large: an array described by {length} bytes")
        text = bytes(opened.body)
        self._afford(json_weight(text))
        fields: dict[str, Any] = json.loads(text.decode())
        chunks = {child: self._open(child, _BELOW[Array]).body for child in opened.children}
        listed = [opened.children[index] for index in fields["arraychunk_ids"]]
        if set(listed) != chunks.keys():
            raise ValueError("it lists other chunks than it has")
        self._inflated += sum(len(chunks[child]) for child in listed)
        if self._inflated > limit:
            raise ReplyError(f"too large: its arrays take more than {limit} bytes once inflated")
        shape = tuple(fields["shape"])
        if len(shape) > _DIMENSIONS:
            raise ReplyError(f"malformed reply: an array of {len(shape)} dimensions")
        array = Array(fields["dtype"], shape, fields["stype"], b"")
        letters = len(array.dtype) + len(array.stype)
        self._spend(_ARRAY_WEIGHT + _DIMENSION_WEIGHT * len(shape) + _LETTER_WEIGHT * letters)
        array.data = b"".join(chunks[child] for child in listed)
        return array

    def _describe(self, length: int) -> None:
        """Add ``length`` to the bytes of types, ids, names and shapes that have been read.

        ``ReplyError`` is raised if their sum exceeds its limit.
        """
        self._text += length
        if self._text > self._max_text:
            raise ReplyError(
                f"too large: its types, ids, names and shapes take more than {self._max_text} bytes"
            )

    def _spend(self, weight: int) -> None:
        """Subtract ``weight`` bytes, which parsing is about to use and keep, from the memory left.

        ``ReplyError`` is raised if less is left.
        """
        self._afford(weight)
        self._left -= weight

    def _afford(self, weight: int) -> None:
        """Raise ``ReplyError`` if ``weight`` bytes are more than the memory left; subtract nothing.

        So memory is checked that is used only while something is parsed.
        """
        if weight > self._left:
            raise ReplyError(
                f"too large: reading it takes more than {self._memory} bytes of memory"
            )


def _head(content: bytes) -> tuple[int, int, int]:
    """Return the places of the first and the last space in an object's head, and of its end.

    ``ReplyError`` is raised if there is no head.
    """
    end = content.find(HEAD_BODY_DIVIDER)
    first, last = content.find(b" ", 0, max(end, 0)), content.rfind(b" ", 0, max(end, 0))
    if first == last:
        raise ReplyError("malformed reply: an object without a head")
    return first, last, end


def _ids(content: bytes, start: int, end: int, name: str) -> list[str]:
    """Return the ids of an object's children, which are listed in ``content[start:end]``.

    ``ReplyError`` is raised if the length of the list does not fit; it has the object's type
    ``name`` in its message.
    """
    if end <= start:
        return []
    if (end - start + 1) % (ID_LENGTH + 1):
        raise ReplyError(f"malformed reply: its {name} lists what is no id")
    return [
        content[place : place + ID_LENGTH].decode() for place in range(start, end, ID_LENGTH + 1)
    ]
