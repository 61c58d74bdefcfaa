"""HQDE's formula is pinned; the allocation that replaces it is optimal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.codec import AdaptiveQuantizer
from hqde_fl.codec.allocation import Grids, allocate, importance
from tests.hqde_fl.codec import inputs


def test_importance_is_the_magnitude_scaled_to_the_unit_interval() -> None:
    weights = np.array([-4.0, 0.0, 1.0, 2.0])
    gradients = np.array([0.0, 10.0, 0.0, -2.0])
    assert importance(weights).tolist() == [1.0, 0.0, 0.25, 0.5]
    mixed = 0.7 * np.array([4.0, 0, 1, 2]) + 0.3 * np.array([0.0, 10, 0, 2])
    expected = (mixed - mixed.min()) / (mixed.max() - mixed.min())
    assert importance(weights, gradients) == pytest.approx(expected)
    assert importance(np.full(3, 2.0)).tolist() == [0.5] * 3


def test_importance_gives_bits_as_hqde_does() -> None:
    """Bits = min + (max - min) * importance, cut off; step = range / (2^bits - 1)."""
    delta = torch.cat([torch.linspace(-1, 1, 8) * size for size in (1.0, 2.1, 3.1, 5.0)])
    codec = AdaptiveQuantizer(8, 4, 16, allocation="importance", block=8)
    payload, _ = codec.encode(delta, {}, inputs.SEEDS.numpy("importance"))
    bits = [4 + int(12 * (size - 1) / 4) for size in (1, 2.1, 3.1, 5)]
    assert bits == [4, 7, 10, 16]
    assert len(payload) == 16 + 1 + 4 + 3 + 8 * 4 + sum(bits)
    steps = np.frombuffer(payload, "<f4", 4, 16 + 1 + 4 + 3 + 16)
    ranges = np.array([2, 4.2, 6.2, 10])
    assert steps == pytest.approx(ranges / (2.0 ** np.array(bits) - 1))
    error = (codec.decode(payload, 32) - delta).abs().reshape(4, 8).amax(dim=1).numpy()
    assert (error <= steps / 2 * 1.001).all()


@settings(max_examples=60, deadline=None)
@given(
    decays=st.lists(st.floats(1.5, 8), min_size=1, max_size=3),
    scales=st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=3),
    low=st.integers(0, 2),
    spare=st.integers(0, 12),
)
def test_greedy_allocation_is_optimal_for_falling_gains(
    decays: list[float], scales: list[float], low: int, spare: int
) -> None:
    """Brute force over every division of the bits; the errors are convex in the bits."""
    count, high = len(decays), low + 4
    error = np.stack([s * d ** -np.arange(17.0) for s, d in zip(scales, decays, strict=False)])
    budget = low * count + spare
    bits = allocate(error, low, high, budget)
    assert bits.sum() <= budget
    assert low <= bits.min() <= bits.max() <= high
    best = min(
        sum(error[i, b] for i, b in enumerate(choice))
        for choice in itertools.product(range(low, high + 1), repeat=count)
        if sum(choice) <= budget
    )
    assert error[np.arange(count), bits].sum() == pytest.approx(best)


def test_bits_that_only_help_together_are_bought_together() -> None:
    """The second block needs two bits before it gains; buying both at once saves more."""
    error = np.full((2, 17), 0.0)
    error[0] = np.concatenate([[10, 8], np.full(15, 8)])
    error[1] = np.concatenate([[100, 100], np.full(15, 1)])
    assert allocate(error, 0, 16, 2).tolist() == [0, 2]
    assert allocate(error, 0, 16, 3).tolist() == [1, 2]
    assert allocate(error, 0, 16, 100).tolist() == [1, 2]


def test_measured_errors_are_the_errors() -> None:
    rows = inputs.gaussian(64 * 256).reshape(64, 256).numpy() * np.float32(3)
    rows[5, 7] = 500.0
    unit = np.abs(rows).max()
    grids = Grids.measured(rows, unit)
    for bits in range(17):
        low, step = grids.low[:, bits, None], grids.step[:, bits, None]
        index = np.clip(np.rint((rows - low) / np.where(step > 0, step, 1)), 0, 2**bits - 1)
        error = np.square(index * step + low - rows).sum(axis=1) / unit**2
        assert grids.error[:, bits] == pytest.approx(error, rel=0.5 if bits > 8 else 0.3)


def test_more_bits_are_never_worse() -> None:
    delta = inputs.inputs(1 << 14)["mixed"]
    errors = []
    for bits in (0, 0.5, 1, 2, 3, 5, 8, 12, 16):
        codec = AdaptiveQuantizer(bits, 0, 16, block=256)
        payload, _ = codec.encode(delta, {}, inputs.SEEDS.numpy("more"))
        errors.append(inputs.nmse(codec.decode(payload, len(delta)), delta))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.9
    assert errors[-1] < 1e-8
