"""Hostile packed updates, and false claims about the model version that a client holds.

Only hqde-fl reads them; to any other strategy they are arrays of an unknown serialisation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from hqde_fl.codec import EntropyCoded, Quantized, TopK
from hqde_fl.codec.base import Codec
from hqde_fl.codec.payload import seal
from hqde_fl.protocol.delta_broadcast import HELD
from hqde_fl.protocol.packed_updates import DELTA, PACKED
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.audit.catalogue_row import CatalogueRow, Replies
from hqde_fl.simulations.audit.message_changes import (
    ARRAYS,
    BIAS,
    MEAN,
    STEPS,
    VARIANCE,
    with_content,
    with_extra_array,
    with_record,
)

SIZE, HEAD = 54, 16
"""Number of the audited model's weights; bytes before a payload's frame."""
NO_OTHERS: Mapping[str, Array | None] = {}
FLAT = Array(np.ones((2, 3), np.float32))


def _payload(codec: Codec, size: int = SIZE) -> bytes:
    return codec.encode(torch.ones(size), {}, Seeds(0).numpy("audit"))[0]


def _packed(
    payload: bytes, others: Mapping[str, Array | None] = NO_OTHERS, length: int | None = None
) -> Replies:
    """Return a builder of a reply with a payload instead of the arrays of weights.

    ``others`` are further arrays, where None removes an array; ``length`` is the claimed length.
    """
    coded = Array("uint8", (len(payload) if length is None else length,), PACKED, payload)

    def change(content: RecordDict) -> RecordDict:
        record = content.array_records[ARRAYS]
        plain = {name: record[name] for name in (MEAN, VARIANCE, STEPS)}
        arrays = {**plain, DELTA: coded, **others}
        content[ARRAYS] = ArrayRecord({name: array for name, array in arrays.items() if array})
        return content

    return with_content(change)


def _row(name: str, behaviour: str, expected: str, replies: Replies) -> CatalogueRow:
    return CatalogueRow(name, behaviour, expected and f"rejected: {expected}", replies, codec=True)


def _held(name: str, version: object) -> CatalogueRow:
    claim = ConfigRecord({"version": version})  # type: ignore[dict-item]
    return _row(f"holds-{name}", f"says it holds version {name}", "", with_record(HELD, claim))


FOUR = _payload(Quantized(4))
FLIPPED = FOUR[:-1] + bytes([FOUR[-1] ^ 1])
HUGE = b"\x00\x04" + np.full(SIZE, 3e38, "<f4").tobytes()
SUM = "packed update: the checksum does not match"

ROWS = (
    _row("packed-cut", "cuts a payload", SUM, _packed(FOUR[:-1])),
    _row("packed-flipped", "flips a bit of a payload", SUM, _packed(FLIPPED)),
    _row("packed-empty", "sends no payload", "packed update: 0 bytes are too few", _packed(b"")),
    _row(
        "packed-garbage",
        "sends any bytes for a payload",
        "packed update: expected a payload of version 1",
        _packed(bytes(range(256))),
    ),
    _row(
        "packed-version-9",
        "claims a later format",
        "packed update: expected a payload of version 1",
        _packed(FOUR[:2] + b"\x09" + FOUR[3:]),
    ),
    _row(
        "packed-one-less",
        "packs a number too few",
        "packed update: payload of 53 values, expected 54",
        _packed(_payload(Quantized(4), SIZE - 1)),
    ),
    _row(
        "packed-10^12",
        "claims 10^12 numbers",
        "packed update: payload of 1000000000000 values, expected 54",
        _packed(seal(FOUR[HEAD:], 10**12)),
    ),
    _row(
        "packed-unknown-codec",
        "names a codec that there is not",
        "packed update: unknown codec 99",
        _packed(seal(b"\x63", SIZE)),
    ),
    _row(
        "packed-deep",
        "nests a thousand codecs",
        "packed update: ",
        _packed(seal(b"\x06" * 1000, SIZE)),
    ),
    _row(
        "packed-short",
        "ends a payload early, with the right checksum",
        "packed update: payload ends early",
        _packed(seal(FOUR[HEAD:-2], SIZE)),
    ),
    _row(
        "packed-nan",
        "packs NaN",
        "packed update: the payload holds a number that is not finite",
        _packed(seal(b"\x00\x04" + np.full(SIZE, np.nan, "<f4").tobytes(), SIZE)),
    ),
    _row(
        "packed-entropy",
        "packs bits that no coder wrote",
        "",
        _packed(seal(_payload(EntropyCoded(2))[HEAD:-8] + b"\xff" * 8, SIZE)),
    ),
    _row(
        "packed-positions",
        "packs positions beyond the model",
        "packed update: ",
        _packed(seal(_payload(TopK(0.1))[HEAD:].replace(b"\x00", b"\xff"), SIZE)),
    ),
    _row(
        "packed-long",
        "sends 128 KiB for 54 numbers",
        "packed update: 131072 bytes for 54 numbers, expected at most",
        _packed(bytes(1 << 17)),
    ),
    _row(
        "packed-lying-shape",
        "claims another length than it has",
        "packed update: 'hqde.delta' is no array of",
        _packed(FOUR, length=2**31 - 1),
    ),
    _row(
        "packed-no-counter",
        "leaves the counter out",
        "missing array 'steps'",
        _packed(FOUR, {STEPS: None}),
    ),
    _row(
        "packed-more",
        "packs, and adds an array",
        "unknown array 'more'",
        _packed(FOUR, {"more": FLAT}),
    ),
    _row(
        "packed-twice",
        "packs two arrays of one record",
        "packed update: payload of 54 values, expected 48",
        _packed(FOUR, {BIAS: Array("float32", (6,), PACKED, FOUR)}),
    ),
    _row(
        "packed-plain",
        "sends plain numbers as a payload",
        "unknown array 'hqde.delta'",
        with_extra_array(DELTA, FLAT),
    ),
    _row("packed-huge", "packs numbers of 3e38", "", _packed(seal(HUGE, SIZE))),
    CatalogueRow(
        "holds-nothing",
        "says in every round that it could not follow",
        "",
        with_record(HELD, ConfigRecord({"version": -1})),
        codec=True,
    ),
    _held("-2^63", -(2**63)),
    _held("2^62", 2**62),
    _held("text", "1"),
    _held("bytes", b"\xff"),
    _held("1.5", 1.5),
    _held("true", True),
    _held("a-list", [1, 2]),
)
