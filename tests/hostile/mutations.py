"""Random changes of valid replies, for fuzzing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import strategies as st

from hqde_fl.codec import (
    AdaptiveQuantizer,
    Codec,
    EntropyCoded,
    ErrorFeedback,
    Quantized,
    Rotated,
    TopK,
)
from hqde_fl.codec.payload import seal
from hqde_fl.protocol.delta_broadcast import BASE, HELD, VERSION
from hqde_fl.protocol.packed_updates import DELTA, PACKED
from hqde_fl.simulations.audit.message_changes import (
    ARRAYS,
    BIAS,
    METRICS,
    STEPS,
    WEIGHT,
    change_envelope,
)
from hqde_fl.simulations.audit.rows.packed import HEAD, SIZE

Draw = Callable[[st.SearchStrategy[Any]], Any]

CODECS: tuple[Codec, ...] = (
    Quantized(4),
    EntropyCoded(2),
    AdaptiveQuantizer(),
    TopK(0.1),
    Rotated(Quantized(3)),
    ErrorFeedback(Rotated(TopK(0.2))),
)
FRAMES = [
    codec.encode(torch.linspace(-1, 1, SIZE), {}, np.random.default_rng(0))[0][HEAD:]
    for codec in CODECS
]

TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(
    [ARRAYS, METRICS, STEPS, "num-examples", HELD, DELTA, "config", "x" * 5000]
)
INTS = st.integers(-(2**63), 2**63 - 1)
SIZES = st.sampled_from([0, 1, 6, 8, 48, -1, 2**31, 2**63, 10**30]) | INTS
NUMBERS = INTS | st.floats()
METRIC = NUMBERS | st.lists(INTS, max_size=3) | st.lists(st.floats(), max_size=3)
CONFIG = METRIC | st.booleans() | st.text(max_size=5) | st.binary(max_size=8)
DTYPES = st.sampled_from(
    ["float32", "float64", "float16", "bfloat16", "int64", "bool", "object", "<U1", ">f4", "V8"]
)
STYPES = st.sampled_from(["numpy.ndarray", PACKED, "hqde.bfloat16", "pickle"])


def bytes_from(draw: Draw, data: bytes) -> bytes:
    """Return bytes of which some are flipped, cut, inserted or replaced, or all are random."""
    how = draw(st.sampled_from(["flip", "cut", "insert", "replace", "any"]))
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    if how == "flip":
        mask = draw(st.integers(1, 255))
        return data[:at] + bytes(byte ^ mask for byte in data[at : at + 1]) + data[at + 1 :]
    if how == "cut":
        return data[:at] + data[at + draw(st.integers(1, 64)) :]
    new: bytes = draw(st.binary(max_size=64))
    if how == "insert":
        return data[:at] + new + data[at:]
    return data[:at] + new + data[at + len(new) :] if how == "replace" else new


def _array(draw: Draw, array: Array) -> Array:
    """Return an array with another dtype, shape, stype or other bytes."""
    fields = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data}
    changes: Mapping[str, st.SearchStrategy[Any]] = {
        "dtype": DTYPES | TEXT,
        "shape": st.lists(SIZES, max_size=4).map(tuple),
        "stype": STYPES | TEXT,
        "data": st.none(),
    }
    what = draw(st.sampled_from([*changes, "data", "data"]))
    fields[what] = bytes_from(draw, array.data) if what == "data" else draw(changes[what])
    return Array(**fields)  # type: ignore[arg-type]


def change_array(draw: Draw, content: RecordDict) -> None:
    for record in content.array_records.values():
        if record:
            name = draw(st.sampled_from(list(record)))
            record[name] = _array(draw, record[name])


def rename_array(draw: Draw, content: RecordDict) -> None:
    for record in content.array_records.values():
        if record:
            array = record.pop(draw(st.sampled_from(list(record))))
            if draw(st.booleans()):
                record[draw(TEXT)] = array


def rename_record(draw: Draw, content: RecordDict) -> None:
    if content:
        old = draw(st.sampled_from(list(content)))
        record = content[old]
        if draw(st.booleans()):
            del content[old]
        if draw(st.booleans()):
            content[draw(TEXT)] = record


def add_record(draw: Draw, content: RecordDict) -> None:
    new: list[Any] = [ArrayRecord(), MetricRecord(), ConfigRecord()]
    content[draw(TEXT)] = draw(st.sampled_from(new))


def change_metric(draw: Draw, content: RecordDict) -> None:
    for record in content.metric_records.values():
        name = draw(st.sampled_from(["num-examples", "train-loss", "train-seconds"]) | TEXT)
        record[name] = draw(METRIC)


def claim_version(draw: Draw, content: RecordDict) -> None:
    keys = st.sampled_from(["version", VERSION, BASE]) | TEXT
    content[HELD] = ConfigRecord(draw(st.dictionaries(keys, CONFIG, max_size=3)))


def pack(draw: Draw, content: RecordDict) -> None:
    """Replace the arrays by a payload with random changes and a matching checksum."""
    record = content.array_records.get(ARRAYS, ArrayRecord())
    if STEPS in record:
        frame = draw(st.sampled_from(FRAMES))
        for _ in range(draw(st.integers(0, 3))):
            frame = bytes_from(draw, frame)
        payload = seal(frame, SIZE)
        packed = Array("uint8", (len(payload),), PACKED, payload)
        plain = {name: a for name, a in record.items() if name not in (WEIGHT, BIAS)}
        content[ARRAYS] = ArrayRecord({**plain, DELTA: packed})


MUTATIONS = [
    change_array,
    change_array,
    rename_array,
    rename_record,
    add_record,
    change_metric,
    claim_version,
    pack,
    pack,
]


def mutated(draw: Draw, content: RecordDict, message: Message) -> Message:
    """Return a reply with one to four random changes, and sometimes false metadata."""
    for mutation in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=4)):
        mutation(draw, content)
    reply = Message(content, reply_to=message)
    if draw(st.integers(0, 9)) == 0:
        fields = {
            "run_id": INTS,
            "src_node_id": INTS,
            "reply_to_message_id": TEXT,
            "group_id": TEXT,
            "message_type": st.sampled_from(["evaluate", "query", "train.x"]),
            "created_at": st.floats(),
        }
        name = draw(st.sampled_from(list(fields)))
        reply = change_envelope(reply, **{name: draw(fields[name])})
    return reply
