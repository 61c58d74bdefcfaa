"""Records: state dicts survive them, and no bytes make screening raise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.protocol import npy
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, SentModel, screen

MODEL = {
    "weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),
    "half": torch.ones(3, dtype=torch.float16),
    "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
}


def reply(record: ArrayRecord, metrics: MetricRecord | None = None) -> Message:
    metrics = metrics or MetricRecord({"num-examples": 3})
    metadata = Metadata(1, "m", 2, 1, "q", "", 0.0, 10.0, "train")
    return make_message(metadata, content=RecordDict({"arrays": record, "metrics": metrics}))


def test_a_state_dict_survives_a_record() -> None:
    back = from_record(to_record(MODEL))
    assert list(back) == list(MODEL)
    for name, tensor in MODEL.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_flatten_and_restore_are_inverse() -> None:
    layout = layout_of(to_record(MODEL))
    flat, buffers = layout.flatten(MODEL)
    assert flat.shape == (layout.size,) == (17,)
    assert flat.dtype == torch.float32
    assert set(buffers) == {"count", "mask"}
    for name, tensor in layout.restore(flat, buffers).items():
        assert tensor.dtype == MODEL[name].dtype
        assert torch.equal(tensor, MODEL[name])


def test_float64_models_stay_float64() -> None:
    layout = layout_of(to_record({"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(1)}))
    assert layout.dtype == torch.float64


def test_fortran_order_is_read_right() -> None:
    record = to_record(MODEL)
    record["weight"] = Array(MODEL["weight"].T.contiguous().numpy().T)
    assert torch.equal(from_record(record)["weight"], MODEL["weight"])


def test_the_delta_is_exact_for_small_updates() -> None:
    """Close float32 numbers subtract without rounding: the update is what the client computed."""
    moved = {name: tensor.clone() for name, tensor in MODEL.items()}
    moved["weight"] += 1e-6
    layout = layout_of(to_record(MODEL))
    flat, others = layout.flatten(MODEL)
    screened = screen(reply(to_record(moved)), SentModel(layout, flat, others), Screening())
    assert isinstance(screened, Accepted)
    exact = moved["weight"].double() - MODEL["weight"].double()
    assert torch.equal(screened.delta[:12].double(), exact.flatten())
    assert torch.equal(flat, layout.flatten(MODEL)[0])


@given(sizes=st.lists(st.integers(0, 40_000), max_size=4), name=st.text(min_size=1, max_size=200))
def test_message_bytes_are_those_of_flowers_own_serialisation(sizes: list[int], name: str) -> None:
    arrays = {f"{name}{i}": Array("uint8", (s, 3), "x", bytes(s)) for i, s in enumerate(sizes)}
    metrics = MetricRecord({"a": 1, "b": [0.5, 2.0]})
    content = RecordDict({name: ArrayRecord(arrays), "metrics": metrics, "empty": ConfigRecord()})
    assert message_bytes(content) == recorddict_to_proto(content).ByteSize()


INTS = st.integers(-(2**63), 2**64 - 1)
SMALL_INTS = st.integers(-(2**63), 2**63 - 1)
LISTS = st.lists(SMALL_INTS) | st.lists(st.integers(0, 2**64 - 1)) | st.lists(st.floats())
CONFIGS = st.booleans() | st.text() | st.binary() | st.lists(st.booleans())
MORE_LISTS = st.lists(st.text(max_size=200)) | st.lists(st.binary(max_size=200))


@given(
    metrics=st.dictionaries(st.text(), INTS | st.floats() | LISTS),
    configs=st.dictionaries(st.text(), INTS | CONFIGS | LISTS | MORE_LISTS),
)
def test_metrics_and_configs_are_counted_as_flower_serialises_them(
    metrics: dict[str, Any], configs: dict[str, Any]
) -> None:
    content = RecordDict({"m": MetricRecord(metrics), "c": ConfigRecord(configs)})
    assert message_bytes(content) == recorddict_to_proto(content).ByteSize()


def test_values_that_no_message_can_hold_are_counted() -> None:
    record = ConfigRecord({"\udcff": "\udcff", "x": 2**70, "y": [2**70, -(2**70)]})
    assert message_bytes(RecordDict({"c": record})) > 30


def test_long_headers_are_not_cached() -> None:
    """A client could fill the memory: each takes up to 4 KB, and its parsed form as much again."""
    npy._parse_header.cache_clear()
    for count in range(3):
        shape = ", ".join(["1"] * (600 + count))
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape})}}\n".encode()
        data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(4)
        record = ArrayRecord({"weight": Array("float32", (1,), "numpy.ndarray", data)})
        with pytest.raises(ValueError, match=r"the \.npy header says float32 \(1, 1, 1"):
            from_record(record)
    assert npy._parse_header.cache_info().currsize == 0
    from_record(to_record(MODEL))
    assert npy._parse_header.cache_info().currsize > 0


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("length", "taken"), [(118, True), (4096, True), (4097, False)])
def test_the_header_of_an_array_is_at_most_4096_bytes_long(
    length: int, taken: bool, version: int
) -> None:
    """NumPy pads a header to 64 or 128 bytes; parsing one of megabytes would take long."""
    width = 2 if version == 1 else 4
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"
    text = text.ljust(length - 8 - width - 1) + b"\n"
    header = bytes([*b"\x93NUMPY", version, 0]) + len(text).to_bytes(width, "little") + text
    assert len(header) == length
    data = header + np.array([1.0, 2.0], "<f4").tobytes()
    sent = to_record(MODEL | {"weight": torch.zeros(2)})
    layout = layout_of(sent)
    sent["weight"] = Array("float32", (2,), "numpy.ndarray", data)
    flat, others = layout.flatten(MODEL | {"weight": torch.zeros(2)})
    outcome = screen(reply(sent), SentModel(layout, flat, others), Screening())
    if taken:
        assert isinstance(outcome, Accepted)
        assert outcome.delta[:2].tolist() == [1, 2]
    else:
        assert isinstance(outcome, Rejected)
        assert ".npy header" in outcome.reason


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_mutated_bytes_make_screening_raise(data: st.DataObject) -> None:
    """Flip, cut and insert bytes anywhere in an array: the reply is accepted finite or rejected."""
    record = to_record(MODEL)
    name = data.draw(st.sampled_from(sorted(MODEL)))
    array = record[name]
    raw = bytearray(array.data)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip" and raw:
            raw[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del raw[at:]
        else:
            raw[at:at] = data.draw(st.binary(max_size=20))
    record[name] = Array(array.dtype, array.shape, array.stype, bytes(raw))
    layout = layout_of(to_record(MODEL))
    flat, others = layout.flatten(MODEL)
    screened = screen(reply(record), SentModel(layout, flat, others), Screening())
    if isinstance(screened, Accepted):
        assert bool(torch.isfinite(screened.delta).all())
    else:
        assert isinstance(screened, Rejected)
        assert screened.reason


@settings(max_examples=100, deadline=None)
@given(
    dtype=st.one_of(st.sampled_from(["float32", "object", "O", "V8", "f4,f4", ""]), st.text()),
    shape=st.lists(st.integers(-(2**62), 2**62), max_size=4).map(tuple),
    stype=st.one_of(st.sampled_from(["numpy.ndarray", "hqde.bfloat16"]), st.text()),
    raw=st.binary(max_size=64),
)
def test_no_declared_array_makes_screening_raise(
    dtype: str, shape: tuple[int, ...], stype: str, raw: bytes
) -> None:
    layout = layout_of(to_record(MODEL))
    flat, others = layout.flatten(MODEL)
    record = to_record(MODEL)
    record["weight"] = Array(dtype, shape, stype, raw)
    assert isinstance(screen(reply(record), SentModel(layout, flat, others), Screening()), Rejected)


@pytest.mark.parametrize(
    ("metrics", "taken"),
    [
        ({"num-examples": 1e9}, True),
        ({"num-examples": math.nextafter(1e9, math.inf)}, False),
        ({"num-examples": 1e-9}, True),
        ({"num-examples": 0}, False),
        ({"num-examples": 1, "x" * 128: 1.0}, True),
        ({"num-examples": 1, "x" * 129: 1.0}, False),
        ({"num-examples": 1, "x": 1.0}, True),
        ({"num-examples": 1, "": 1.0}, False),
        ({"num-examples": 1} | {f"metric-{k}": 1.0 for k in range(63)}, True),
        ({"num-examples": 1} | {f"metric-{k}": 1.0 for k in range(64)}, False),
    ],
    ids=lambda value: f"{len(value)} metrics" if isinstance(value, dict) else str(value),
)
def test_the_default_limits_of_metrics(metrics: dict[str, float], taken: bool) -> None:
    """At most 64 metrics, names of 1 to 128 characters, num-examples in (0, 1e9]."""
    sent = to_record(MODEL)
    layout = layout_of(sent)
    flat, others = layout.flatten(MODEL)
    outcome = screen(
        reply(sent, MetricRecord(metrics)), SentModel(layout, flat, others), Screening()
    )
    assert isinstance(outcome, Accepted if taken else Rejected)
    if isinstance(outcome, Accepted):
        assert outcome.num_examples == metrics["num-examples"]
        assert outcome.metrics == {k: v for k, v in metrics.items() if k != "num-examples"}


def test_list_metrics_can_be_allowed_but_never_as_a_weight() -> None:
    layout = layout_of(to_record(MODEL))
    flat, others = layout.flatten(MODEL)
    metrics = MetricRecord({"num-examples": 3, "history": [0.1, 0.2], "loss": float("nan")})
    limits = Screening(allow_list_metrics=True)
    screened = screen(reply(to_record(MODEL), metrics), SentModel(layout, flat, others), limits)
    assert isinstance(screened, Accepted)
    assert screened.metrics == {}
    metrics["num-examples"] = [1, 2]
    assert isinstance(
        screen(reply(to_record(MODEL), metrics), SentModel(layout, flat, others), limits), Rejected
    )
