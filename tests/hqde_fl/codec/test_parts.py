"""Rotation, top-k, entropy coder and error feedback, each by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.codec import (
    AdaptiveQuantizer,
    Codec,
    EntropyCoded,
    ErrorFeedback,
    Identity,
    Quantized,
    Rotated,
    TopK,
)
from hqde_fl.codec.error_feedback import RESIDUAL
from hqde_fl.codec.symbol_split import Plan
from tests.hqde_fl.codec import inputs


@pytest.mark.parametrize("size", [1, 63, 64, 100, 1000, 4096, 4097, 12345])
@pytest.mark.parametrize("rounds", [1, 2])
def test_rotating_back_restores_the_numbers(size: int, rounds: int) -> None:
    delta = inputs.gaussian(size)
    codec = Rotated(Identity(), rounds=rounds)
    payload, _ = codec.encode(delta, {}, inputs.SEEDS.numpy("rotate"))
    assert codec.decode(payload, size) == pytest.approx(delta, abs=1e-5)
    padded = -(-size // 64) * 64
    rotated = torch.frombuffer(bytearray(payload[-4 * padded :]), dtype=torch.float32)
    assert float(rotated.norm()) == pytest.approx(float(delta.norm()), rel=1e-5)


def test_the_rotation_is_the_hadamard_matrix_with_signs() -> None:
    block = 128
    matrix = torch.ones(1, 1)
    while len(matrix) < block:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    matrix /= math.sqrt(block)
    columns = []
    for place in range(block):
        unit = torch.zeros(block)
        unit[place] = 1
        codec = Rotated(Identity(), block=block, rounds=1)
        payload, _ = codec.encode(unit, {}, inputs.SEEDS.numpy("hadamard"))
        columns.append(torch.frombuffer(bytearray(payload[-4 * block :]), dtype=torch.float32))
    signs = torch.stack(columns)[:, 0].sign()
    assert (torch.stack(columns) * signs[:, None]) == pytest.approx(matrix, abs=1e-6)
    assert 40 < int((signs > 0).sum()) < 88


def test_two_rounds_make_anything_gaussian() -> None:
    delta = torch.zeros(1 << 14)
    delta[::4096] = 1.0
    payload, _ = Rotated(Identity()).encode(delta, {}, inputs.SEEDS.numpy("gauss"))
    rotated = np.frombuffer(payload[-4 * len(delta) :], "<f4").astype(float)
    rotated /= rotated.std()
    assert np.mean(rotated**4) == pytest.approx(3, abs=0.15)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), fraction=st.floats(1e-4, 1), seed=st.integers(0, 99))
def test_top_k_keeps_the_largest_at_their_positions(size: int, fraction: float, seed: int) -> None:
    delta = inputs.gaussian(size, seed)
    codec = TopK(fraction)
    found = codec.decode(codec.encode(delta, {}, inputs.SEEDS.numpy("top"))[0], size)
    kept = math.ceil(fraction * size)
    largest = delta.abs().topk(kept).indices
    assert int((found != 0).sum()) == kept
    assert torch.equal(found[largest], delta[largest])


def test_top_k_positions_cost_about_two_bits_more_than_the_logarithm() -> None:
    size = 1 << 20
    for fraction in (0.001, 0.01, 0.1):
        payload, _ = TopK(fraction).encode(inputs.gaussian(size), {}, inputs.SEEDS.numpy("cost"))
        kept = math.ceil(fraction * size)
        bits = (8 * len(payload) - 32 * kept) / kept
        entropy = -(fraction * math.log2(fraction) + (1 - fraction) * math.log2(1 - fraction))
        assert bits < entropy / fraction + 1


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 2000),
    spread=st.sampled_from([0.1, 1, 30, 300, 1e4, 1e6]),
    offset=st.integers(-(2**22), 2**22),
    outliers=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_indices_survive_the_entropy_coder(
    size: int, spread: float, offset: int, outliers: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    indices = np.rint(rng.standard_normal(size) * spread).astype(np.int64) + offset
    indices[rng.integers(size, size=outliers)] = rng.integers(-(2**23), 2**23, outliers)
    indices = np.clip(indices, -(2**23), 2**23).astype(np.int32)
    values = indices.astype(np.float32)  # in the middle of their cells, so without error
    codec = EntropyCoded(step=1.0)
    payload, _ = codec.encode(torch.from_numpy(values), {}, rng)
    assert codec.decode(payload, size).tolist() == values.tolist()


def test_the_histogram_costs_next_to_nothing_for_a_constant() -> None:
    payload, _ = EntropyCoded().encode(torch.full((100_000,), 0.7), {}, inputs.SEEDS.numpy("c"))
    assert len(payload) < 100


def test_a_fixed_step_bounds_every_error() -> None:
    for name, delta in inputs.inputs(20_000).items():
        if name in ("huge", "denormal"):
            continue
        codec = EntropyCoded(step=0.1)
        found = codec.decode(codec.encode(delta, {}, inputs.SEEDS.numpy("step"))[0], len(delta))
        assert float((found - delta).abs().max()) < 0.1, name


def test_plans_let_only_distant_indices_escape() -> None:
    indices = np.concatenate([np.tile(np.arange(-20, 21), 100), [10**6]]).astype(np.int32)
    plan = Plan.of(indices, indices.size)
    assert plan.shift == 0
    assert plan.cost < math.log2(41) + 0.8
    wide = np.arange(-(2**20), 2**20, 2**8, dtype=np.int32)
    assert Plan.of(wide, wide.size).shift >= 13


CONTRACTIONS: tuple[Codec, ...] = (
    Identity(),
    Quantized(4, unbiased=False),
    Quantized(1),
    *(Quantized(bits, levels="lloyd-max", unbiased=False) for bits in (1, 4)),
    Rotated(Quantized(1, levels="lloyd-max", unbiased=False)),
    EntropyCoded(1),
    EntropyCoded(2),
    AdaptiveQuantizer(2, 0, 16),
    TopK(0.1),
    TopK(0.1, Quantized(4, unbiased=False)),
)


# With 1 or 2 bits and no rotation, outliers are cut off in every message: their residual grows for
# a hundred messages before it dominates its block and is sent.
SLOW = (Quantized(1), Quantized(1, levels="lloyd-max", unbiased=False), AdaptiveQuantizer(2, 0, 16))
STEADY = tuple(codec for codec in CONTRACTIONS if codec not in SLOW)


@pytest.mark.parametrize("codec", CONTRACTIONS, ids=str)
def test_residual_and_decoded_are_the_input(codec: Codec) -> None:
    feedback = ErrorFeedback(codec)
    rng = inputs.SEEDS.numpy("feedback")
    for name, delta in inputs.inputs(3000).items():
        state: dict[str, object] = {}
        for _ in range(3):
            before = state.get(RESIDUAL, torch.zeros(3000))
            kept = before.clone()
            payload, after = feedback.encode(delta, state, rng)
            total = delta + before
            found = feedback.decode(payload, 3000) + after[RESIDUAL]
            atol = 1e-6 * float(total.abs().max())
            assert torch.allclose(found, total, rtol=1e-6, atol=atol), name
            assert torch.equal(before, kept)
            state = dict(after)


@pytest.mark.parametrize("codec", STEADY, ids=str)
def test_with_feedback_the_decoded_messages_sum_to_the_inputs(codec: Codec) -> None:
    """The difference after many rounds is one residual, which does not grow."""
    feedback, rng = ErrorFeedback(codec), inputs.SEEDS.numpy("telescope")
    state: dict[str, object] = {}
    meant = arrived = torch.zeros(2048)
    sizes = []
    for round_ in range(40):
        delta = inputs.inputs(2048)["student-t"] + inputs.gaussian(2048, round_)
        payload, after = feedback.encode(delta, state, rng)
        state = dict(after)
        meant = meant + delta
        arrived = arrived + feedback.decode(payload, 2048)
        sizes.append(float(after[RESIDUAL].norm()))
    assert torch.allclose(meant - arrived, after[RESIDUAL], atol=1e-3)
    assert max(sizes[20:]) < 1.5 * max(sizes[:20]) + 1e-6
    assert float(after[RESIDUAL].norm() / meant.norm()) < 0.3


def test_a_residual_of_another_size_is_refused() -> None:
    state = {RESIDUAL: torch.zeros(5)}
    with pytest.raises(ValueError, match="the residual has 5 numbers, delta 6"):
        ErrorFeedback().encode(torch.zeros(6), state, inputs.SEEDS.numpy("size"))


@pytest.mark.parametrize("rest", [0, 1, 37, 255])
@pytest.mark.parametrize("last", [0.01, 1.0, 100.0])
def test_what_follows_the_last_whole_block_is_coded_with_it(last: float, rest: int) -> None:
    """Blocks of 256 numbers fall into classes by size; the remainder has the last block's."""
    sizes = [1.0, 100.0, 1.0, 0.01, 1.0, 0.01, 100.0, last]
    delta = inputs.gaussian(256 * len(sizes) + rest)
    scale = torch.tensor(sizes).repeat_interleave(256)
    delta = delta * torch.cat([scale, torch.full((rest,), last)])
    codec = EntropyCoded(step=0.02)
    payload, _ = codec.encode(delta, {}, inputs.SEEDS.numpy("rest"))
    decoded = torch.as_tensor(codec.decode(payload, len(delta)))
    assert float((decoded - delta).abs().max()) <= 0.02  # within its cell
