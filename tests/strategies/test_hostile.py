"""HQDEStrategy names and counts hostile replies, which have no effect on the model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from hqde_fl.codec import Quantized
from hqde_fl.codec.payload import seal
from hqde_fl.protocol.packed_updates import DELTA, PACKED
from hqde_fl.rules import TrimmedMean
from tests.strategies.federation import (
    HOSTILE,
    MODEL,
    Recorder,
    Tamper,
    change,
    crash,
    extra,
    metric,
    run,
    strategy_with,
    weight,
    without,
)


def one_nan() -> np.ndarray:
    values = np.ones((2, 3), np.float32)
    values[1, 1] = np.nan
    return values


def npy(values: np.ndarray) -> bytes:
    return Array(values).data


def packed(payload: bytes, length: int | None = None, **others: Array) -> Tamper:
    """Return a tampering that sends a payload instead of the float arrays.

    ``others`` are arrays beside it; None removes the array of that name.
    """

    def tamper(content: RecordDict) -> RecordDict:
        steps = content.array_records["arrays"]["steps"]
        payload_array = Array("uint8", (length or len(payload),), PACKED, payload)
        arrays = {"steps": steps, DELTA: payload_array, **others}
        record = ArrayRecord({name: array for name, array in arrays.items() if array})
        content["arrays"] = record
        return content

    return tamper


def misdated(payload: bytes) -> bytes:
    """Return a payload with its version changed to a later one."""
    return payload[:2] + b"\x09" + payload[3:]


FLAT = np.ones((2, 3), np.float32)
HUGE_HEADER = npy(FLAT).replace(b"(2, 3), }", b"(131072, 131072), }")
GARBAGE = bytes(range(256))
PAYLOAD = Quantized(4).encode(torch.ones(8), {}, np.random.default_rng(0))[0]
MANY = {"num-examples": 1, **{f"m{i}": 1.0 for i in range(100)}}


HOSTILE_REPLIES: dict[str, tuple[Tamper, str]] = {
    "nan": (weight(one_nan()), "rejected: non-finite update"),
    "inf": (weight(np.full((2, 3), np.inf, np.float32)), "rejected: non-finite update"),
    "transposed": (weight(FLAT.T.copy()), "rejected: wrong shape (3, 2) of 'layer.weight'"),
    "broadcastable": (weight(np.ones((1, 3), np.float32)), "rejected: wrong shape (1, 3)"),
    "zero-d": (weight(np.array(1, np.float32)), "rejected: wrong shape ()"),
    "float64": (weight(np.ones((2, 3))), "rejected: wrong dtype 'float64'"),
    "strings": (weight(np.full((2, 3), "x")), "rejected: wrong dtype '<U1'"),
    "integers for a float": (weight(np.ones((2, 3), np.int32)), "rejected: wrong dtype 'int32'"),
    "missing key": (without("arrays", "layer.bias"), "rejected: missing array 'layer.bias'"),
    "extra key": (change("more", Array(FLAT)), "rejected: unknown array 'more'"),
    "no arrays": (without("arrays"), "rejected: expected one ArrayRecord 'arrays', found 0"),
    "two array records": (
        extra("again", ArrayRecord([FLAT])),
        "rejected: expected one ArrayRecord 'arrays', found 2",
    ),
    "no metrics": (without("metrics"), "rejected: expected one MetricRecord, found 0"),
    "two metric records": (extra("again", MetricRecord()), "rejected: expected one MetricRecord"),
    "missing metric": (without("metrics", "num-examples"), "rejected: metric 'num-examples' is mi"),
    "list as weight": (metric("num-examples", [1, 2]), "rejected: metric 'num-examples' is a list"),
    "list as metric": (metric("train-loss", [0.1]), "rejected: metric 'train-loss' is a list"),
    "negative num-examples": (metric("num-examples", -999), "rejected: num-examples -999 is not"),
    "zero num-examples": (metric("num-examples", 0), "rejected: num-examples 0 is not in"),
    "NaN num-examples": (metric("num-examples", math.nan), "rejected: num-examples nan"),
    "huge num-examples": (metric("num-examples", 1e18), "rejected: num-examples 1e+18 is not in"),
    "many metrics": (extra("metrics", MetricRecord(MANY)), "rejected: expected at most 64 metrics"),
    "raises": (crash, "failed: ValueError: out of luck"),
    "returns nothing": (lambda content: None, "failed: "),
    "garbage bytes": (
        change("layer.weight", Array("float32", (2, 3), "numpy.ndarray", GARBAGE)),
        "rejected: not the bytes of an .npy array",
    ),
    "no bytes": (
        change("layer.weight", Array("float32", (2, 3), "numpy.ndarray", b"")),
        "rejected: not the bytes of an .npy array",
    ),
    "truncated": (
        change("layer.weight", Array("float32", (2, 3), "numpy.ndarray", npy(FLAT)[:-4])),
        "rejected: 20 bytes for 6 numbers of float32",
    ),
    "header claims 64 GiB": (
        change("layer.weight", Array("float32", (2, 3), "numpy.ndarray", HUGE_HEADER)),
        "rejected: the .npy header says float32 (131072, 131072)",
    ),
    "unknown stype": (
        change("layer.weight", Array("float32", (2, 3), "pickle", npy(FLAT))),
        "rejected: unknown serialisation type 'pickle'",
    ),
    "lying dtype": (
        change("layer.weight", Array("float32", (2, 3), "numpy.ndarray", npy(np.ones((2, 3))))),
        "rejected: the .npy header says float64",
    ),
    "packed, cut": (packed(PAYLOAD[:-1]), "rejected: packed update: the checksum does not match"),
    "packed, a bit flipped": (
        packed(PAYLOAD[:-1] + bytes([PAYLOAD[-1] ^ 1])),
        "rejected: packed update: the checksum does not match",
    ),
    "packed, empty": (packed(b"", 0), "rejected: packed update: 0 bytes are too few"),
    "packed, garbage": (packed(GARBAGE), "rejected: packed update: expected a payload of version"),
    "packed, later version": (
        packed(misdated(PAYLOAD)),
        "rejected: packed update: expected a payload of version 1",
    ),
    "packed, too few numbers": (
        packed(Quantized(4).encode(torch.ones(7), {}, np.random.default_rng(0))[0]),
        "rejected: packed update: payload of 7 values, expected 8",
    ),
    "packed, 10^12 numbers": (
        packed(seal(PAYLOAD[16:], 10**12)),
        "rejected: packed update: payload of 1000000000000 values, expected 8",
    ),
    "packed, unknown codec": (
        packed(seal(b"\x63", 8)),
        "rejected: packed update: unknown codec 99",
    ),
    "packed, ends early": (
        packed(seal(PAYLOAD[16:-2], 8)),
        "rejected: packed update: payload ends early",
    ),
    "packed, not finite": (
        packed(seal(b"\x00\x04" + np.full(8, np.nan, "<f4").tobytes(), 8)),
        "rejected: packed update: the payload holds a number that is not finite",
    ),
    "packed, far too long": (
        packed(bytes(1 << 17)),
        "rejected: packed update: 131072 bytes for 8 numbers, expected at most",
    ),
    "packed, lying shape": (
        packed(PAYLOAD, 2**31 - 1),
        "rejected: packed update: 'hqde.delta' is no array of",
    ),
    "packed, without its counter": (
        packed(PAYLOAD, steps=None),  # type: ignore[arg-type]
        "rejected: missing array 'steps'",
    ),
    "packed, an unknown array": (packed(PAYLOAD, more=Array(FLAT)), "rejected: unknown array"),
    "packed twice": (
        packed(PAYLOAD, **{"layer.bias": Array("float32", (2,), PACKED, PAYLOAD)}),
        "rejected: packed update: payload of 8 values, expected 6",
    ),
    "packed, another's array wrong": (
        packed(PAYLOAD, **{"layer.bias": Array(FLAT)}),
        "rejected: wrong shape (2, 3) of 'layer.bias'",
    ),
    "plain under the packed name": (
        change("hqde.delta", Array(FLAT)),
        "rejected: unknown array 'hqde.delta'",
    ),
    "code in the header": (
        change(
            "layer.weight",
            Array("float32", (2, 3), "numpy.ndarray", b"\x93NUMPY\x01\x00\x0a\x00exit(1)   "),
        ),
        "rejected: malformed reply (ValueError",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_REPLIES)
def test_a_hostile_reply_is_named_and_the_honest_mean_kept(name: str) -> None:
    tamper, reason = HOSTILE_REPLIES[name]
    recorder = Recorder()
    model = run(strategy_with(recorder), tamper)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.values())
    torch.testing.assert_close(model["layer.weight"], MODEL["layer.weight"] + 2, atol=0.05, rtol=0)
    for round_ in (1, 2):
        culprit = recorder.client(HOSTILE, round_)
        assert culprit.reason is not None
        assert culprit.reason.startswith(reason)
        assert not culprit.kept
        assert culprit.influence == 0
        record = recorder.rounds[round_]
        assert (record.asked, record.kept, record.rejected + record.failed) == (10, 9, 1)


@pytest.mark.parametrize("name", HOSTILE_REPLIES)
def test_hostile_replies_count_towards_f(name: str) -> None:
    """Seven of eight replies are accepted; with one client excused, f = 3 needs no more."""
    recorder = Recorder()
    strategy = strategy_with(recorder, rule=TrimmedMean(f=4))
    run(strategy, HOSTILE_REPLIES[name][0], rounds=1, partitions=8)
    assert recorder.rounds[1].note is None
    assert recorder.rounds[1].kept == 7
