"""What a SuperNode uploaded -> the content of its reply, without trusting a byte of it.

Flower moves a message as a tree of objects: message, records, arrays, chunks of arrays. Each is a
head (its type, its children's ids, its length) and a body. Flower's own reader follows whatever the
heads and bodies say; a reader of hostile uploads must know beforehand what may be below what, and
what the result will weigh: an array that lists one chunk two hundred times makes a gigabyte of five
megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.serde_utils import error_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_head_values_from_object_content,
)

LONGEST_REASON = 4096
"""Characters of an error's reason that are kept."""

_BELOW: dict[type[InflatableObject], tuple[type[InflatableObject], ...]] = {
    Message: (RecordDict,),
    RecordDict: (ArrayRecord, ConfigRecord, MetricRecord),
    ArrayRecord: (Array,),
    Array: (ArrayChunk,),
    ArrayChunk: (),
    ConfigRecord: (),
    MetricRecord: (),
}


class ReplyError(Exception):
    """A reply that is not used, and why."""


@dataclass(frozen=True)
class Limits:
    """What one reply may weigh.

    Parameters
    ----------
    max_bytes : int
        Its objects together, as they are uploaded and as they are once inflated.
    max_objects : int
        How many objects.
    max_record_bytes : int
        Its metrics and configs: as Python objects they weigh up to a hundred times as much.
    """

    max_bytes: int
    max_objects: int
    max_record_bytes: int = 1 << 20


def inflate(root: str, objects: Mapping[str, bytes], limits: Limits) -> RecordDict | Error:
    """Read a reply.

    Parameters
    ----------
    root : str
        The id of the message's object.
    objects : Mapping of str to bytes
        Every object of the reply by its id.
    limits : Limits
        What it may weigh.

    Returns
    -------
    RecordDict or Error
        Its content, or the error that it reports.

    Raises
    ------
    ReplyError
        If it is malformed or too large.
    """
    try:
        return _Reader(objects, limits).message(root)
    except ReplyError:
        raise
    except RecursionError:
        raise ReplyError("malformed reply: nested too deeply") from None
    except Exception as error:  # whatever a client managed to break, it breaks only its own reply
        reason = f"malformed reply ({type(error).__name__}: {str(error)[:120]})"
        raise ReplyError(reason) from None


class _Reader:
    """Inflates from the root down; an object that is referred to twice is inflated once."""

    def __init__(self, objects: Mapping[str, bytes], limits: Limits) -> None:
        self._objects, self._limits = objects, limits
        self._done: dict[str, InflatableObject] = {}
        self._inflated = 0  # bytes of arrays
        self._records = 0  # bytes of metrics and configs

    def message(self, root: str) -> RecordDict | Error:
        content, kind, children = self._head(root, (Message,))
        proto = ProtoMessage.FromString(get_object_body(content, kind))
        if proto.HasField("error"):
            error = error_from_proto(proto.error)
            return Error(error.code, (error.reason or "")[-LONGEST_REASON:])
        if len(children) != 1:
            raise ReplyError(f"malformed reply: a message with {len(children)} contents")
        record = self._inflate(children[0], _BELOW[Message])
        assert isinstance(record, RecordDict)
        return record

    def _head(
        self, key: str, allowed: tuple[type[InflatableObject], ...]
    ) -> tuple[bytes, type[InflatableObject], list[str]]:
        content = self._objects.get(key)
        if content is None:
            raise ReplyError("malformed reply: it refers to an object that is not part of it")
        name, children, length = get_object_head_values_from_object_content(content)
        kind = next((known for known in allowed if known.__qualname__ == name), None)
        if kind is None:
            expected = " or ".join(known.__qualname__ for known in allowed) or "nothing"
            raise ReplyError(f"malformed reply: expected {expected}, found {name[:40]!r}")
        if length != len(get_object_body(content, kind)):
            raise ReplyError(f"malformed reply: the length of its {name} is wrong")
        return content, kind, children

    def _inflate(self, key: str, allowed: tuple[type[InflatableObject], ...]) -> InflatableObject:
        if key in self._done:
            found = self._done[key]
            if not isinstance(found, allowed):
                raise ReplyError("malformed reply: an object in two places")
            return found
        content, kind, children = self._head(key, allowed)
        if kind is Array:
            self._weigh(content, children)
        elif kind in (ConfigRecord, MetricRecord):
            self._records += len(content)
            if self._records > self._limits.max_record_bytes:
                raise ReplyError(
                    f"too large: its metrics and configs take more than "
                    f"{self._limits.max_record_bytes} bytes"
                )
        below = {child: self._inflate(child, _BELOW[kind]) for child in children}
        self._done[key] = kind.inflate(content, children=below)
        return self._done[key]

    def _weigh(self, content: bytes, children: list[str]) -> None:
        """Refuse an array before its chunks, listed any number of times, are joined."""
        fields: dict[str, Any] = json.loads(get_object_body(content, Array))
        sizes = [len(self._objects.get(child, b"")) for child in children]
        self._inflated += sum(sizes[index] for index in fields["arraychunk_ids"])
        if self._inflated > self._limits.max_bytes:
            raise ReplyError(
                f"too large: its arrays take more than {self._limits.max_bytes} bytes once inflated"
            )
