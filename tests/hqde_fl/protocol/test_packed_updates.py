"""Screening of packed updates: any bytes give an answer, never an exception."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.metadata import Metadata
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.codec import EntropyCoded, ErrorFeedback, Identity, Quantized, Rotated, TopK
from hqde_fl.codec.payload import seal
from hqde_fl.protocol.flower_internals import make_message
from hqde_fl.protocol.packed_updates import DELTA, PACKED, packed_entries, to_packed
from hqde_fl.protocol.records import layout_of, to_record
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, SentModel, screen
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import Roles

MODEL = {
    "weight": torch.randn(40, 30, generator=torch.Generator().manual_seed(1)),
    "bias": torch.zeros(2),
    "half": torch.ones(30, dtype=torch.bfloat16),
    "steps": torch.tensor(3),
}
LAYOUT = layout_of(to_record(MODEL))
FLAT, OTHERS = LAYOUT.flatten(MODEL)
SENT = SentModel(LAYOUT, FLAT, OTHERS)
ENTRIES = packed_entries(LAYOUT)
NAMES = set(MODEL) - {entry.name for entry in ENTRIES}
DELTAS = torch.randn(len(FLAT), generator=torch.Generator().manual_seed(2))
CODECS = (
    Identity(),
    Quantized(3),
    EntropyCoded(2),
    Rotated(Quantized(2, levels="lloyd-max")),
    ErrorFeedback(TopK(0.1, Quantized(4))),
)


def screened(payload: Array) -> Accepted | Rejected:
    record = to_record({name: MODEL[name] for name in NAMES})
    record[DELTA] = payload
    content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 3})})
    metadata = Metadata(1, "m", 2, 1, "q", "", 0.0, 10.0, "train")
    reply: Message = make_message(metadata, content=content)
    return screen(reply, SENT, Screening())


def packed_numbers(flat: torch.Tensor) -> torch.Tensor:
    return torch.cat([flat[entry.span] for entry in ENTRIES])


def payloads() -> list[bytes]:
    delta = packed_numbers(DELTAS)
    return [codec.encode(delta, {}, np.random.default_rng(0))[0] for codec in CODECS]


PAYLOADS = payloads()


def test_packed_arrays_are_differences_and_the_others_are_not() -> None:
    assert {"bias", "steps"} == NAMES
    for payload in PAYLOADS:
        found = screened(to_packed(payload))
        assert isinstance(found, Accepted)
        assert found.delta.shape == FLAT.shape
        assert not bool(found.delta[1200:1202].any())
        assert int(found.others["steps"]) == 3
    exact_one = screened(to_packed(PAYLOADS[0]))
    assert isinstance(exact_one, Accepted)
    assert torch.equal(packed_numbers(exact_one.delta), packed_numbers(DELTAS))


@settings(max_examples=400, deadline=None)
@given(
    payload=st.sampled_from(PAYLOADS),
    changes=st.lists(st.tuples(st.integers(16, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 64),
    length=st.sampled_from([0, 1, 1230, 1232, 10**6, 10**12, 2**63]),
    sealed=st.booleans(),
    shape=st.sampled_from([None, (), (1,), (10**6, 10**6)]),
    dtype=st.sampled_from(["uint8", "float32", "object"]),
)
def test_no_payload_raises(payload, changes, cut, length, sealed, shape, dtype) -> None:  # type: ignore[no-untyped-def]
    data = bytearray(payload)
    for place, value in changes:
        data[place % len(data)] = value
    data = data[: len(data) - cut]
    claimed = length or 1230
    final = seal(bytes(data[16:]), min(claimed, 2**63)) if sealed else bytes(data)
    array = Array(dtype, (len(final),) if shape is None else shape, PACKED, final)
    found = screened(array)
    if isinstance(found, Accepted):
        assert bool(torch.isfinite(found.delta).all())
    else:
        assert found.reason.startswith("packed update: ")


def test_an_empty_record_of_arrays_is_no_packed_update() -> None:
    content = RecordDict({"arrays": ArrayRecord(), "metrics": MetricRecord({"num-examples": 3})})
    reply = make_message(Metadata(1, "m", 2, 1, "q", "", 0.0, 10.0, "train"), content=content)
    found = screen(reply, SENT, Screening())
    assert found == Rejected("missing array 'bias'")


def test_both_ends_pack_the_same_weights_after_a_thaw() -> None:
    """The server puts a thawed weight last in its vector; the client sees the model's order."""
    model = {"a": torch.zeros(15), "b": torch.zeros(15), "c": torch.zeros(10_000)}
    triples = [(name, tuple(tensor.shape), "float32") for name, tensor in model.items()]
    server = Layout.of(triples, Roles({"a": "frozen"})).with_roles({"a": "trainable"}, {})
    client = Layout.from_codes(triples, server.codes, server.tied_pairs)
    assert [entry.name for entry in server.weights] == ["b", "c", "a"]
    names = [[entry.name for entry in packed_entries(layout)] for layout in (server, client)]
    assert names[0] == names[1]
