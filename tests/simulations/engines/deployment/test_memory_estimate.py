"""Estimates of the memory that bytes take once parsed are never too low."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.simulations.audit.peak_memory import PeakMeter
from hqde_fl.simulations.audit.upload_changes import encode_object, protobuf_field
from hqde_fl.simulations.engines.deployment.memory_estimate import (
    fields,
    json_weight,
    message_weight,
)
from hqde_fl.simulations.engines.flower_internals import (
    ProtoConfigRecord,
    ProtoMessage,
    ProtoMetricRecord,
)

SIZE = 300_000
NO_LIMIT = 1 << 40
PIECES = [
    "{}, ",
    "[],",
    "[[[[[]]]]],",
    '{"":{}},',
    '{"":0},',
    '{"a":{"b":{"c":{"d":[]}}}},',
    "0,",
    "-1234567,",
    "0e0,",
    "NaN,",
    "null,",
    '"",',
    '"ab",',
    '"\\u4e2d\\u6587",',
    '"\\ud83d\\ude00",',
    '"😀",',
    "99999999999999999999999999,",
]
TABLES = ['"{:05x}":0,', '"{:05x}":"",', '"{:05x}":{{}},', '"{:05x}😀":[],', '"":{:05},']
ONE_TEXT = ['"' + "x" * SIZE + '"', '"' + "x" * SIZE + '😀"', '"' + "x" * SIZE + '\\ud83d\\ude00"']
HOSTILE = [
    *("[" + piece * (SIZE // len(piece)) + "0]" for piece in PIECES),
    *("{" + "".join(map(row.format, range(30_000))) + '"":0}' for row in TABLES),
    *ONE_TEXT,
    "[" * SIZE,
    '{"":' * SIZE,
    '{"a":[' * SIZE,
    "[{}," * SIZE,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_json_takes_no_more_than_its_weight(text: str) -> None:
    data = text.encode()
    tracemalloc.start()
    with suppress(RecursionError, ValueError):
        json.loads(data.decode())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= json_weight(data)


def test_honest_names_weigh_a_few_times_their_bytes() -> None:
    names = {f"encoder.layers.{i}.attention.output.weight": f"{i:064x}" for i in range(5000)}
    text = json.dumps(names).encode()
    assert json_weight(text) < 6 * len(text)


def many(value: bytes, count: int = 8_000) -> bytes:
    """Return metrics with one value and different names."""
    keys = (protobuf_field(1, b"%05x" % each) for each in range(count))
    return b"".join(protobuf_field(1, key, protobuf_field(2, value)) for key in keys)


def one(value: bytes) -> bytes:
    return protobuf_field(1, protobuf_field(1, b"x"), protobuf_field(2, value))


METRICS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: protobuf_field(1) * 60_000,
    "numbers": lambda: many(b"\x09" + bytes(8)),
    "integers": lambda: many(b"\x10\x02"),
    "lists": lambda: many(protobuf_field(22, protobuf_field(1, b"\x02\x02"))),
    "empty lists": lambda: many(protobuf_field(21)),
    "one list of floats": lambda: one(protobuf_field(21, protobuf_field(1, b"\x01" * 1_600_000))),
    "one list of small integers": lambda: one(
        protobuf_field(22, protobuf_field(1, b"\x02" * 400_000))
    ),
    "one list of integers": lambda: one(
        protobuf_field(22, protobuf_field(1, b"\x80\x7f" * 200_000))
    ),
    "one list, not packed": lambda: one(protobuf_field(22, b"\x08\x02" * 80_000)),
    "one name": lambda: one(b"\x10\x02") * 20_000,
    "unknown fields": lambda: protobuf_field(100) * 60_000,
}
CONFIGS: dict[str, Callable[[], bytes]] = {
    "strings": lambda: one(protobuf_field(25, protobuf_field(1, b"ab") * 50_000)),
    "empty strings": lambda: one(protobuf_field(25, protobuf_field(1) * 60_000)),
    "bytes": lambda: one(protobuf_field(26, protobuf_field(1, b"ab") * 50_000)),
    "truths": lambda: one(protobuf_field(24, protobuf_field(1, b"\x01" * 400_000))),
    "one string": lambda: one(protobuf_field(5, b"x" * 1_000_000 + "😀".encode())),
    "one value": lambda: one(protobuf_field(6, b"x" * 1_000_000)),
}
NOISE = 4 << 20


def taken(call: Callable[[], Any]) -> int | None:
    """Return the growth of memory during a call, in bytes."""
    meter = PeakMeter()
    meter.start()
    with suppress(Exception):
        call()
    return meter.stop()


@pytest.mark.parametrize(
    ("kind", "make"),
    [(MetricRecord, make) for make in METRICS.values()]
    + [(ConfigRecord, make) for make in CONFIGS.values()],
    ids=[*METRICS, *CONFIGS],
)
def test_a_record_takes_no_more_than_its_weight(kind: Any, make: Callable[[], bytes]) -> None:
    body = make()
    proto: Any = ProtoMetricRecord if kind is MetricRecord else ProtoConfigRecord
    content = encode_object(kind.__name__, [], body)[1]

    def read() -> None:
        message_bytes(RecordDict({"x": kind.inflate(content, children={})}))

    growth = taken(read)  # None where no platform says: the estimates are the same there
    assert growth is None or growth <= message_weight(body, proto.DESCRIPTOR, NO_LIMIT) + NOISE


@pytest.mark.parametrize(
    "body",
    [
        protobuf_field(2, protobuf_field(1) * 60_000),
        protobuf_field(3, protobuf_field(2, b"x")) * 30_000,
        protobuf_field(3, protobuf_field(2, b"x" * 1_000_000)),
        protobuf_field(1, protobuf_field(100) * 60_000),
    ],
    ids=["records", "reasons", "reason", "unknown"],
)
def test_a_message_takes_no_more_than_its_weight(body: bytes) -> None:
    growth = taken(lambda: ProtoMessage.FromString(body))
    weight = message_weight(body, ProtoMessage.DESCRIPTOR, NO_LIMIT)
    assert growth is None or growth <= weight + NOISE


def test_counting_stops_at_the_limit() -> None:
    body = protobuf_field(1) * 1_000_000
    assert message_weight(body, ProtoMetricRecord.DESCRIPTOR, 10_000) < 12_000


@given(data=st.binary(max_size=60))
def test_fields_of_any_bytes_lie_inside_and_in_order(data: bytes) -> None:
    place = 0
    for number, wire, start, end in fields(data):
        assert place < start <= end <= len(data) or place < start == end
        assert number >= 0
        assert wire < 6
        place = end
    message_weight(data, ProtoConfigRecord.DESCRIPTOR, NO_LIMIT)
