"""Limits on the size of one client's reply as it is uploaded."""

from __future__ import annotations

import json
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, RecordDict

from hqde_fl.simulations.engines.flower_internals import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

CHUNK_BYTES = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
"""Maximum size of a chunk of an array."""
ID_LENGTH = 64
"""Number of characters of an object's id."""
MESSAGE_BYTES = 1 << 20
"""Maximum size of a message without its content: its metadata, and the reason of an error."""

_TEXT_FLOOR, _TEXT_PER_OBJECT = 1 << 18, 1 << 10


class ReplyError(Exception):
    """A reply is malformed or too large; the message names the cause."""


@dataclass(frozen=True)
class Limits:
    """Limits on the size of one reply.

    Parameters
    ----------
    max_bytes : int
        Maximum size of all objects together in bytes, both as uploaded and after inflating.
    max_objects : int
        Maximum number of objects.
    max_record_bytes : int
        Maximum size of the metrics and configs in bytes, as uploaded.
    max_text_bytes : int, optional
        Maximum size of the types, ids, names and shapes of all objects together, in bytes. If not
        given, 1 KiB for each of ``max_objects``, at least 256 KiB.
    """

    max_bytes: int
    max_objects: int
    max_record_bytes: int = 1 << 20
    max_text_bytes: int | None = None

    @property
    def text_bytes(self) -> int:
        """Maximum size of the types, ids, names and shapes of all objects together, in bytes.

        It is ``max_text_bytes`` or, if that is None, 1 KiB for each of ``max_objects``, at least
        256 KiB.
        """
        if self.max_text_bytes is not None:
            return self.max_text_bytes
        return max(_TEXT_FLOOR, _TEXT_PER_OBJECT * self.max_objects)

    @property
    def object_bytes(self) -> int:
        """Maximum size of one object in bytes.

        It is the largest of ``text_bytes``, ``max_record_bytes`` and four chunks, as a client may
        cut its arrays differently; plus ``MESSAGE_BYTES``.
        """
        return max(4 * CHUNK_BYTES, self.text_bytes, self.max_record_bytes) + MESSAGE_BYTES


def text_bytes(content: RecordDict) -> int:
    """Return about how many bytes of types, ids, names and shapes a content has when it is sent.

    The data of arrays and the entries of metrics and configs are not counted.
    """
    total = 0
    for key, record in content.items():
        total += len(json.dumps(key)) + 4 * ID_LENGTH
        if isinstance(record, ArrayRecord):
            total += sum(_array_text_bytes(name, array) for name, array in record.items())
    return total


def _array_text_bytes(name: str, array: Array) -> int:
    chunks = 1 + len(array.data) // CHUNK_BYTES
    fields = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype}
    return len(json.dumps({name: fields})) + (4 + 2 * chunks) * ID_LENGTH
