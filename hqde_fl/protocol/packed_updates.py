"""A packed update in an ``ArrayRecord``: the reply of a client with a codec.

The record holds some arrays as they are, under their own names (every entry that is not trained,
and the smallest weights: see ``packed_entries``), and one more, ``hqde.delta``: the payload of a
codec for the update of other weights, one after the other in the model's order. These are the
weights that the record lacks, but for those that the reply says are unchanged or equal to another.

A client with error feedback also reports the members for which it holds no residual (``FEEDBACK``):
in its first reply, and whenever it has lost its memory, so that the server notices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def packed_entries(layout: Layout) -> list[Entry]:
    """Return the weights whose update is packed, in the model's order.

    All but the smallest (biases, norms), for as long as these hold at most one in 512 of the
    weights' numbers together.
    """
    exact: set[str] = set()
    exact_numbers = 0
    weights = [entry for entry in layout.entries if entry.offset is not None]
    for entry in sorted(weights, key=lambda entry: entry.numbers):  # of equal ones the first
        exact_numbers += entry.numbers
        if exact_numbers * EXACT_RATIO > layout.size:
            break
        exact.add(entry.name)
    return [entry for entry in weights if entry.name not in exact]


def encode_update(
    delta: Tensor, entries: Sequence[Entry], codec: Codec, state: State, rng: np.random.Generator
) -> tuple[bytes, State] | None:
    """Return the payload of an update of some weights, and the codec's new state.

    Parameters
    ----------
    delta : Tensor
        (d,) the whole update.
    entries : Sequence[Entry]
        The weights to pack, at least one.
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
    numbers = torch.cat([delta[entry.span] for entry in entries])
    if not bool((numbers.abs() <= MAX_MAGNITUDE).all()):  # false for NaN, too
        return None
    return codec.encode(numbers, state, rng)


def pack_update(
    arrays: Mapping[str, Array],
    delta: Tensor,
    entries: Sequence[Entry],
    codec: Codec,
    state: State,
    rng: np.random.Generator,
) -> tuple[dict[str, Array], State] | None:
    """Return a model's arrays with the update of some weights packed, and the codec's new state.

    Parameters
    ----------
    arrays : Mapping[str, Array]
        The trained model; those arrays that are not packed are taken from it.
    delta : Tensor
        (d,) the model minus the one that the client was sent.
    entries : Sequence[Entry]
        The weights to pack, in the model's order; if there are none nothing is packed.
    codec, state, rng
        The codec, its memory (empty at first) and its random numbers.

    Returns
    -------
    tuple[dict[str, Array], State] or None
        None if a packed number is not finite, or too large for any codec.
    """
    if not entries:
        return dict(arrays), state
    encoded = encode_update(delta, entries, codec, state, rng)
    if encoded is None:
        return None
    payload, new_state = encoded
    names = {entry.name for entry in entries}
    rest = {name: array for name, array in arrays.items() if name not in names}
    return {**rest, DELTA: to_packed(payload)}, new_state


def to_packed(payload: bytes) -> Array:
    """Return a payload as a Flower ``Array`` of bytes."""
    return Array("uint8", (len(payload),), PACKED, payload)


def is_packed(array: Array) -> bool:
    """Return whether an array's serialisation type is that of a codec's payload."""
    return bool(array.stype == PACKED)


def unpack(array: Array, absent: Sequence[Entry], layout: Layout) -> Tensor:
    """Return the update of the weights that are absent from a record, in the layout's dtype.

    Parameters
    ----------
    array : Array
        The payload, not trusted.
    absent : Sequence[Entry]
        The absent weights, in the model's order.
    layout : Layout
        The model's layout.

    Raises
    ------
    CodecError
        If the array is anything but a sound payload for as many numbers.
    """
    if not is_packed(array) or array.dtype != "uint8" or tuple(array.shape) != (len(array.data),):
        raise CodecError(f"{DELTA!r} is no array of {len(array.data)} bytes")
    size = sum(entry.numbers for entry in absent)
    max_bytes = layout.dtype.itemsize * size + _MAX_OVERHEAD
    if len(array.data) > max_bytes:
        raise CodecError(
            f"{len(array.data)} bytes for {size} numbers, expected at most {max_bytes}"
        )
    return decode_payload(array.data, size).to(layout.dtype)
