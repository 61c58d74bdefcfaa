"""A model as differences between its versions: how a broadcast is packed.

A message with a model in full says which version it is. A message with differences also says from
which version they start, and holds one payload for each version since, next to the arrays that
always travel exact. Both ends add payloads up in the same way, so that they hold the same bits; a
checksum in the message lets the client make sure.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from hqde_fl.codec import Codec, decode_payload
from hqde_fl.codec.payload import MAX_MAGNITUDE
from hqde_fl.protocol.packed_updates import DELTA, exact, gather, to_packed
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Layout

VERSION, BASE, CHECKSUM = "model-version", "base-version", "model-checksum"
"""Keys of the message's config."""
HELD = "hqde.held"
"""Name of the reply's ConfigRecord with the version that the client holds now."""
NONE = -1
"""The version held by a client that could not follow and has not trained."""

State = Mapping[str, Tensor]


def difference(
    start: State, end: State, layout: Layout, codec: Codec, seeds: Seeds, version: int
) -> bytes | None:
    """The payload that leads from one version towards the next; None if it cannot be coded."""
    delta = layout.flatten(end)[0] - layout.flatten(start)[0]
    coded = gather(delta, layout, exact(layout))
    if not bool((coded.abs() <= MAX_MAGNITUDE).all()):
        return None
    return codec.encode(coded, {}, seeds.numpy("downlink", version))[0]


def moved(start: State, arrays: State, layout: Layout, payloads: Sequence[bytes]) -> State:
    """The version that payloads lead to.

    Parameters
    ----------
    start : State
        The version that they start from.
    arrays : State
        The exact arrays of the version that they lead to.
    layout : Layout
        Of the model.
    payloads : Sequence[bytes]
        In order.

    Raises
    ------
    CodecError
        If a payload is not one of this model's.
    """
    names = exact(layout)
    coded = [e for e in layout.entries if e.offset is not None and e.name not in names]
    state = {**start, **{name: arrays[name] for name in names}}
    for payload in payloads:
        delta = decode_payload(payload, sum(entry.size for entry in coded))
        parts = delta.split([entry.size for entry in coded])
        for entry, part in zip(coded, parts, strict=True):
            dtype = getattr(torch, entry.dtype)
            wide = state[entry.name].to(layout.dtype) + part.to(layout.dtype).reshape(entry.shape)
            state[entry.name] = wide.to(dtype)  # in every step, or half precision would differ
    return state


def to_differences(state: State, layout: Layout, payloads: Sequence[bytes]) -> ArrayRecord:
    """What is sent to a client that holds the version before these payloads."""
    names = exact(layout)
    record = to_record({name: tensor for name, tensor in state.items() if name in names})
    for place, payload in enumerate(payloads):
        record[f"{DELTA}-{place}"] = to_packed(payload)
    return record


def from_differences(held: ArrayRecord, record: ArrayRecord, skip: int) -> ArrayRecord:
    """The model that a client reconstructs from the version it holds.

    Parameters
    ----------
    held : ArrayRecord
        That version.
    record : ArrayRecord
        What came.
    skip : int
        How many payloads the version it holds has behind it already.
    """
    layout = layout_of(held)
    count = sum(name.startswith(f"{DELTA}-") for name in record)
    payloads = [record[f"{DELTA}-{place}"].data for place in range(skip, count)]
    arrays = {name: array for name, array in record.items() if not name.startswith(f"{DELTA}-")}
    return to_record(moved(from_record(held), from_record(ArrayRecord(arrays)), layout, payloads))


def checksum(record: ArrayRecord) -> int:
    """CRC-32 of all arrays' bytes, in order."""
    found = 0
    for array in record.values():
        found = zlib.crc32(array.data, found)
    return found
