"""Tests of the manifests of entries that a node holds."""

import gc
import json

import pytest
import torch
from flwr.app import Array, ConfigRecord, RecordDict

from hqde_fl.protocol import held_entries
from hqde_fl.protocol.held_entries import (
    HELD_ENTRIES,
    MISSING,
    Manifest,
    array_hash,
    claimed_digest,
    equal_arrays,
    lacks_entries,
    with_held,
    without_held,
)
from hqde_fl.protocol.npy import MalformedError
from hqde_fl.protocol.omitted_entries import ENTRIES, mask_of
from hqde_fl.protocol.packed_updates import DELTA, to_packed
from hqde_fl.protocol.records import to_record

NAMES = ["backbone.0", "backbone.1", "head.weight", "head.bias", "steps"]


def arrays(shift=0.0, names=NAMES):
    """Return a model of five entries; only its head changes with the shift."""
    state = {
        name: torch.arange(6.0).reshape(2, 3) + place + (shift if "head" in name else 0)
        for place, name in enumerate(names)
    }
    return dict(to_record(state))


def store(*models):
    """Return a lookup of arrays by hash, as a cache is."""
    return {array_hash(array): array for model in models for array in model.values()}.get


def test_a_manifest_says_the_same_on_both_ends_and_survives_json():
    server, client = Manifest.of(arrays(), {"steps", "backbone.0"}), arrays(7.0)
    assert server == Manifest.of(client, ["backbone.0", "steps"])
    assert server.digest == Manifest.of(client, ["backbone.0", "steps"]).digest
    assert list(server.held) == ["backbone.0", "steps"]
    assert Manifest.from_json(server.to_json()) == server
    assert list(Manifest.from_json(server.to_json()).held) == ["backbone.0", "steps"]


@pytest.mark.parametrize(
    ("other", "chosen"),
    [
        (arrays(), ["backbone.0", "backbone.1"]),
        (arrays(1.0), ["head.bias"]),
        (arrays(names=NAMES[::-1]), ["head.bias"]),
        (arrays(names=NAMES[:-1]), ["head.bias"]),
    ],
    ids=["entries", "content", "order", "names"],
)
def test_the_digest_tells_what_differs(other, chosen):
    assert Manifest.of(other, chosen).digest != Manifest.of(arrays(), ["head.bias"]).digest


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int32"},
        {"shape": (3, 2)},
        {"stype": "other"},
        {"data": b"0" * 152},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hash_covers_each_field_of_an_array(change):
    array = arrays()["steps"]
    fields = {name: getattr(array, name) for name in ("dtype", "shape", "stype", "data")}
    other = Array(*(fields | change).values())
    assert array_hash(other) != array_hash(array)
    assert not equal_arrays(array, other)
    copy = Array(*fields.values())
    assert array_hash(copy) == array_hash(array)
    assert equal_arrays(array, copy)


def test_an_array_is_hashed_once_until_its_bytes_change(monkeypatch):
    hashed = []
    sha256 = held_entries.hashlib.sha256
    monkeypatch.setattr(
        held_entries.hashlib, "sha256", lambda data=b"": hashed.append(1) or sha256(data)
    )
    array = arrays()["steps"]
    before = array_hash(array)
    assert array_hash(array) == before
    assert len(hashed) == 1
    array.data = array.data[:-1] + b"\x01"
    assert array_hash(array) != before
    assert len(hashed) == 2


def test_hashes_are_forgotten_with_their_arrays():
    array = arrays()["steps"]
    array_hash(array)
    key = id(array)
    assert key in held_entries._KNOWN_HASHES
    del array
    gc.collect()
    assert key not in held_entries._KNOWN_HASHES


def test_arrays_in_shared_memory_equal_those_in_bytes():
    array = arrays()["steps"]
    view = Array(array.dtype, array.shape, array.stype, b"")
    view.data = memoryview(bytearray(array.data))
    assert equal_arrays(array, view)
    assert equal_arrays(view, array)
    assert array_hash(view) == array_hash(array)
    large = Array("uint8", (9000,), "raw", bytes(9000))
    assert not equal_arrays(large, Array("uint8", (9000,), "raw", bytes(8999) + b"\x01"))


@pytest.mark.parametrize("held", [NAMES, NAMES[:2], ["steps", "backbone.1"], ["head.bias"], []])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_what_is_left_out_is_filled_in_in_the_models_order(held, shift):
    before, now = arrays(), arrays(shift)
    manifest = Manifest.of(before, held)
    left, mask = without_held(now, manifest)
    valid = [name for name in held if shift == 0 or "head" not in name]
    assert list(left) == [name for name in NAMES if name not in valid]
    assert (mask is None) == (len(valid) == len(held))
    full = with_held(left, manifest, mask, store(before))
    assert list(full) == NAMES
    assert all(equal_arrays(full[name], now[name]) for name in NAMES)


def test_payloads_of_a_difference_come_last_and_packed_entries_stay_away():
    before = arrays()
    manifest = Manifest.of(before, ["backbone.0", "head.weight"])
    sent = {"backbone.0": before["backbone.0"], "steps": before["steps"]}
    sent[f"{DELTA}-0"] = to_packed(b"payload")
    left, mask = without_held(sent, manifest)
    assert list(left) == ["steps", f"{DELTA}-0"]
    full = with_held(left, manifest, mask, store(before))
    assert list(full) == ["backbone.0", "steps", f"{DELTA}-0"]


def test_an_array_that_is_not_stored_is_missed():
    before = arrays()
    manifest = Manifest.of(before, NAMES)
    left, mask = without_held(before, manifest)
    partial = {name: before[name] for name in NAMES[1:]}
    assert with_held(left, manifest, mask, store(partial)) is None


def test_a_mask_of_another_length_is_refused():
    before = arrays()
    with pytest.raises(MalformedError, match="mask of 2 bytes for 1 entries"):
        with_held({}, Manifest.of(before, ["steps"]), b"\x01\x00", store(before))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"names": ["a"], "held": []}',
        b'{"names": "a", "held": {}}',
        b'{"names": [1], "held": {}}',
        b'{"names": ["a"], "held": {"a": 1}}',
        b'{"names": ["a"], "held": {"a": "../../etc/passwd"}}',
        json.dumps({"names": ["a"], "held": {"b": "0" * 64}}).encode(),
        json.dumps({"names": ["a"], "held": {}, "more": 1}).encode(),
    ],
)
def test_what_is_no_manifest_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        Manifest.from_json(text)


DIGEST = "5" * 64


@pytest.mark.parametrize(
    "value",
    ["", "5" * 63, "5" * 65, "G" * 64, DIGEST + "\n", "../" + DIGEST, 5, 1.5, b"5", [DIGEST]],
)
def test_a_claim_that_is_no_digest_is_none(value):
    content = RecordDict({ENTRIES: ConfigRecord({HELD_ENTRIES: value})})
    assert claimed_digest(content) is None
    assert claimed_digest(content, 0) is None


def test_claims_are_read_by_member():
    record = ConfigRecord({HELD_ENTRIES: DIGEST, f"member-3/{HELD_ENTRIES}": "4" * 64})
    content = RecordDict({ENTRIES: record})
    assert claimed_digest(content) == DIGEST
    assert claimed_digest(content, 3) == "4" * 64
    assert claimed_digest(content, 2) is None
    assert claimed_digest(RecordDict()) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(1, True), (0, False), (2, False), ("1", False), ([1], False)]
)
def test_a_node_lacks_entries_only_if_it_says_so(value, expected):
    content = RecordDict({ENTRIES: ConfigRecord({MISSING: value})})
    assert lacks_entries(content) is expected
    assert not lacks_entries(RecordDict())


def test_a_mask_has_a_bit_for_each_entry_that_the_manifest_holds():
    manifest = Manifest.of(arrays(), ["backbone.1", "head.bias", "steps"])
    _, mask = without_held(arrays(1.0), manifest)
    assert mask == mask_of(["backbone.1", "steps"], manifest.held) == b"\x05"
