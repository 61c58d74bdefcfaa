"""Any bytes give a vector of the right size or ``CodecError``; never a crash or much memory."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.codec import (
    Codec,
    EntropyCoded,
    Identity,
    Quantized,
    Rotated,
    TopK,
    decode_payload,
)
from hqde_fl.errors import CodecError
from tests.hqde_fl.codec import inputs

SIZE = 600
HEADER = 16
PAYLOADS = [
    codec.encode(delta, {}, inputs.SEEDS.numpy("hostile", str(codec), name))[0]
    for codec in inputs.CODECS
    for name, delta in inputs.inputs(SIZE).items()
    if name in ("gaussian", "outlier", "mixed", "zero")
]


def sealed(payload: bytes, size: int = SIZE) -> bytes:
    """Return the payload with a checksum that matches, as an attacker would send it."""
    frame = payload[HEADER:]
    checksum = zlib.crc32(frame, zlib.crc32(size.to_bytes(8, "little")))
    return payload[:4] + checksum.to_bytes(4, "little") + payload[8:HEADER] + frame


def mutated(rng: np.random.Generator) -> bytes:
    """Return a damaged payload, most often with the right checksum."""
    payload = bytearray(PAYLOADS[rng.integers(len(PAYLOADS))])
    for _ in range(rng.integers(1, 4)):
        # most damage is in headers
        near = min(len(payload), 80) if rng.random() < 0.7 else len(payload)
        at = int(rng.integers(min(HEADER, near - 1), near))
        match rng.integers(6):
            case 0:
                payload[at] ^= 1 << int(rng.integers(8))
            case 1:
                del payload[max(at, HEADER) :]
            case 2:
                payload[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 3:
                word = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, SIZE, SIZE + 1, 0x7F800000])
                payload[at : at + 4] = struct.pack("<I", word)
            case 4:
                other = PAYLOADS[rng.integers(len(PAYLOADS))]
                payload[at:] = other[int(rng.integers(HEADER, len(other))) :]
            case _:
                del payload[at : at + int(rng.integers(1, 9))]
        if len(payload) <= HEADER:
            break
    return bytes(payload) if rng.random() < 0.1 else sealed(bytes(payload))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**63))
def test_ten_thousand_mutated_payloads(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(100):
        payload = mutated(rng)
        try:
            found = decode_payload(payload, SIZE)
        except CodecError:
            continue
        assert found.shape == (SIZE,)
        assert bool(torch.isfinite(found).all())


@settings(max_examples=300, deadline=None)
@given(frame=st.binary(max_size=200), size=st.integers(0, 100))
def test_arbitrary_bytes(frame: bytes, size: int) -> None:
    for payload in (frame, sealed(b"HQ\x01\0\0\0\0\0" + size.to_bytes(8, "little") + frame, size)):
        try:
            assert decode_payload(payload, size).shape == (size,)
        except CodecError:
            continue


@pytest.mark.parametrize("codec", inputs.CODECS, ids=str)
def test_every_truncation_and_every_flipped_bit_is_noticed(codec: Codec) -> None:
    payload, _ = codec.encode(inputs.gaussian(40), {}, inputs.SEEDS.numpy("flip"))
    for end in range(len(payload)):
        with pytest.raises(CodecError):
            decode_payload(payload[:end], 40)
    for bit in range(8 * len(payload)):
        if bit // 8 == 3:
            continue  # the one unused byte
        broken = bytearray(payload)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            decode_payload(bytes(broken), 40)
    with pytest.raises(CodecError, match="bytes too many"):
        decode_payload(sealed(payload + b"\0", 40), 40)


def _peak(payload: bytes, size: int) -> int:
    """Return the most bytes allocated before the error."""
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode_payload(payload, size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_claim_of_a_trillion_numbers_allocates_nothing() -> None:
    for codec in inputs.CODECS:
        payload, _ = codec.encode(inputs.gaussian(100), {}, inputs.SEEDS.numpy("lie"))
        lying = payload[:8] + (10**12).to_bytes(8, "little") + payload[HEADER:]
        assert _peak(sealed(lying, 10**12), 100) < 100_000
        with pytest.raises(CodecError, match="payload of 1000000000000 values, expected 100"):
            decode_payload(lying, 100)


LIES = {
    "quantized, blocks of 2^32 - 8": b"\x01" + struct.pack("<BBI", 4, 1, 2**32 - 8),
    "quantized, blocks of 0": b"\x01" + struct.pack("<BBI", 4, 1, 0),
    "quantized, 200 bits": b"\x01" + struct.pack("<BBI", 200, 1, 1024),
    "rotated, blocks of 65535": b"\x02" + struct.pack("<HBQ", 65535, 2, 1),
    "rotated, 255 rounds": b"\x02" + struct.pack("<HBQ", 4096, 255, 1),
    "rotated in itself for ever": b"".join([b"\x02" + struct.pack("<HBQ", 4096, 2, 1)] * 5000),
    "error feedback in itself for ever": b"\x06" * 100_000,
    "entropy coded, 2^32 words": b"\x03" + struct.pack("<fB BHiII", 1, 1, 0, 9, -4, 0, 2**32 - 1),
    "entropy coded, 2^32 escapes": b"\x03" + struct.pack("<fB BHiII", 1, 1, 0, 9, -4, 2**32 - 1, 0),
    "entropy coded, 65535 symbols": b"\x03" + struct.pack("<fB BHiII", 1, 1, 0, 65535, -4, 0, 0),
    "entropy coded, step infinite": b"\x03" + struct.pack("<fB", np.inf, 1),
    "entropy coded, step NaN": b"\x03" + struct.pack("<fB", np.nan, 1),
    "entropy coded, 255 classes": b"\x03" + struct.pack("<fB", 1, 255),
    "adaptive, blocks of 8": b"\x04" + struct.pack("<I", 8),
    "adaptive, blocks of 0": b"\x04" + struct.pack("<I", 0),
    "top-k, 2^64 - 1 kept": b"\x05" + struct.pack("<Q", 2**64 - 1),
    "top-k, all kept": b"\x05" + struct.pack("<Q", 1 << 16),
    "identity, floats of 255 bytes": b"\x00\xff",
    "unknown codec": b"\xfe",
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_false_lengths_are_refused_before_memory_is_allocated(lie: str) -> None:
    size = 1 << 16
    payload = sealed(b"HQ\x01\0\0\0\0\0" + size.to_bytes(8, "little") + LIES[lie], size)
    assert _peak(payload, size) < 4 * size + 200_000


def test_decoding_takes_no_more_memory_than_a_few_times_the_result() -> None:
    size = 1 << 18
    for codec in inputs.CODECS:
        payload, _ = codec.encode(inputs.gaussian(size), {}, inputs.SEEDS.numpy("memory"))
        decode_payload(payload, size)  # tables are made once
        tracemalloc.start()
        decode_payload(payload, size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * 4 * size, codec


def test_an_entropy_stream_that_does_not_end_where_it_should() -> None:
    payload, _ = EntropyCoded(2).encode(inputs.gaussian(SIZE), {}, inputs.SEEDS.numpy("stream"))
    fields = struct.Struct("<BHiII")
    at = HEADER + 1 + 5
    shift, symbols, first, escapes, words = fields.unpack_from(payload, at)
    stream = at + fields.size + symbols + (escapes > 0)
    for extra in (1, 10_000):
        head = fields.pack(shift, symbols, first, escapes, words + extra)
        longer = payload[:at] + head + payload[at + fields.size : stream]
        longer += b"\x01\x02\x03\x04" * extra + payload[stream:]
        with pytest.raises(CodecError, match="goes on after the last value"):
            decode_payload(sealed(longer), SIZE)
    head = fields.pack(shift, symbols, first, escapes, words - 1)
    shorter = payload[:at] + head + payload[at + fields.size : stream] + payload[stream + 4 :]
    with pytest.raises(CodecError):
        decode_payload(sealed(shorter), SIZE)


def test_payloads_with_numbers_that_are_not_finite_are_refused() -> None:
    for codec in (Identity(), TopK(1.0), Quantized(4), Rotated(Identity())):
        payload, _ = codec.encode(inputs.gaussian(64), {}, inputs.SEEDS.numpy("finite"))
        for bad in (np.nan, np.inf, -np.inf):
            word = struct.pack("<f", bad)
            place = len(payload) - 36 if isinstance(codec, Quantized) else len(payload) - 4
            with pytest.raises(CodecError, match="not finite"):
                decode_payload(sealed(payload[:place] + word + payload[place + 4 :], 64), 64)


def test_a_future_version_is_named() -> None:
    payload, _ = Identity().encode(inputs.gaussian(4), {}, inputs.SEEDS.numpy("version"))
    with pytest.raises(CodecError, match="expected a payload of version 1"):
        decode_payload(payload[:2] + b"\x02" + payload[3:], 4)
