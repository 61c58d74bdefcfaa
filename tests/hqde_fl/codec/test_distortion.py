"""Error of codecs by rate: against the bound, against published values, on hard inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hqde_fl.codec import (
    AdaptiveQuantizer,
    Codec,
    EntropyCoded,
    Identity,
    Quantized,
    Rotated,
    TopK,
)
from hqde_fl.codec.lloyd_max import levels, nearest
from tests.hqde_fl.codec import inputs

EDEN = (0.571, 0.133, 0.0358, 0.0096, 0.00251, 0.000645, 0.000164, 0.0000412)
LARGE = 1 << 20


def outcome(codec: Codec, delta: Tensor) -> tuple[float, float]:
    """Return the bits for each number, all bytes counted, and the normalised squared error."""
    payload, _ = codec.encode(delta, {}, inputs.SEEDS.numpy("distortion"))
    found = codec.decode(payload, len(delta))
    return codec.payload_bits(payload) / len(delta), inputs.nmse(found, delta)


def student(size: int) -> Tensor:
    return torch.from_numpy(inputs.SEEDS.numpy("t").standard_t(3, size)).float()


@pytest.mark.parametrize("rate", [1.3, 1.6, 2, 2.5, 3, 4, 5, 6, 7, 8])
def test_entropy_coding_is_within_1_7_db_of_the_bound(rate: float) -> None:
    bits, error = outcome(EntropyCoded(rate), inputs.gaussian(LARGE))
    assert bits == pytest.approx(rate, rel=0.01)
    assert 10 * math.log10(error * 4**bits) < 1.6


@pytest.mark.parametrize("rate", [1.3, 2, 4, 8])
def test_entropy_coding_has_little_overhead_at_a_hundred_thousand(rate: float) -> None:
    size = 100_000
    delta = inputs.gaussian(size)
    payload, _ = EntropyCoded(rate).encode(delta, {}, inputs.SEEDS.numpy("overhead"))
    step = float(np.frombuffer(payload, "<f4", 1, 17)[0])
    index = torch.round(delta / step).long()
    chances = torch.unique(index, return_counts=True)[1] / size
    ideal = -float((chances * chances.log2()).sum()) * size / 8
    assert len(payload) - ideal < 0.01 * len(payload)


@pytest.mark.parametrize("rate", [2, 4, 6])
def test_entropy_coding_gains_from_blocks_of_unequal_size(rate: float) -> None:
    delta, bound = blocks(rate)
    bits, error = outcome(EntropyCoded(rate), delta)
    assert bits == pytest.approx(rate, rel=0.02)
    assert 10 * math.log10(error / bound) < 2


def blocks(rate: float) -> tuple[Tensor, float]:
    """1024 blocks with variances over 40 dB, and the least error at a rate (water-filling)."""
    deviations = torch.logspace(-2, 0, 1024)[torch.randperm(1024, generator=inputs.SEEDS.torch(1))]
    delta = (inputs.gaussian(LARGE).reshape(1024, -1) * deviations[:, None]).flatten()
    variances = deviations.double().square()
    low, high = 1e-12, 1.0
    for _ in range(100):
        level = math.sqrt(low * high)
        needed = float((variances / level).log2().clamp(min=0).mean() / 2)
        low, high = (level, high) if needed > rate else (low, level)
    return delta, float(variances.clamp(max=level).sum() / variances.sum())


def test_water_filling_beats_importance_by_ten_db() -> None:
    delta, bound = blocks(2.1)
    bits, importance = outcome(AdaptiveQuantizer(2, 0, 12, allocation="importance"), delta)
    assert bits == pytest.approx(2.1, abs=0.05)
    budget = bits - 70 / 1024  # scales and map
    same, filled = outcome(AdaptiveQuantizer(budget, 0, 16), delta)
    assert same <= bits
    assert 10 * math.log10(importance / filled) > 11
    assert 10 * math.log10(filled / bound) < 4


@pytest.mark.parametrize("bits", range(1, 9))
def test_rotated_lloyd_max_reaches_edens_table(bits: int) -> None:
    codec = Rotated(Quantized(bits, levels="lloyd-max"))
    for delta in (inputs.gaussian(1 << 18), student(1 << 18)):
        rate, error = outcome(codec, delta)
        assert rate < bits + 0.033
        assert error < 1.05 * EDEN[bits - 1]


@pytest.mark.parametrize(("bits", "published"), [(2, 0.79), (4, 0.0315), (8, 1.1e-4)])
def test_stochastic_min_max_has_its_published_error(bits: int, published: float) -> None:
    _, error = outcome(Quantized(bits), inputs.gaussian(1 << 18))
    assert error == pytest.approx(published, rel=0.03)


LLOYD_MAX = ((1, 0.3634), (2, 0.1175), (3, 0.0345), (4, 0.0095))


@pytest.mark.parametrize(("bits", "published"), LLOYD_MAX)
def test_lloyd_max_levels(bits: int, published: float) -> None:
    values = inputs.gaussian(LARGE).numpy()
    found = levels(bits)[nearest(values, bits)]
    assert np.square(found - values).mean() == pytest.approx(published, rel=0.01)
    assert levels(bits).tolist() == (-levels(bits)[::-1]).tolist()
    exact = levels(bits)[np.abs(values[:2000, None] - levels(bits)).argmin(axis=1)]
    assert np.abs(np.abs(found[:2000] - values[:2000]) - np.abs(exact - values[:2000])).max() < 1e-3


# Largest normalised squared error allowed (absolute error for the zero vector), at 4 bits and so.
TABLE: dict[Codec, dict[str, float]] = {
    Identity(): dict.fromkeys(
        ("gaussian", "laplace", "student-t", "sparse", "constant", "zero", "outlier", "denormal"), 0
    ),
    Quantized(4): {
        "gaussian": 0.033, "laplace": 0.076, "student-t": 0.35, "sparse": 0.85, "constant": 0,
        "zero": 0, "outlier": 0.025, "denormal": 0.034,
    },
    Quantized(4, unbiased=False): {
        "gaussian": 0.017, "laplace": 0.038, "student-t": 0.17, "sparse": 0.42, "constant": 0,
        "zero": 0, "outlier": 2e-4, "denormal": 0.017,
    },
    Quantized(1): {
        "gaussian": 0.37, "laplace": 0.51, "student-t": 0.72, "sparse": 0.995, "constant": 1e-12,
        "zero": 0, "outlier": 1, "denormal": 0.37,
    },
    Rotated(): {
        "gaussian": 0.01, "laplace": 0.01, "student-t": 0.01, "sparse": 0.01, "constant": 0.01,
        "zero": 0, "outlier": 0.0105, "denormal": 0.01,
    },
    EntropyCoded(4): {
        "gaussian": 0.0058, "laplace": 0.005, "student-t": 0.0045, "sparse": 1e-12, "constant": 0,
        "zero": 0, "outlier": 1e-5, "denormal": 0.0058,
    },
    AdaptiveQuantizer(4, 0, 16): {
        "gaussian": 0.013, "laplace": 0.031, "student-t": 0.1, "sparse": 0.09, "constant": 0,
        "zero": 0, "outlier": 2e-5, "denormal": 0.013,
    },
    TopK(0.1): {
        "gaussian": 0.57, "laplace": 0.42, "student-t": 0.35, "sparse": 0, "constant": 0.901,
        "zero": 0, "outlier": 5e-4, "denormal": 0.57,
    },
}  # fmt: skip


@pytest.mark.parametrize("codec", TABLE, ids=str)
def test_table_of_errors(codec: Codec) -> None:
    for name, most in TABLE[codec].items():
        _, error = outcome(codec, inputs.inputs(1 << 16)[name])
        assert error <= most, name


@pytest.mark.parametrize(
    "codec",
    [
        Quantized(2),
        Quantized(4),
        Rotated(Quantized(1, levels="lloyd-max")),
        Rotated(Quantized(3, levels="lloyd-max"), block=1024),
        Rotated(Quantized(2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["gaussian", "student-t", "skewed", "sparse", "mixed"])
def test_the_error_of_the_mean_of_n_unbiased_messages_falls_as_one_over_n(
    codec: Codec, name: str
) -> None:
    assert codec.unbiased
    size, messages = 2048, 128
    delta = inputs.inputs(size)[name]
    rng = inputs.SEEDS.numpy("unbiased", name)
    total, single = torch.zeros(size, dtype=torch.float64), 0.0
    for _ in range(messages):
        found = codec.decode(codec.encode(delta, {}, rng)[0], size)
        total += found
        single += inputs.nmse(found, delta) / messages
    assert inputs.nmse(total / messages, delta) < 1.5 * single / messages


def test_one_round_of_rotation_is_biased_by_an_outlier_and_two_are_not() -> None:
    """The reason for the second round: with one, the outlier alone decides most of the signs."""
    delta = inputs.gaussian(1024)
    delta[0] = 60.0
    inner = Quantized(1, levels="lloyd-max")
    errors = []
    for rounds in (1, 2):
        codec, rng = Rotated(inner, block=1024, rounds=rounds), inputs.SEEDS.numpy("rounds")
        found = [codec.decode(codec.encode(delta, {}, rng)[0], 1024) for _ in range(400)]
        errors.append(inputs.nmse(torch.stack(found).mean(dim=0), delta))
    assert errors[0] > 0.05
    assert errors[1] < 0.003


def test_one_bit_is_the_sign_with_the_mean_magnitude_of_the_block() -> None:
    for unbiased in (True, False):
        codec = Quantized(1, block=64, unbiased=unbiased)
        assert not codec.unbiased
        delta = inputs.gaussian(64 * 5 + 3)
        payload, _ = codec.encode(delta, {}, inputs.SEEDS.numpy("sign"))
        found = codec.decode(payload, len(delta))
        for block, decoded in zip(delta.split(64), found.split(64), strict=True):
            expected = block.abs().mean() * torch.where(block >= 0, 1.0, -1.0)
            torch.testing.assert_close(decoded, expected)
