"""The rules as plain loops over float64 rows, straight from their papers' definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Rows = list[np.ndarray]


def distance(x: np.ndarray, y: np.ndarray) -> float:
    return math.sqrt(math.fsum(((x - y) ** 2).tolist()))


def inner(x: np.ndarray, y: np.ndarray) -> float:
    return math.fsum((x * y).tolist())


def squared_distance(x: np.ndarray, y: np.ndarray) -> float:
    return inner(x - y, x - y)


def average(rows: Sequence[np.ndarray]) -> np.ndarray:
    return sum(rows[1:], start=rows[0]) / len(rows)


def coordinatewise(rows: Rows, of: Callable[[list[float]], float]) -> np.ndarray:
    return np.array([of([float(row[j]) for row in rows]) for j in range(len(rows[0]))])


def median_value(values: list[float]) -> float:
    values = sorted(values)
    n = len(values)
    return (values[(n - 1) // 2] + values[n // 2]) / 2


def mean(rows: Rows) -> np.ndarray:
    return average(rows)


def median(rows: Rows) -> np.ndarray:
    return coordinatewise(rows, median_value)


def trimmed_mean(rows: Rows, f: int) -> np.ndarray:
    return coordinatewise(rows, lambda v: math.fsum(sorted(v)[f : len(v) - f]) / (len(v) - 2 * f))


def around_median(values: list[float], count: int) -> float:
    middle = median_value(values)
    return math.fsum(sorted(values, key=lambda v: abs(v - middle))[:count]) / count


def meamed(rows: Rows, f: int) -> np.ndarray:
    return coordinatewise(rows, lambda v: around_median(v, len(v) - f))


def geometric_median(rows: Rows) -> np.ndarray:
    """Weiszfeld, long enough; no update may be the median itself."""
    z = average(rows)
    for _ in range(5000):
        pull = [1 / max(distance(row, z), 1e-300) for row in rows]
        z = sum((p * row for p, row in zip(pull, rows, strict=True)), 0 * z) / math.fsum(pull)
    return z


def krum_order(rows: Rows, f: int) -> list[int]:
    scores = []
    for i, x in enumerate(rows):
        others = sorted(squared_distance(x, y) for j, y in enumerate(rows) if j != i)
        scores.append((math.fsum(others[: max(1, len(rows) - f - 2)]), math.fsum(others)))
    return sorted(range(len(rows)), key=lambda i: scores[i])


def krum(rows: Rows, f: int) -> np.ndarray:
    return rows[krum_order(rows, f)[0]]


def multi_krum(rows: Rows, f: int, m: int = 0) -> np.ndarray:
    return average([rows[i] for i in krum_order(rows, f)[: m or len(rows) - f]])


def bulyan(rows: Rows, f: int) -> np.ndarray:
    left, chosen = list(rows), []
    while len(chosen) < len(rows) - 2 * f:
        chosen.append(left.pop(krum_order(left, f)[0]))
    return coordinatewise(chosen, lambda v: around_median(v, len(chosen) - 2 * f))


def centered_clipping(
    rows: Rows, tau: float, iterations: int, relative: bool, centre: np.ndarray | None = None
) -> np.ndarray:
    v = 0 * rows[0] if centre is None else centre
    for _ in range(iterations):
        lengths = [distance(row, v) for row in rows]
        longest = tau * sorted(lengths)[(len(rows) - 1) // 2] if relative else tau
        steps = [(x - v) * min(1, longest / k) for x, k in zip(rows, lengths, strict=True)]
        v = v + average(steps)
    return v


def mda(rows: Rows, f: int) -> np.ndarray:
    def size(subset: tuple[int, ...]) -> tuple[float, float]:
        apart = [distance(rows[i], rows[j]) for i, j in itertools.combinations(subset, 2)]
        return max(apart, default=0.0), math.fsum(a * a for a in apart)

    subsets = itertools.combinations(range(len(rows)), len(rows) - f)
    return average([rows[i] for i in min(subsets, key=size)])


def monna(rows: Rows, f: int, trusted: int) -> np.ndarray:
    nearest = sorted(rows, key=lambda row: distance(row, rows[trusted]))
    return average(nearest[: len(rows) - f])


def caf(rows: Rows, f: int) -> np.ndarray:
    """On the d x d covariance itself."""
    n, c = len(rows), np.ones(len(rows))
    best, least = average(rows), math.inf
    while c.sum() > n - 2 * f:
        mu = sum((w * row for w, row in zip(c, rows, strict=True)), 0 * rows[0]) / c.sum()
        cov = sum(w * np.outer(x - mu, x - mu) for w, x in zip(c, rows, strict=True)) / c.sum()
        values, vectors = np.linalg.eigh(cov)
        if values[-1] < least:
            best, least = mu, values[-1]
        along = np.array([float(vectors[:, -1] @ (x - mu)) ** 2 for x in rows])
        if f == 0:
            break
        c = c * np.maximum(0, 1 - along / np.where(c > 0, along, 0).max())
    return best


def dnc(rows: Rows, f: int, removal: float) -> np.ndarray:
    centred = np.stack(rows) - average(rows)
    vector = np.linalg.svd(centred)[2][0]
    scores = [float(row @ vector) ** 2 for row in centred]
    kept = sorted(range(len(rows)), key=lambda i: scores[i])
    return average([rows[i] for i in kept[: len(rows) - math.ceil(f * removal)]])


def nnm(rows: Rows, f: int) -> Rows:
    return [average(sorted(rows, key=lambda row: distance(row, x))[: len(rows) - f]) for x in rows]


def clipping(rows: Rows, c: float) -> Rows:
    return [row * min(1.0, c / distance(row, 0 * row)) for row in rows]


def arc(rows: Rows, f: int) -> Rows:
    n = len(rows)
    lengths = sorted((distance(row, 0 * row) for row in rows), reverse=True)
    return clipping(rows, lengths[math.floor(2 * f / n * (n - f))])


def bucketing(rows: Rows, s: int, order: Sequence[int]) -> Rows:
    shuffled = [rows[i] for i in order]
    return [average(shuffled[k : k + s]) for k in range(0, len(rows), s)]


def sign_guard_norms(rows: Rows, low: float, high: float) -> list[bool]:
    lengths = [distance(row, 0 * row) for row in rows]
    middle = sorted(lengths)[(len(rows) - 1) // 2]
    return [low * middle <= length <= high * middle for length in lengths]


def mad_scores(rows: Rows) -> list[float]:
    middle = median(rows)
    apart = [np.abs(row - middle) for row in rows]
    spread = coordinatewise(apart, lambda v: sorted(v)[(len(v) - 1) // 2])
    return [math.fsum(a.tolist()) / math.fsum(spread.tolist()) for a in apart]
