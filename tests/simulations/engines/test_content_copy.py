"""A copied content is what Flower would deliver."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    ConfigRecordValues,
    MetricRecord,
    MetricRecordValues,
    RecordDict,
)

from hqde_fl.simulations.engines.content_copy import copied_content
from hqde_fl.simulations.engines.flower_internals import recorddict_from_proto, recorddict_to_proto


def content() -> RecordDict:
    arrays = {"w": Array(np.ones((2, 3), np.float32)), "empty": Array(np.zeros((0, 2)))}
    config: dict[str, ConfigRecordValues] = {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "text",
        "e": b"\xff",
        "f": [1, 2],
        "g": "text: é",
    }
    metrics: dict[str, MetricRecordValues] = {
        "count": (1 << 63) + 1,
        "low": -(1 << 63),
        "nan": float("inf"),
        "list": [0.5, 1.5],
    }
    return RecordDict(
        {
            "arrays": ArrayRecord(arrays),
            "config": ConfigRecord(config),
            "plain": ConfigRecord({"a": 1, "b": 0.5, "c": True, "d": "text", "e": b"\xff"}),
            "metrics": MetricRecord(metrics),
            "numbers": MetricRecord({"loss": 0.25, "count": 3}),
        }
    )


def test_it_is_what_flower_delivers() -> None:
    given = content()
    copied, delivered = copied_content(given), recorddict_from_proto(recorddict_to_proto(given))
    assert copied == delivered == given
    for name, record in copied.items():
        assert record is not given[name]
        assert list(record) == list(given[name])
        assert [type(v) for v in record.values()] == [type(v) for v in delivered[name].values()]
    assert copied.object_id == delivered.object_id


def test_nothing_that_can_change_is_shared() -> None:
    given, memory = content(), bytearray(Array(np.ones(2)).data)
    shared = Array("float64", (2,), "numpy.ndarray", b"")
    shared.data = memoryview(memory)  # type: ignore[assignment]
    arrays, config = given.array_records["arrays"], given.config_records["config"]
    arrays["shared"] = shared
    config["f"] = listed = [1, 2]
    copied = copied_content(given)
    memory[-1] = 0
    arrays["w"].data = b""
    listed.append(3)
    given.metric_records["numbers"]["loss"] = 1.0
    assert copied.array_records["arrays"]["shared"].numpy().tolist() == [1.0, 1.0]
    assert copied.array_records["arrays"]["w"].data == content().array_records["arrays"]["w"].data
    assert copied.config_records["config"]["f"] == [1, 2]
    assert copied.metric_records["numbers"]["loss"] == 0.25


@pytest.mark.parametrize(
    "record",
    [
        MetricRecord({"count": 1 << 70}),
        ConfigRecord({"half": "\ud800"}),
        ConfigRecord({"\ud800": 1}),
    ],
    ids=["a number too large", "half a character", "half a character in a key"],
)
def test_what_flower_cannot_carry_is_refused(record: MetricRecord | ConfigRecord) -> None:
    with pytest.raises((ValueError, UnicodeError)):
        copied_content(RecordDict({"record": record}))
