"""What one client's reply may weigh, as it is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, RecordDict

from hqde_fl.simulations.engines.flower_internals import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

CHUNK_BYTES = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
"""Bytes of one chunk of an array."""
ID_LENGTH = 64
"""Characters of an object's id."""
MESSAGE_BYTES = 1 << 20
"""Bytes of a message without its content: its metadata, and the reason of an error."""

_TEXT_FLOOR, _TEXT_PER_OBJECT = 1 << 18, 1 << 10


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
        Its metrics and configs, as they are uploaded.
    max_text_bytes : int, optional
        What describes its numbers, all together: types, ids, names, shapes. If not given, 1 KiB for
        each of ``max_objects``, at least 256 KiB.
    """

    max_bytes: int
    max_objects: int
    max_record_bytes: int = 1 << 20
    max_text_bytes: int | None = None

    @property
    def text_bytes(self) -> int:
        """Bytes that may describe its numbers."""
        if self.max_text_bytes is not None:
            return self.max_text_bytes
        return max(_TEXT_FLOOR, _TEXT_PER_OBJECT * self.max_objects)

    @property
    def object_bytes(self) -> int:
        """Bytes of the largest object: four chunks, should a client cut its arrays otherwise."""
        return max(4 * CHUNK_BYTES, self.text_bytes, self.max_record_bytes) + MESSAGE_BYTES


def text_bytes(content: RecordDict) -> int:
    """Return about how many bytes describe the arrays of a message when it is moved as objects."""
    total = 0
    for key, record in content.items():
        total += len(json.dumps(key)) + 4 * ID_LENGTH
        if isinstance(record, ArrayRecord):
            total += sum(_described(name, array) for name, array in record.items())
    return total


def _described(name: str, array: Array) -> int:
    chunks = 1 + len(array.data) // CHUNK_BYTES
    fields = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype}
    return len(json.dumps({name: fields})) + (4 + 2 * chunks) * ID_LENGTH
