"""Long sources are coded as several streams, which are the same numbers and as safe to read."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from hqde_fl.codec import EntropyCoded, decode_payload, entropy_coder
from hqde_fl.codec.payload import seal
from hqde_fl.errors import CodecError
from tests.hqde_fl.codec import inputs

SIZE = 1000
CODECS = [EntropyCoded(2), EntropyCoded(7), EntropyCoded(14), EntropyCoded(step=1e-6)]
_FRAME = 16  # bytes of the header; code, step and number of classes follow
_SOURCE = _FRAME + 6


def numbers() -> torch.Tensor:
    delta = inputs.gaussian(SIZE)
    delta[::97] *= 1e5  # some escape, and there are several classes
    return delta


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("part", [8, 64, 992])
def test_streams_hold_the_same_numbers_as_one(codec, part, monkeypatch):
    delta = numbers()
    rng = np.random.default_rng(1)
    whole, _ = codec.encode(delta, {}, rng)
    one = codec.decode(whole, SIZE)
    monkeypatch.setattr(entropy_coder, "PART", part)
    assert torch.equal(codec.decode(whole, SIZE), one)  # one stream stays readable
    split, _ = codec.encode(delta, {}, rng)
    assert len(split) > len(whole)
    assert torch.equal(codec.decode(split, SIZE), one)


def split_payload() -> bytearray:
    """Return a payload of one class, ``SIZE`` numbers and streams of 256."""
    payload, _ = EntropyCoded(step=0.5).encode(inputs.gaussian(SIZE), {}, np.random.default_rng(2))
    return bytearray(payload)


@pytest.mark.parametrize("change", [-1, 1, 2**31])
@pytest.mark.parametrize("stream", [0, 3])
def test_lengths_that_do_not_fit_are_refused(change, stream, monkeypatch):
    monkeypatch.setattr(entropy_coder, "PART", 256)
    payload = split_payload()
    assert decode_payload(bytes(payload), SIZE).shape == (SIZE,)
    flags, symbols = struct.unpack_from("<BH", payload, _SOURCE)
    assert flags >= 0x80
    place = _SOURCE + 15 + symbols + 4 * stream
    (length,) = struct.unpack_from("<I", payload, place)
    struct.pack_into("<I", payload, place, (length + change) % 2**32)
    with pytest.raises(CodecError, match="streams of"):
        decode_payload(seal(bytes(payload[_FRAME:]), SIZE), SIZE)


def test_words_moved_from_one_stream_to_another_are_refused(monkeypatch):
    monkeypatch.setattr(entropy_coder, "PART", 256)
    payload = split_payload()
    (symbols,) = struct.unpack_from("<H", payload, _SOURCE + 1)
    place = _SOURCE + 15 + symbols
    first, second = struct.unpack_from("<II", payload, place)
    struct.pack_into("<II", payload, place, first - 1, second + 1)
    with pytest.raises(CodecError, match="entropy stream"):
        decode_payload(seal(bytes(payload[_FRAME:]), SIZE), SIZE)


def test_a_split_that_lacks_its_lengths_is_refused(monkeypatch):
    payload = split_payload()
    assert payload[_SOURCE] < 0x80
    payload[_SOURCE] |= 0x80
    monkeypatch.setattr(entropy_coder, "PART", 1)
    with pytest.raises(CodecError):
        decode_payload(seal(bytes(payload[_FRAME:]), SIZE), SIZE)
