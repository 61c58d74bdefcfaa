"""A packed update in an ``ArrayRecord``: the reply of a client with a codec.

The record holds some arrays as they are, under their own names (every integer and boolean buffer,
and the smallest float arrays: see ``exact_arrays``), and one more, ``hqde.delta``: the payload of a
codec for the update of all other float arrays, one after the other in the model's order. The packed
arrays are exactly those that the record lacks.

A client with error feedback also reports the members for which it holds no residual (``FEEDBACK``):
in its first reply, and whenever it has lost its memory, so that the server notices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from hqde_fl.codec import Codec, State, decode_payload
from hqde_fl.codec.payload import MAX_MAGNITUDE
from hqde_fl.errors import CodecError
from hqde_fl.updates.layout import Entry, Layout

PACKED = "hqde.codec"
"""Serialisation type of a payload."""
DELTA = "hqde.delta"
"""The name of the array that holds it."""
FEEDBACK, NO_RESIDUAL = "hqde.feedback", "none"
"""Name of the reply's ConfigRecord, and its key: members (0 for the only model) whose update
carries no error-feedback residual."""

EXACT_RATIO = 512
"""At most one number in so many is not packed: a sixteenth of a bit for each number."""
_MAX_OVERHEAD = 1 << 16  # bytes that a payload may have beyond those of the numbers themselves


def exact_arrays(layout: Layout) -> frozenset[str]:
    """Return the names of the arrays that a client with a codec sends as they are.

    All integer and boolean buffers, and of the float arrays the smallest (biases, norms), for as
    long as they hold at most one in 512 of the model's numbers together.
    """
    floats = sorted((e for e in layout.entries if e.offset is not None), key=lambda e: e.size)
    names = {entry.name for entry in layout.entries if entry.offset is None}
    exact_numbers = 0
    for entry in floats:
        exact_numbers += entry.size
        if exact_numbers * EXACT_RATIO > layout.size:
            break
        names.add(entry.name)
    return frozenset(names)


def packed_entries(layout: Layout) -> list[Entry]:
    """Return the float arrays whose update is packed, in the model's order."""
    names = exact_arrays(layout)
    return [e for e in layout.entries if e.offset is not None and e.name not in names]


def packed_size(layout: Layout) -> int:
    """Return the number of an update's numbers that are packed, of all float arrays together."""
    return sum(entry.size for entry in packed_entries(layout))


def gather(flat: Tensor, layout: Layout, without: Collection[str]) -> Tensor:
    """Return a flat vector's numbers in order, leaving out the arrays named in ``without``."""
    parts = [
        flat[entry.offset : entry.offset + entry.size]
        for entry in layout.entries
        if entry.offset is not None and entry.name not in without
    ]
    return torch.cat(parts) if parts else flat[:0]


def encode_update(
    delta: Tensor, layout: Layout, codec: Codec, state: State, rng: np.random.Generator
) -> tuple[bytes, State] | None:
    """Return the payload of an update's packed arrays, and the codec's new state.

    Parameters
    ----------
    delta : Tensor
        (d,) the whole update.
    layout : Layout
        The model's layout.
    codec : Codec
        The codec.
    state : State
        The codec's memory; empty at first.
    rng : Generator
        For codecs that round at random.

    Returns
    -------
    tuple[bytes, State] or None
        None if a packed number is not finite, or too large for any codec.
    """
    numbers = gather(delta, layout, exact_arrays(layout))
    if not bool((numbers.abs() <= MAX_MAGNITUDE).all()):  # false for NaN, too
        return None
    return codec.encode(numbers, state, rng)


def pack_update(
    arrays: Mapping[str, Array],
    delta: Tensor,
    layout: Layout,
    codec: Codec,
    state: State,
    rng: np.random.Generator,
) -> tuple[dict[str, Array], State] | None:
    """Return a model's arrays with its update packed, and the codec's new state.

    Parameters
    ----------
    arrays : Mapping[str, Array]
        The trained model; those arrays that are not packed are taken from it.
    delta : Tensor
        (d,) the model minus the one that the client was sent.
    layout, codec, state, rng
        The model's layout, the codec, its memory (empty at first) and its random numbers.

    Returns
    -------
    tuple[dict[str, Array], State] or None
        None if a packed number is not finite, or too large for any codec.
    """
    encoded = encode_update(delta, layout, codec, state, rng)
    if encoded is None:
        return None
    payload, new_state = encoded
    names = exact_arrays(layout)
    packed = {name: array for name, array in arrays.items() if name in names}
    return {**packed, DELTA: to_packed(payload)}, new_state


def to_packed(payload: bytes) -> Array:
    """Return a payload as a Flower ``Array`` of bytes."""
    return Array("uint8", (len(payload),), PACKED, payload)


def is_packed(array: Array) -> bool:
    """Return whether an array's serialisation type is that of a codec's payload."""
    return bool(array.stype == PACKED)


def unpack(array: Array, absent: Sequence[Entry], layout: Layout) -> Tensor:
    """Return the update of the float arrays that are absent from a record, in the layout's dtype.

    Parameters
    ----------
    array : Array
        The payload, not trusted.
    absent : Sequence[Entry]
        The absent arrays, in the model's order.
    layout : Layout
        The model's layout.

    Raises
    ------
    CodecError
        If the array is anything but a sound payload for as many numbers.
    """
    if not is_packed(array) or array.dtype != "uint8" or tuple(array.shape) != (len(array.data),):
        raise CodecError(f"{DELTA!r} is no array of {len(array.data)} bytes")
    size = sum(entry.size for entry in absent)
    max_bytes = layout.dtype.itemsize * size + _MAX_OVERHEAD
    if len(array.data) > max_bytes:
        raise CodecError(
            f"{len(array.data)} bytes for {size} numbers, expected at most {max_bytes}"
        )
    return decode_payload(array.data, size).to(layout.dtype)
