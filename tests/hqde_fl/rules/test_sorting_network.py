"""The compiled networks and NumPy give the same order statistics, bit for bit."""

import numpy as np
import pytest
import torch

from hqde_fl.rules import sorting_network
from hqde_fl.rules.mean_around_median import mean_around_median_of
from hqde_fl.rules.order_statistics import median_of, trimmed_mean_of

SIZES = (2, 5, 17, 50, 256)


def tiles(n, dtype):
    """Yield (n, c) tiles: distinct values, ties and both zeros, extremes, values that vanish."""
    rng = np.random.default_rng(n)
    c = (1 << 16) // n + 37
    yield rng.standard_normal((n, c)).astype(dtype)
    yield (rng.integers(-2, 3, (n, c)) * rng.choice([-1, 1], (n, c))).astype(dtype) * dtype(0.5)
    yield rng.choice([-0.0, 0.0, 1e-310, np.finfo(dtype).max, np.finfo(dtype).min], (n, c)).astype(
        dtype
    )
    yield (rng.standard_normal((n, c)) * 10 * np.finfo(dtype).smallest_subnormal).astype(dtype)


def outcomes(tile, f):
    """Return the bytes of the medians, the trimmed means and the means around them, with counts."""
    with np.errstate(over="ignore"):
        tensors = (*median_of(tile), *trimmed_mean_of(tile, f))
        tensors += mean_around_median_of(tile, len(tile) - f)
    return [tensor.numpy().tobytes() for tensor in tensors]


@pytest.mark.skipif(not sorting_network.has_numba(), reason="numba (extra fast) is not installed")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", SIZES)
def test_numba_and_numpy_agree_bit_for_bit(n, dtype, monkeypatch):
    for values in tiles(n, dtype):
        tile = torch.from_numpy(values)
        assert sorting_network.usable(values)
        compiled = outcomes(tile, (n - 1) // 3)
        with monkeypatch.context() as patch:
            patch.setattr(sorting_network, "has_numba", lambda: False)
            assert not sorting_network.usable(values)
            assert outcomes(tile, (n - 1) // 3) == compiled


@pytest.mark.parametrize("n", range(1, 40))
def test_network_sorts_every_pattern_of_zeros_and_ones(n):
    rng = np.random.default_rng(n)
    columns = rng.integers(0, 2, (n, 2000))
    expected = np.sort(columns, axis=0)
    for first in {0, n // 3, (n - 1) // 2}:
        last = n - 1 - first
        steps, places = sorting_network.renamed(n, first, last)
        rows = np.concatenate([columns, columns[:1]])
        for low, high, spare in steps:
            pair = rows[[low, high]]
            rows[spare], rows[high] = pair.min(axis=0), pair.max(axis=0)
        assert len(set(places.tolist())) == n
        assert (rows[places][first : last + 1] == expected[first : last + 1]).all()
