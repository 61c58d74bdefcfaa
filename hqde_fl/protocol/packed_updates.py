"""A packed update in an ``ArrayRecord``: what a client with a codec sends.

The record holds some arrays as they are, under their own names (every integer and boolean buffer,
and the smallest float arrays: see ``exact``), and one more, ``hqde.delta``: the payload of a codec
for the update of all other float arrays, one after the other in the model's order. Which those are
needs no telling: they are the ones that are missing.

A client with error feedback also says when it has no error to feed back (``FEEDBACK``): the first
time, and whenever it has lost what it remembered, so that a server notices.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from flwr.app import Array
from torch import Tensor

from hqde_fl.codec import decode_payload
from hqde_fl.errors import CodecError
from hqde_fl.updates.layout import Entry, Layout

PACKED = "hqde.codec"
"""Serialisation type of a payload."""
DELTA = "hqde.delta"
"""The name of the array that holds it."""
FEEDBACK, NO_ERROR = "hqde.feedback", "none"
"""Name of the reply's ConfigRecord, and its key: members (0 for the only model) whose update makes
up for no error."""

EXACT_SHARE = 512
"""At most one number in so many travels exact: a sixteenth of a bit for each number."""
_SLACK = 1 << 16  # bytes that a payload may have beyond those of the numbers themselves


def exact(layout: Layout) -> frozenset[str]:
    """The arrays that a client with a codec sends as they are.

    All integer and boolean buffers, and of the float arrays the smallest (biases, norms), for as
    long as they hold at most one in 512 of the model's numbers together.
    """
    floats = sorted((e for e in layout.entries if e.offset is not None), key=lambda e: e.size)
    names = {entry.name for entry in layout.entries if entry.offset is None}
    held = 0
    for entry in floats:
        held += entry.size
        if held * EXACT_SHARE > layout.size:
            break
        names.add(entry.name)
    return frozenset(names)


def gather(flat: Tensor, layout: Layout, without: Collection[str]) -> Tensor:
    """The numbers of a flat vector (d,) that belong to float arrays with other names."""
    parts = [
        flat[entry.offset : entry.offset + entry.size]
        for entry in layout.entries
        if entry.offset is not None and entry.name not in without
    ]
    return torch.cat(parts) if parts else flat[:0]


def to_packed(payload: bytes) -> Array:
    """A payload as an array of bytes."""
    return Array("uint8", (len(payload),), PACKED, payload)


def is_packed(array: Array) -> bool:
    """Whether an array says that it is a payload."""
    return bool(array.stype == PACKED)


def unpack(array: Array, absent: Sequence[Entry], layout: Layout) -> Tensor:
    """The update of the float arrays that are absent from a record, in the layout's dtype.

    Raises
    ------
    CodecError
        If the array is anything but a sound payload for as many numbers.
    """
    if not is_packed(array) or array.dtype != "uint8" or tuple(array.shape) != (len(array.data),):
        raise CodecError(f"{DELTA!r} is no array of {len(array.data)} bytes")
    size = sum(entry.size for entry in absent)
    most = layout.dtype.itemsize * size + _SLACK
    if len(array.data) > most:
        raise CodecError(f"{len(array.data)} bytes for {size} numbers, expected at most {most}")
    return decode_payload(array.data, size).to(layout.dtype)
