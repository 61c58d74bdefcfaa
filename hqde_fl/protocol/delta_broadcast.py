"""A broadcast model as differences between its versions.

A message with a model in full names its version. A message with differences also names the version
that they start from, and holds one payload for each version since, next to the arrays that always
travel exact. Both ends add payloads up in the same way, so that they hold the same bits; a checksum
in the message lets the client make sure.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from flwr.app import Array, ArrayRecord
from torch import Tensor

from hqde_fl.codec import Codec, decode_payload
from hqde_fl.protocol.packed_updates import DELTA, encode_update, packed_entries, to_packed
from hqde_fl.protocol.records import from_record, to_array, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Layout, to_numbers

VERSION, BASE, CHECKSUM = "model-version", "base-version", "model-checksum"
"""Keys of the message's config."""
HELD = "hqde.held"
"""Name of the reply's ConfigRecord with the version that the client holds now."""
NO_VERSION = -1
"""The version held by a client that could not apply the differences and has not trained."""

ModelArrays = Mapping[str, Tensor]
"""A model's state dict."""


def encode_difference(
    start: ModelArrays, end: ModelArrays, layout: Layout, codec: Codec, seeds: Seeds, version: int
) -> bytes | None:
    """Return the coded difference of two versions of a model; None if it cannot be coded.

    It covers the packed weights only. A number that is not finite or too large is not codable, nor
    is a model none of whose weights are packed.

    Parameters
    ----------
    start, end : ModelArrays
        The version held by the clients, and the model that they should hold.
    layout : Layout
        The model's layout.
    codec : Codec
        Codes the difference.
    seeds : Seeds
        The run's seeds, for codecs that round at random.
    version : int
        The number of the new version.
    """
    entries = packed_entries(layout)
    if not entries:
        return None
    delta = layout.flatten(end)[0] - layout.flatten(start)[0]
    encoded = encode_update(delta, entries, codec, {}, seeds.numpy("downlink", version))
    return None if encoded is None else encoded[0]


def apply_differences(
    start: ModelArrays, arrays: ModelArrays, layout: Layout, payloads: Sequence[bytes]
) -> ModelArrays:
    """Return the version of a model that results if payloads are added to an earlier version.

    Parameters
    ----------
    start : ModelArrays
        The earlier version; not changed.
    arrays : ModelArrays
        The resulting version's entries that are not packed; others are ignored.
    layout : Layout
        The model's layout.
    payloads : Sequence[bytes]
        The payloads of the versions in between, the oldest first.

    Raises
    ------
    CodecError
        If a payload does not fit the model.
    """
    packed = packed_entries(layout)
    names, sizes = {entry.name for entry in packed}, [entry.numbers for entry in packed]
    state = {
        entry.name: start[entry.name] if entry.name in names else arrays[entry.name]
        for entry in layout.entries
        if entry.tied_to is None
    }
    for payload in payloads:
        parts = decode_payload(payload, sum(sizes)).split(sizes)
        for entry, part in zip(packed, parts, strict=True):
            wide = to_numbers(state[entry.name]).to(layout.dtype) + part.to(layout.dtype)
            state[entry.name] = entry.from_numbers(wide)  # half precision rounds in every step
    return layout.with_ties(state)


def to_differences(state: ModelArrays, layout: Layout, payloads: Sequence[bytes]) -> ArrayRecord:
    """Return a record of the entries that are not packed and of payloads that lead to the model."""
    packed = {entry.name for entry in packed_entries(layout)}
    exact = [e.name for e in layout.entries if e.tied_to is None and e.name not in packed]
    record = ArrayRecord({name: to_array(state[name]) for name in exact})
    for position, payload in enumerate(payloads):
        record[f"{DELTA}-{position}"] = to_packed(payload)
    return record


def from_differences(
    held: Mapping[str, Array], record: Mapping[str, Array], layout: Layout, skip: int
) -> ArrayRecord:
    """Return the model that a client reconstructs from the version that it holds.

    Parameters
    ----------
    held : Mapping[str, Array]
        The version that the client holds: its packed weights at least.
    record : Mapping[str, Array]
        The record received, as ``to_differences`` made it.
    layout : Layout
        The model's layout.
    skip : int
        The number of leading payloads that the held version includes already.
    """
    count = sum(name.startswith(f"{DELTA}-") for name in record)
    payloads = [record[f"{DELTA}-{position}"].data for position in range(skip, count)]
    arrays = {name: array for name, array in record.items() if not name.startswith(f"{DELTA}-")}
    return to_record(apply_differences(from_record(held), from_record(arrays), layout, payloads))


def checksum(record: ArrayRecord) -> int:
    """Return the CRC-32 of all arrays' data bytes, in the record's order."""
    crc = 0
    for array in record.values():
        crc = zlib.crc32(array.data, crc)
    return crc
