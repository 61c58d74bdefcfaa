"""Laws of every codec for every input."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.codec import (
    CODECS,
    FORMATS,
    AdaptiveQuantizer,
    Codec,
    EntropyCoded,
    ErrorFeedback,
    Identity,
    Quantized,
    Rotated,
    TopK,
    decode_payload,
)
from hqde_fl.errors import CodecError, ConfigError
from tests.hqde_fl.codec import inputs

pytestmark = pytest.mark.filterwarnings("error")

SIZES = (0, 1, 7, 64, 65, 300, 5000)
every_codec = pytest.mark.parametrize("codec", inputs.CODECS, ids=str)


@every_codec
@pytest.mark.parametrize("size", SIZES)
def test_decoded_vectors_have_the_input_s_shape(codec: Codec, size: int) -> None:
    for name, delta in inputs.inputs(size).items() if size else [("empty", torch.empty(0))]:
        before = delta.clone()
        payload, state = codec.encode(delta, {}, inputs.SEEDS.numpy("encode", name))
        assert torch.equal(delta, before)
        found = codec.decode(payload, size)
        assert found.shape == (size,)
        assert found.dtype == torch.float32
        assert bool(torch.isfinite(found).all())
        assert torch.equal(found, decode_payload(memoryview(payload), size))
        assert codec.payload_bits(payload) == 8 * len(payload)
        found += 1  # it owns its memory
        again = codec.encode(delta, {}, inputs.SEEDS.numpy("encode", name))
        assert again[0] == payload
        assert bool(state) == codec.stateful


@every_codec
@settings(max_examples=15, deadline=None)
@given(
    numbers=st.lists(st.floats(-(2.0**120), 2.0**120, width=32), max_size=200),
    seed=st.integers(0, 2**32),
)
def test_any_finite_numbers(codec: Codec, numbers: list[float], seed: int) -> None:
    delta = torch.tensor(numbers, dtype=torch.float32)
    payload, _ = codec.encode(delta, {}, np.random.default_rng(seed))
    assert codec.decode(payload, len(numbers)).shape == delta.shape


@every_codec
def test_any_float_type_and_layout(codec: Codec) -> None:
    delta = inputs.gaussian(600)
    payload = codec.encode(delta[::2], {}, inputs.SEEDS.numpy("layout"))[0]
    same = delta[::2].clone().requires_grad_()
    assert codec.encode(same, {}, inputs.SEEDS.numpy("layout"))[0] == payload
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        narrow = delta.to(dtype)
        found = codec.decode(codec.encode(narrow, {}, inputs.SEEDS.numpy("layout"))[0], 600)
        assert found.dtype in (torch.float32, torch.float64)


def test_identity_is_exact_in_both_widths() -> None:
    for delta in (inputs.gaussian(100), inputs.gaussian(100).double() * torch.pi):
        payload, _ = Identity().encode(delta, {}, inputs.SEEDS.numpy("identity"))
        found = decode_payload(payload, 100)
        assert found.dtype == delta.dtype
        assert torch.equal(found, delta)


@every_codec
def test_only_finite_vectors_are_coded(codec: Codec) -> None:
    rng = inputs.SEEDS.numpy("refused")
    for value in (torch.nan, torch.inf, -torch.inf, 1e38):
        with pytest.raises(ValueError, match="delta must be finite and within"):
            codec.encode(torch.tensor([0.0, value]), {}, rng)
    for delta in (torch.zeros(2, 2), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="delta must be a vector of floats"):
            codec.encode(delta, {}, rng)


@pytest.mark.parametrize("size", [1, 8, 1000, 1024, 5000])
def test_payloads_have_exactly_the_expected_size(size: int) -> None:
    def length(codec: Codec) -> int:
        return len(codec.encode(inputs.gaussian(size), {}, inputs.SEEDS.numpy("size"))[0])

    header = 16 + 1  # and the code of the codec
    blocks = -(-size // 1024)
    assert length(Identity()) == header + 1 + 4 * size
    for bits in range(1, 17):
        assert length(Quantized(bits)) == header + 6 + 8 * blocks + -(-size * bits // 8)
    for bits in range(1, 9):
        lloyd = Quantized(bits, levels="lloyd-max")
        assert length(lloyd) == header + 6 + 4 * blocks + -(-size * bits // 8)
        padded = -(-size // 64) * 64
        rotated = header + 11 + 7 + 4 * -(-padded // 1024) + padded * bits // 8
        assert length(Rotated(lloyd)) == rotated
        assert length(ErrorFeedback(lloyd)) == length(lloyd) + 1
    for fraction in (0.001, 0.03, 0.5, 1.0):
        kept = int(np.ceil(fraction * size))
        low = int(np.log2(size // kept))
        positions = -(-(kept + (size >> low) + 1) // 8) + -(-kept * low // 8)
        assert length(TopK(fraction)) == header + 8 + positions + 2 + 4 * kept


def test_adaptive_payloads_stay_within_their_budget() -> None:
    size = 64 * 200
    delta = inputs.inputs(size)["mixed"]
    for bits in (1, 2.1, 4, 7.5):
        codec = AdaptiveQuantizer(bits, 0, 16, block=64)
        length = len(codec.encode(delta, {}, inputs.SEEDS.numpy("budget"))[0])
        fixed = 16 + 1 + 4 + 200 * 5 // 8 + 8 * 200
        assert fixed + size * bits / 8 - 16 <= length <= fixed + size * bits / 8


def test_a_codec_reads_only_its_own_parts() -> None:
    rng = inputs.SEEDS.numpy("own")
    payload, _ = Rotated(Quantized(4)).encode(inputs.gaussian(100), {}, rng)
    assert Rotated(Quantized(8)).decode(payload, 100).shape == (100,)
    for other in (Identity(), Quantized(4), Rotated(EntropyCoded()), TopK()):
        with pytest.raises(CodecError, match="unknown codec"):
            other.decode(payload, 100)


def test_registry_and_wire_name_the_same_codecs() -> None:
    assert {CODECS[name] for name in CODECS} == set(FORMATS.values())
    for code, cls in FORMATS.items():
        assert cls.code == code
    table = {
        "name": "error-feedback",
        "inner": {"name": "rotated", "inner": {"name": "quantized", "bits": 2}, "block": 1024},
    }
    assert CODECS.build(table) == ErrorFeedback(Rotated(Quantized(2), block=1024))
    for name in CODECS:
        codec = CODECS.build(name)
        assert pickle.loads(pickle.dumps(codec)) == codec
        assert hash(codec) == hash(dataclasses.replace(codec))  # type: ignore[type-var]
        assert CODECS.summary(name)


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("quantized", {"bits": 17}, r"needs bits in 1\.\.16, found 17"),
        ("quantized", {"bits": 9, "levels": "lloyd-max"}, r"needs bits in 1\.\.8, found 9"),
        ("quantized", {"block": 12}, "block a multiple of 8, found 12"),
        ("rotated", {"block": 100}, "a power of two in 64..4096, found 100"),
        ("rotated", {"block": 512}, "a multiple of its inner codec's, 1024, found 512"),
        ("rotated", {"rounds": 3}, "rounds 1 or 2, found 3"),
        ("rotated", {"inner": "error-feedback"}, "Rotated cannot hold ErrorFeedback"),
        ("error-feedback", {"inner": "error-feedback"}, "one memory is enough"),
        ("top-k", {"fraction": 0}, r"fraction in \(0, 1\], found 0"),
        ("top-k", {"inner": "error-feedback"}, "TopK cannot hold ErrorFeedback"),
        ("entropy-coded", {"bits": 0}, r"bits in \(0, 16\], found 0"),
        ("entropy-coded", {"step": -1}, "step 0 or positive, found -1"),
        ("entropy-coded", {"dead-zone": 0.5}, r"dead_zone in \[0, 0.5\), found 0.5"),
        ("adaptive-quantizer", {"min-bits": 9}, "min_bits <= base_bits"),
        ("adaptive-quantizer", {"block": 4}, "block a multiple of 8, found 4"),
    ],
)
def test_impossible_parameters(name: str, table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CODECS.build({"name": name, **table})
