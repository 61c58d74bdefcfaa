"""Honest replies of any size pass the limits that follow from what was sent."""

from __future__ import annotations

from collections.abc import Mapping

import flwr.app.message.array as flower_array
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from hqde_fl.simulations.audit.grid import AuditGrid
from hqde_fl.simulations.audit.message_objects import to_objects
from hqde_fl.simulations.audit.peak_memory import PeakMeter, memory_bound
from hqde_fl.simulations.audit.upload_changes import encode_object
from hqde_fl.simulations.engines.deployment import guarded_grid, inflate, limits
from hqde_fl.simulations.engines.deployment.guarded_grid import raise_limits
from hqde_fl.simulations.engines.deployment.limits import Limits, ReplyError, text_bytes


@pytest.fixture(autouse=True)
def _node() -> None:
    AuditGrid(None)  # sets the identity of this process, which messages need


def objects(content: RecordDict) -> tuple[str, Mapping[str, bytes]]:
    """Return the id and the objects in which a message is sent."""
    wire = to_objects(Message(content, dst_node_id=1, message_type="train"))
    return wire.root, wire.objects


def model(arrays: Mapping[str, np.ndarray]) -> RecordDict:
    record = ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})
    return RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 3})})


MODELS: dict[str, Mapping[str, np.ndarray]] = {
    "5,000 arrays": {
        f"encoder.layers.{count}.attention.output.dense.LayerNorm.weight": np.full(8, count)
        for count in range(5000)
    },
    "long names": {f"{count}" + "x" * 2000: np.full(2, count) for count in range(300)},
    "names in other letters": {f"слой.{count}.重み.😀": np.full(2, count) for count in range(1000)},
    "eight dimensions": {
        f"w{count}": np.full((1, 2, 1, 3, 1, 2, 1, 2), count, np.float32) for count in range(300)
    },
    "one array": {"w": np.arange(5.0)},
    "no numbers": {"w": np.zeros((0, 3)), "v": np.zeros(())},
}


@pytest.mark.parametrize("name", MODELS)
def test_honest_replies_pass(name: str) -> None:
    sent = model(MODELS[name])
    root, parts = objects(model({key: values + 1 for key, values in MODELS[name].items()}))
    received = sum(len(key) + len(part) for key, part in parts.items())
    bounds, meter = raise_limits(Limits(1 << 20, 64), sent), PeakMeter()
    meter.start()
    found = inflate.inflate(root, parts, bounds)
    growth = meter.stop()
    assert isinstance(found, RecordDict)
    assert list(found["arrays"]) == list(MODELS[name])
    assert growth is None or growth <= memory_bound(received)


def test_the_text_of_a_message_is_about_what_is_counted() -> None:
    for arrays in MODELS.values():
        content = model(arrays)
        parts = objects(content)[1].values()
        text = sum(len(part) for part in parts if not part.startswith(b"ArrayChunk"))
        assert 0.5 * text < text_bytes(content) + 1000 < 3 * text + 2000


def test_a_model_of_many_chunks_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many chunks as 1 GB in 5 MiB each, and as 1 GB of zeros, which is one chunk 200 times."""
    for module, name in [
        (flower_array, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"),
        (limits, "CHUNK_BYTES"),
        (inflate, "CHUNK_BYTES"),
        (guarded_grid, "CHUNK_BYTES"),
    ]:
        monkeypatch.setattr(module, name, 5 << 10)
    for values in (np.arange(1 << 17, dtype=np.float64), np.zeros(1 << 17)):
        content = model({"w": values})
        root, parts = objects(content)
        found = inflate.inflate(root, parts, raise_limits(Limits(1 << 10, 8), content))
        assert found == content


def test_a_reply_may_hold_a_few_times_the_metrics_and_configs_of_any_honest_one() -> None:
    records = {
        "metrics": MetricRecord({f"{'m' * 128}{count}": 0.5 for count in range(64)}),
        "lists": MetricRecord({"confusion": [0.5] * 50_000, "counts": list(range(50_000))}),
        "config": ConfigRecord({"bytes": bytes(500_000), "names": ["ab"] * 5000}),
    }
    for name, record in records.items():
        root, parts = objects(RecordDict({name: record}))
        assert inflate.inflate(root, parts, Limits(16 << 20, 256)) == RecordDict({name: record})


def test_a_reply_may_have_many_records_of_arrays() -> None:
    """Replies for an ensemble have one for each member."""
    members = {f"member-{k}": ArrayRecord({"w": Array(np.full(2, k))}) for k in range(60)}
    root, parts = objects(RecordDict({**members, "metrics": MetricRecord({"num-examples": 3})}))
    found = inflate.inflate(root, parts, Limits(16 << 20, 256))
    assert isinstance(found, RecordDict)
    assert dict(found.array_records) == members


def test_an_array_of_many_chunks_is_weighed_as_any_other() -> None:
    """A large model's limits leave room for megabytes of JSON: one entry for each chunk."""
    chunk, content = encode_object("ArrayChunk", [], b"x")
    shape = "[[[[[]]]]]," * 200_000
    text = f'{{"dtype": "f", "shape": [{shape}0], "stype": "n", "arraychunk_ids": [0]}}'
    array, described = encode_object("Array", [chunk], text.encode())
    record, names = encode_object("ArrayRecord", [array], f'{{"w": "{array}"}}'.encode())
    top, records = encode_object("RecordDict", [record], f'{{"r": "{record}"}}'.encode())
    message, body = encode_object("Message", [top], b"")
    parts = {chunk: content, array: described, record: names, top: records, message: body}
    with pytest.raises(ReplyError, match="reading it takes more than"):
        inflate.inflate(message, parts, Limits(1 << 40, 10**6))


def test_limits_follow_from_what_was_sent() -> None:
    start = Limits(1 << 10, 8, max_text_bytes=0)
    small, large = (model({f"w{k}": np.zeros(9) for k in range(n)}) for n in (10, 1000))
    few, many = raise_limits(start, small), raise_limits(start, large)
    assert 4 * text_bytes(large) == many.text_bytes > 50 * few.text_bytes
    assert raise_limits(many, small) == many
    heavy = raise_limits(start, model({"w": np.zeros(10**6)}))
    assert heavy.text_bytes < 10_000 < 10**7 < heavy.max_bytes


def test_without_a_limit_on_text_there_is_one() -> None:
    assert Limits(1 << 40, 8).text_bytes == 1 << 18
    assert Limits(1 << 40, 10_000).text_bytes == 10_000 << 10
    assert Limits(1 << 40, 8, max_text_bytes=5).text_bytes == 5


def test_text_is_counted_over_all_objects() -> None:
    root, parts = objects(model(MODELS["eight dimensions"]))
    with pytest.raises(ReplyError, match="types, ids, names and shapes take more than 20000 bytes"):
        inflate.inflate(root, parts, Limits(1 << 30, 10_000, max_text_bytes=20_000))
