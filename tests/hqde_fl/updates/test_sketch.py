"""Sketches of updates keep their inner products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.seeding import Seeds
from hqde_fl.updates import Updates
from hqde_fl.updates import sketch as module
from hqde_fl.updates.sketch import SKETCH_SIZE, sketch


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loops(values: torch.Tensor, seeds: Seeds, size: int, block: int) -> list[list[float]]:
    """Return count sketches, number by number."""
    n, d = values.shape
    sums = [[0.0] * size for _ in range(n)]
    for j in range(d):
        if j % block == 0:
            generator = seeds.torch("sketch", j // block)
            drawn = torch.randint(2 * size, (min(block, d - j),), generator=generator).tolist()
        for i in range(n):
            place, sign = divmod(drawn[j % block], 2)
            sums[i][place] += (1 if sign else -1) * float(values[i, j])
    return sums


@given(n=st.integers(1, 4), d=st.integers(1, 70), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_a_sketch_adds_each_number_with_its_sign_to_its_place(n: int, d: int, seed: int) -> None:
    values, seeds, before = rows(n, d, seed), Seeds(seed), module.BLOCK
    module.BLOCK = 32
    try:
        found = sketch(Updates(values), seeds, 8)
    finally:
        module.BLOCK = before
    expected = torch.tensor(loops(values, seeds, 8, 32))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_sketches_are_linear_and_the_same_for_every_set_of_rows() -> None:
    values, seeds = rows(3, 1000), Seeds(4)
    whole = sketch(Updates(values), seeds)
    assert whole.shape == (3, SKETCH_SIZE)
    assert whole.dtype == torch.float32
    assert torch.equal(sketch(Updates(values[1:2]), seeds)[0], whole[1])
    both = sketch(Updates(values[:1] + 2 * values[1:2]), seeds)[0]
    assert torch.allclose(both, whole[0] + 2 * whole[1], atol=1e-4)
    assert not torch.equal(sketch(Updates(values), Seeds(5)), whole)


def test_inner_products_are_those_of_the_updates_in_the_mean() -> None:
    values = rows(2, 400)
    values[1] += values[0]  # a cosine of about 0.7
    exact, size = values @ values.T, 64
    grams = torch.stack(
        [
            (lambda s: (s @ s.T).double())(sketch(Updates(values), Seeds(seed), size))
            for seed in range(100)
        ]
    )
    norms = exact.diagonal().sqrt()
    spread = (norms[:, None] * norms[None, :]) * (2 / size) ** 0.5
    assert bool(((grams.mean(0) - exact).abs() < 4 * spread / 100**0.5).all())
    assert bool((grams.std(0) < 1.2 * spread).all())


@pytest.mark.parametrize("value", [1e38, 3e38])
def test_sketches_of_huge_updates_are_finite(value: float) -> None:
    values = torch.full((2, 5000), value)
    values[1] = -values[1]
    assert bool(sketch(Updates(values), Seeds(0), 4).isfinite().all())
    huge = torch.full((1, 5000), 1.7e308, dtype=torch.float64)
    assert bool(sketch(Updates(huge), Seeds(0), 2).isfinite().all())


def test_threads_do_not_change_the_bits() -> None:
    values, threads = rows(5, 100_000), torch.get_num_threads()
    once = sketch(Updates(values), Seeds(0))
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(sketch(Updates(values), Seeds(0)), once)
    finally:
        torch.set_num_threads(threads)
