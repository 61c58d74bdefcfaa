"""Distances are exact to 1e-9 at any scale, and Krum selects what exact arithmetic selects."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from hqde_fl.rules import Executor, Krum, SerialExecutor, ThreadedExecutor, TorchDevice, aggregate
from hqde_fl.rules.aggregation import measure_step
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.results import Measured
from hqde_fl.updates import Columns, Updates


def geometry_of(columns: Columns, executor: Executor | None = None) -> Geometry:
    measured: Measured = measure_step(Krum(0), columns, None, executor or SerialExecutor(4096))
    assert measured.geometry is not None
    return measured.geometry


def exact(updates: Tensor) -> list[list[float]]:
    """Squared distances in rational arithmetic, the origin last."""
    rows = [[Fraction(v) for v in row] for row in updates.double().tolist()]
    rows.append([Fraction(0)] * updates.shape[1])
    return [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def assert_exact(updates: Tensor, executor: Executor | None = None) -> Geometry:
    geometry = geometry_of(Updates(updates), executor)
    unit = Fraction(geometry.unit) ** 2
    for found, expected in zip(geometry.squared.tolist(), exact(updates), strict=True):
        for a, b in zip(found, expected, strict=True):
            assert abs(Fraction(a) * unit - b) <= Fraction(1, 10**9) * b
    return geometry


def base(n: int = 10, d: int = 60, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n + d)).to(dtype)


def one_far(x: Tensor) -> Tensor:
    x[0] *= 1e15
    return x


def two_far_clusters(x: Tensor) -> Tensor:
    x[:4] = 1e10 * x[0] + 1e4 * x[:4]
    return x


def colluding(x: Tensor) -> Tensor:
    x[:4] = 5 * x[0]
    return x


def nearly_colluding(x: Tensor) -> Tensor:
    x[:4] = (x[0] * 5) * (1 + 1e-6 * torch.arange(4)[:, None])
    return x


def shrinking(x: Tensor) -> Tensor:
    return x * 1e-3 ** torch.arange(len(x), dtype=x.dtype)[:, None]


def growing(x: Tensor) -> Tensor:
    return x[0] + 10.0 ** (torch.arange(len(x), dtype=x.dtype)[:, None] - 5) * x


def on_large_weights(x: Tensor) -> Tensor:
    return 1 + 1e-6 * x


def some_zero(x: Tensor) -> Tensor:
    x[3:6] = 0
    return x


NASTY = [
    one_far,
    two_far_clusters,
    colluding,
    nearly_colluding,
    shrinking,
    growing,
    on_large_weights,
    some_zero,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", NASTY, ids=lambda make: make.__name__)
def test_distances_are_exact(make: object, dtype: torch.dtype) -> None:
    assert_exact(make(base(dtype=dtype)))  # type: ignore[operator]


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_distances_are_exact_at_any_scale(scale: float) -> None:
    assert_exact(base() * scale)


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150, 1e250])
def test_distances_are_exact_beyond_the_range_of_squares(scale: float) -> None:
    assert_exact(base(dtype=torch.float64) * scale)


@pytest.mark.parametrize("executor", [ThreadedExecutor(2, 4096), TorchDevice("cpu", 4096)], ids=str)
def test_distances_are_exact_on_every_executor(executor: Executor) -> None:
    assert_exact(two_far_clusters(base(8, 600)), executor)


def test_coinciding_updates_have_distance_zero() -> None:
    geometry = assert_exact(colluding(base()))
    assert float(geometry.squared[:4, :4].max()) == 0


@pytest.mark.parametrize("make", NASTY, ids=lambda make: make.__name__)
def test_a_linear_step_keeps_distances_exact(make: object) -> None:
    updates = make(base(dtype=torch.float64))  # type: ignore[operator]
    mixing = torch.zeros(4, 10, dtype=torch.float64)
    mixing[0, 4:] = 1 / 6
    mixing[1, 5:] = 0.2
    mixing[2, :4] = mixing[2, 4] = 0.2
    mixing[3, :4] = mixing[3, 5] = 0.2
    geometry = geometry_of(Updates(updates)).mixed(mixing)
    weights = [[Fraction(v) for v in row] for row in mixing.tolist()]
    rows = [[Fraction(v) for v in row] for row in updates.tolist()]
    mixed = [
        [
            sum(w * x for w, x in zip(line, column, strict=True))
            for column in zip(*rows, strict=True)
        ]
        for line in weights
    ]
    for k in range(4):
        for m in range(4):
            expected = sum((a - b) ** 2 for a, b in zip(mixed[k], mixed[m], strict=True))
            assert float(geometry.squared[k, m]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("make", NASTY, ids=lambda make: make.__name__)
def test_inner_products_about_a_point(make: object) -> None:
    updates = make(base(dtype=torch.float64))  # type: ignore[operator]
    weights = torch.zeros(10, dtype=torch.float64)
    weights[6:] = 0.25
    geometry = geometry_of(Updates(updates))
    apart = updates - weights @ updates
    size = apart.norm(dim=1)
    expected = apart @ apart.T
    bound = 1e-9 * size[:, None] * size[None, :] + 1e-300
    assert bool(((geometry.about(weights) - expected).abs() <= bound).all())
    found = geometry.squared_distances_to(weights)
    torch.testing.assert_close(found, size**2, rtol=1e-9, atol=1e-13 * float(found.median()))


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("copies", [2, 3, 4])
def test_the_distance_to_a_mean_of_copies_is_zero(copies: int, offset: float) -> None:
    """Whatever rounding makes of a few copies that the others do not lie near."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        updates = offset + torch.randn(9, 40, generator=generator, dtype=torch.float64)
        updates[:copies] = offset + 3 * (updates[0] - offset)
        weights = torch.zeros(9, dtype=torch.float64)
        weights[:copies] = torch.rand(copies, generator=generator, dtype=torch.float64)
        weights /= weights.sum()
        squared = geometry_of(Updates(updates)).squared_distances_to(weights)
        assert squared[:copies].tolist() == [0] * copies
        expected = ((updates - updates[0]) ** 2).sum(dim=1)
        torch.testing.assert_close(squared[copies:], expected[copies:], rtol=1e-6, atol=0)


def test_a_small_distance_to_a_point_is_not_taken_for_rounding() -> None:
    """A millionth of the distance to the others: its square is 1e-12 of theirs."""
    updates = base(dtype=torch.float64)
    updates[1] = updates[0] + 1e-6 * base(dtype=torch.float64)[2]
    weights = torch.eye(len(updates), dtype=torch.float64)[1]
    squared = geometry_of(Updates(updates)).squared_distances_to(weights)
    assert float(squared[0]) == pytest.approx(
        float(((updates[0] - updates[1]) ** 2).sum()), rel=0.05
    )


def test_norms_and_products() -> None:
    updates = base(dtype=torch.float64)
    geometry = geometry_of(Updates(updates))
    torch.testing.assert_close(geometry.norms(), updates.norm(dim=1))
    torch.testing.assert_close(geometry.products(), updates @ updates.T)


@pytest.mark.parametrize("trained_on_deltas", [True, False])
def test_krum_selects_what_exact_arithmetic_selects(trained_on_deltas: bool) -> None:
    """Weights of size 1 in float32, updates of size 1e-6: 100 of 100 random cases."""
    n, d, f = 9, 400, 2
    for seed in range(100):
        rng = np.random.default_rng(seed)
        model = rng.standard_normal(d).astype(np.float32)
        weights = (model + 1e-6 * rng.standard_normal((n, d))).astype(np.float32)
        units = (weights.astype(np.float64) * 2.0**60).astype(object)  # integers, of any size
        whole = np.array([[int(v) for v in row] for row in units], dtype=object)
        apart = [[int(((x - y) ** 2).sum()) for y in whole] for x in whole]
        scores = [sum(sorted(row)[1 : n - f - 1]) for row in apart]
        sent = torch.from_numpy(weights - model if trained_on_deltas else weights)
        chosen = int(aggregate(Krum(f), Updates(sent)).influence.argmax())
        assert scores[chosen] == min(scores)
