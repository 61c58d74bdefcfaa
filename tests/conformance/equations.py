"""The papers' equations as plain loops, with *every* result that they admit where rows tie.

An equation gets rows in float64 whose largest magnitude is 1. It returns parts (one for a vector,
one for each row of a pre-aggregation); a part is the list of the results that the paper admits,
each as a box (low, high), whose ends differ only where a rule leaves open which value counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from tests.conformance.cases import Case

TIE = 1e-6
"""Criteria that differ by less than this fraction of the larger one count as equal."""

Box = tuple[np.ndarray, np.ndarray]
Equation = Callable[[Case], list[list[Box]]]


def point(values: np.ndarray) -> Box:
    return values, values


def exactly(of: Callable[[Case], np.ndarray]) -> Equation:
    """Return the equation of something that admits one result, a vector (d,) or rows (n, d)."""
    return lambda case: [[point(part)] for part in np.atleast_2d(of(case))]


def least(scores: np.ndarray, count: int) -> Iterator[tuple[int, ...]]:
    """Yield every choice of ``count`` least scores: more than one if scores tie for the last."""
    cutoff = float(np.sort(scores)[count - 1])
    margin = TIE * abs(cutoff) + 1e-14
    sure = np.flatnonzero(scores < cutoff - margin).tolist()
    tied = np.flatnonzero(np.abs(scores - cutoff) <= margin).tolist()
    for more in itertools.combinations(tied, count - len(sure)):
        yield (*sure, *more)


def squared_distances(rows: np.ndarray) -> np.ndarray:
    return ((rows[:, None] - rows[None]) ** 2).sum(axis=2)


def means(rows: np.ndarray, choices: Iterator[tuple[int, ...]]) -> list[Box]:
    return [point(rows[list(choice)].mean(axis=0)) for choice in choices]


def krum_scores(rows: np.ndarray, f: int, more: int = 0, power: float = 1.0) -> np.ndarray:
    """Return the sums over the n - f - 2 + ``more`` nearest of squared distances ** ``power``."""
    squared = squared_distances(rows) ** power
    count = min(max(1, len(rows) - f - 2 + more), len(rows) - 1)
    others = [np.sort(np.delete(row, i)) for i, row in enumerate(squared)]
    return np.array([row[:count].sum() for row in others])


def krum(case: Case, more: int = 0, power: float = 1.0) -> list[list[Box]]:
    return [means(case.rows, least(krum_scores(case.rows, case.f, more, power), 1))]


def multi_krum(case: Case, more: int = 0, power: float = 1.0) -> list[list[Box]]:
    scores = krum_scores(case.rows, case.f, more, power)
    return [means(case.rows, least(scores, len(case.rows) - case.f))]


def around_median(rows: np.ndarray, count: int, middle: np.ndarray | None = None) -> Box:
    """Return the least and the greatest mean of ``count`` values nearest to each median."""
    ends: list[list[float]] = [[], []]
    for j, column in enumerate(rows.T):
        distance = np.abs(column - (np.median(column) if middle is None else middle[j]))
        cutoff = np.sort(distance)[count - 1]
        sure = column[distance < cutoff - TIE]
        tied = np.sort(column[np.abs(distance - cutoff) <= TIE])
        missing = count - len(sure)
        for end, chosen in zip(ends, (tied[:missing], tied[len(tied) - missing :]), strict=True):
            end.append((math.fsum(sure) + math.fsum(chosen)) / count)
    return np.array(ends[0]), np.array(ends[1])


def meamed(case: Case) -> list[list[Box]]:
    return [[around_median(case.rows, len(case.rows) - case.f)]]


def lower_median_meamed(case: Case) -> list[list[Box]]:
    middle = np.sort(case.rows, axis=0)[(len(case.rows) - 1) // 2]
    return [[around_median(case.rows, len(case.rows) - case.f, middle)]]


def bulyan(case: Case) -> list[list[Box]]:
    n, f = len(case.rows), case.f
    theta = n - 2 * f
    level = {frozenset[int]()}
    for _ in range(theta):
        following = set()
        for chosen in level:
            left = [i for i in range(n) if i not in chosen]
            if len(left) == 1:
                following.add(chosen | set(left))
                continue
            scores = krum_scores(case.rows[left], f)
            following |= {chosen | {left[winner]} for (winner,) in least(scores, 1)}
        level = following
    return [[around_median(case.rows[sorted(chosen)], theta - 2 * f) for chosen in level]]


def one_shot_bulyan(case: Case) -> list[list[Box]]:
    n, f = len(case.rows), case.f
    chosen = least(krum_scores(case.rows, f), n - 2 * f)
    return [[around_median(case.rows[list(rows)], n - 4 * f) for rows in chosen]]


def subsets(case: Case, criterion: Callable[[np.ndarray], float]) -> list[list[Box]]:
    """Return the means of the n - f rows with the least criterion."""
    n = len(case.rows)
    choices = list(itertools.combinations(range(n), n - case.f))
    scores = np.array([criterion(case.rows[list(choice)]) for choice in choices])
    return [means(case.rows, (choices[i] for (i,) in least(scores, 1)))]


def mda(case: Case) -> list[list[Box]]:
    return subsets(case, lambda rows: float(squared_distances(rows).max()))


def smea(case: Case) -> list[list[Box]]:
    def criterion(rows: np.ndarray) -> float:
        centred = rows - rows.mean(axis=0)
        return float(np.linalg.eigvalsh(centred.T @ centred / len(rows))[-1].clip(0))

    return subsets(case, criterion)


def monna(case: Case) -> list[list[Box]]:
    scores = ((case.rows - case.rows[0]) ** 2).sum(axis=1)
    return [means(case.rows, least(scores, len(case.rows) - case.f))]


def nnm(case: Case) -> list[list[Box]]:
    squared = squared_distances(case.rows)
    return [means(case.rows, least(row, len(case.rows) - case.f)) for row in squared]


def trimmed_mean(case: Case) -> np.ndarray:
    rows = np.sort(case.rows, axis=0)
    return rows[case.f : len(rows) - case.f].mean(axis=0)


def lower_median(case: Case) -> np.ndarray:
    return np.sort(case.rows, axis=0)[(len(case.rows) - 1) // 2]


def centered_clipping(case: Case) -> np.ndarray:
    v = np.zeros(case.rows.shape[1])
    for _ in range(3):
        steps = []
        for row in case.rows:
            length = math.sqrt(math.fsum((row - v) ** 2))
            steps.append((row - v) * min(1.0, case.parameter / length if length else 1.0))
        v = v + np.mean(steps, axis=0)
    return v


def clipping(case: Case) -> np.ndarray:
    lengths = [math.sqrt(math.fsum(row**2)) for row in case.rows]
    factors = [min(1.0, case.parameter / length) if length else 1.0 for length in lengths]
    return case.rows * np.array(factors)[:, None]


def arc(case: Case) -> np.ndarray:
    n, f = case.rows.shape[0], case.f
    longest_first = np.sort(np.sqrt((case.rows**2).sum(axis=1)))[::-1]
    bound = longest_first[2 * f * (n - f) // n]
    lengths = np.sqrt((case.rows**2).sum(axis=1))
    factor = np.array([bound / length if length > bound else 1.0 for length in lengths])
    return case.rows * factor[:, None]


def caf(case: Case, *, over_all: bool = False) -> np.ndarray:
    """Return CAF's mean; ``over_all`` divides by the maximum of all rows, without weight or not."""
    rows, n, f = case.rows, len(case.rows), case.f
    weights, best, smallest = np.ones(n), rows.mean(axis=0), math.inf
    steps = 0
    while weights.sum() > n - 2 * f + 1e-12 and steps < 20_000:  # over all rows it need not end
        steps += 1
        mean = weights @ rows / weights.sum()
        centred = rows - mean
        covariance = (weights[:, None] * centred).T @ centred / weights.sum()
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] < smallest:
            best, smallest = mean, float(values[-1])
        along = (centred @ vectors[:, -1]) ** 2
        furthest = along.max() if over_all else along[weights > 0].max()
        if furthest <= 1e-28:
            break
        kept = 1 - along / furthest
        weights = np.where(kept > 1e-12, weights * kept, 0.0)
    return best


def caf_has_ties(case: Case) -> bool:
    """Return True if two rows are equally far in one of the first steps of CAF."""
    rows, n, f = case.rows, len(case.rows), case.f
    weights = np.ones(n)
    for _ in range(100):
        if weights.sum() <= n - 2 * f + 1e-12:
            return False
        centred = rows - weights @ rows / weights.sum()
        covariance = (weights[:, None] * centred).T @ centred / weights.sum()
        along = (centred @ np.linalg.eigh(covariance)[1][:, -1]) ** 2
        furthest = along[weights > 0].max()
        if furthest <= 1e-28:
            return False
        if (along[weights > 0] > furthest * (1 - 1e-9)).sum() > 1:
            return True
        kept = 1 - along / furthest
        weights = np.where(kept > 1e-12, weights * kept, 0.0)
    return False


def alie(case: Case, correction: int = 0, sign: float = -1.0) -> np.ndarray:
    rows = case.rows
    deviation = rows.std(axis=0, ddof=correction)
    return rows.mean(axis=0) + sign * case.parameter * deviation


def sum_of_distances(rows: np.ndarray, z: np.ndarray) -> float:
    return math.fsum(math.sqrt(math.fsum((row - z) ** 2)) for row in rows)


def admits(equation: Equation, case: Case, result: np.ndarray | None, tolerance: float) -> bool:
    """Return True if a result, in units of the normalised case, is one that the equation admits."""
    if result is None or not np.isfinite(result).all():
        return False
    parts, found = equation(case), np.atleast_2d(result)
    return len(parts) == len(found) and all(
        any(
            bool((row >= low - tolerance).all() and (row <= high + tolerance).all())
            for low, high in boxes
        )
        for row, boxes in zip(found, parts, strict=True)
    )


def is_unique(equation: Equation, case: Case) -> bool:
    """Return True if the equation admits one result only."""
    for boxes in equation(case):
        low = np.min([box[0] for box in boxes], axis=0)
        high = np.max([box[1] for box in boxes], axis=0)
        if float((high - low).max(initial=0)) > TIE:
            return False
    return True
