"""Means around the median: ties for the last places, and values near the end of the range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hqde_fl.rules import NNM, Bulyan, Chain, Meamed, aggregate
from hqde_fl.updates import Updates


def meamed_of(values: list[float], f: int) -> float:
    return float(aggregate(Meamed(f), Updates(torch.tensor(values).double()[:, None])).delta)


def test_exactly_so_many_values_count() -> None:
    """Of three zeros that tie two count: the paper's mean, whichever they are."""
    assert meamed_of([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], f=1) == pytest.approx(4 / 6)


def test_values_that_tie_on_both_sides_share_the_last_place() -> None:
    values = [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert meamed_of(values, f=1) == 0.0
    outcome = aggregate(Meamed(1), Updates(torch.tensor(values)[:, None]))
    assert outcome.influence.tolist() == pytest.approx([1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8])


def by_argsort(rows: Tensor, count: int) -> np.ndarray:
    """Take the first ``count`` by distance, whichever of those that tie comes first."""
    values = rows.numpy()
    middle = np.median(values, axis=0)
    order = np.abs(values - middle).argsort(axis=0, kind="stable")[:count]
    nearest: np.ndarray = np.take_along_axis(values, order, axis=0)
    return np.asarray(nearest.mean(axis=0))


@pytest.mark.parametrize("n", [9, 11, 13])
def test_after_nnm_it_is_the_mean_of_the_nearest_values(n: int) -> None:
    """NNM makes copies, whose values tie; with an odd n nothing else does."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        updates = torch.randn(n, 30, dtype=torch.float64, generator=generator)
        mixed = aggregate_rows(updates, f=2)
        delta = aggregate(Chain(NNM(2), Meamed(2)), Updates(updates)).delta
        expected = by_argsort(mixed, n - 2)
        np.testing.assert_allclose(delta.numpy(), expected, atol=1e-9)


def aggregate_rows(updates: Tensor, f: int) -> Tensor:
    """Return the means of each row's n - f nearest."""
    near = torch.cdist(updates, updates).argsort(dim=1)[:, : len(updates) - f]
    return torch.stack([updates[rows].mean(dim=0) for rows in near])


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        (Meamed(2), torch.float32),
        (Meamed(2), torch.float64),
        (Bulyan(2), torch.float32),
        (Chain(NNM(2), Meamed(2)), torch.float32),
    ],
    ids=str,
)
def test_values_near_the_end_of_the_range(rule: Meamed, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(11, 8, dtype=dtype, generator=generator)
    small /= small.abs().max()
    small[:2] = torch.tensor([1.0, -1.0], dtype=dtype)[:, None]
    large = small * (0.9 * torch.finfo(dtype).max)
    delta = aggregate(rule, Updates(large)).delta
    expected = aggregate(rule, Updates(small)).delta
    torch.testing.assert_close(delta / (0.9 * torch.finfo(dtype).max), expected)
