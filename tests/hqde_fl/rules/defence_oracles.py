"""Defences with server data, layers or a memory as plain loops over float64 rows.

Functions return each row's weight in the result, or (weights, result) where it is no sum of rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from hqde_fl.rules import Cohort
from tests.hqde_fl.rules.influence_oracles import Final, Weights, cosine, lower_median, norm
from tests.hqde_fl.rules.oracles import Rows, median_value


def normalised_mean(rows: Rows, cohort: Cohort) -> Weights:
    typical = lower_median([norm(row) for row in rows])
    return [typical / norm(row) / len(rows) if row.any() else 0.0 for row in rows]


def fltrust(rows: Rows, cohort: Cohort) -> Weights:
    assert cohort.context.reference is not None
    root = cohort.context.reference.double().numpy()
    trust = [max(0.0, cosine(row, root)) for row in rows]
    total = math.fsum(trust)
    return [t / total * norm(root) / norm(row) for t, row in zip(trust, rows, strict=True)]


def smea(f: int) -> Final:
    """By the d x d covariance."""

    def weights(rows: Rows, cohort: Cohort) -> Weights:
        def spread(subset: tuple[int, ...]) -> float:
            part = np.stack([rows[i] for i in subset])
            centred = part - part.mean(axis=0)
            return float(np.linalg.eigvalsh(centred.T @ centred)[-1])

        subsets = itertools.combinations(range(len(rows)), len(rows) - f)
        kept = min(subsets, key=spread)
        return [1 / len(kept) if i in kept else 0.0 for i in range(len(rows))]

    return weights


def flame_cluster(rows: Rows) -> list[int]:
    """Grow by the shortest links until a group has more than half of the rows."""
    n = len(rows)
    groups = [{i} for i in range(n)]
    links = sorted(
        itertools.combinations(range(n), 2), key=lambda pair: -cosine(rows[pair[0]], rows[pair[1]])
    )
    for i, j in links:
        if max(map(len, groups)) >= n // 2 + 1:
            break
        one = next(g for g in groups if i in g)
        other = next(g for g in groups if j in g)
        if one is not other:
            groups.remove(other)
            one |= other
    return sorted(max(groups, key=len))


def flame(rows: Rows, cohort: Cohort) -> Weights:
    admitted, lengths = flame_cluster(rows), [norm(row) for row in rows]
    typical = lower_median(lengths)
    return [
        min(1.0, typical / lengths[i]) / len(admitted) if i in admitted else 0.0
        for i in range(len(rows))
    ]


def foolsgold_of_histories(histories: Rows, confidence: float = 1.0) -> Weights:
    n = len(histories)
    cs = [
        [cosine(x, y) if i != j else 0.0 for j, y in enumerate(histories)]
        for i, x in enumerate(histories)
    ]
    highest = [max(row) for row in cs]
    rates = []
    for i in range(n):
        pardoned = [
            cs[i][j] * (highest[i] / highest[j] if highest[j] > highest[i] else 1.0)
            for j in range(n)
        ]
        rates.append(min(1.0, max(0.0, 1 - max(pardoned))))
    rates = [r if r > 1e-9 else 0.0 for r in rates]
    largest = max(rates)
    if largest == 0:
        return [1.0] * n
    weights = []
    for rate in (r / largest for r in rates):
        if rate in (0, 1):
            weights.append(rate)
        else:
            logit = confidence * (math.log(rate / (1 - rate)) + 0.5)
            weights.append(min(1.0, max(0.0, logit)))
    return weights


def foolsgold(rows: Rows, cohort: Cohort) -> Weights:
    """In the first round, where an update is its client's history."""
    return foolsgold_of_histories(rows)


def equal(rows: Rows, cohort: Cohort) -> Weights:
    """FLDetector in the first round."""
    return [1.0] * len(rows)


def bfgs_matrix(steps: Sequence[np.ndarray], changes: Sequence[np.ndarray]) -> np.ndarray:
    """The d x d matrix by the recursive BFGS updates of sigma I, sigma from the last pair."""
    s, y = steps[-1], changes[-1]
    matrix = (y @ s) / (s @ s) * np.eye(len(s))
    for s, y in zip(steps, changes, strict=True):
        moved = matrix @ s
        matrix = matrix - np.outer(moved, moved) / (s @ moved) + np.outer(y, y) / (y @ s)
    return matrix


def is_two_clusters(values: Sequence[float], samples: np.ndarray) -> tuple[bool, list[bool]]:
    """The gap statistic for one and two clusters, and which numbers are in the higher of two."""

    def spread(numbers: Sequence[float]) -> float:
        middle = math.fsum(numbers) / len(numbers)
        return math.fsum((v - middle) ** 2 for v in numbers)

    def best(numbers: Sequence[float]) -> tuple[float, float]:
        ordered = sorted(numbers)
        return min(
            (spread(ordered[:k]) + spread(ordered[k:]), ordered[k]) for k in range(1, len(ordered))
        )

    low, high = min(values), max(values)
    scaled = [(v - low) / (high - low) for v in values]
    logs = [(math.log(spread(s)), math.log(best(s)[0])) for s in samples.tolist()]
    gaps = [
        math.fsum(pair[k] for pair in logs) / len(logs)
        - math.log((spread(scaled), best(scaled)[0])[k])
        for k in (0, 1)
    ]
    middle = math.fsum(pair[1] for pair in logs) / len(logs)
    deviation = math.sqrt(math.fsum((pair[1] - middle) ** 2 for pair in logs) / len(logs))
    error = deviation * math.sqrt(1 + 1 / len(logs))
    threshold = best(values)[1]
    return gaps[0] < gaps[1] - error, [v >= threshold for v in values]


def rounded_down(magnitude: float) -> float:
    """The magnitude with its first five binary digits."""
    mantissa, exponent = math.frexp(magnitude)
    return math.ldexp(math.floor(mantissa * 32), exponent - 5)


def within(values: Sequence[float], bound: float) -> list[bool]:
    middle, mean = median_value(list(values)), math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    if deviation <= 1e-9 * max(map(abs, values)):
        return [True] * len(values)
    return [abs(v - middle) <= bound * deviation for v in values]


def lasa_layers(
    rows: Rows, cohort: Cohort, norm_bound: float, sign_bound: float, sparsity: float
) -> list[Weights]:
    """The weights of the rows in each layer."""
    n, d = len(rows), len(rows[0])
    wanted = d - math.floor(Fraction(sparsity).limit_denominator(100) * d)
    sparse = []
    for row in rows:
        least = rounded_down(sorted(map(abs, row.tolist()), reverse=True)[wanted - 1])
        sparse.append(np.array([v if abs(v) >= least else 0.0 for v in row.tolist()]))
    lengths = [norm(row) for row in rows]
    shrink = [min(1.0, lower_median(lengths) / k) if k else 1.0 for k in lengths]
    layers, start = [], 0
    for size in cohort.context.layers:
        parts = [row[start : start + size] for row in sparse]
        start += size
        positive = []
        for part in parts:
            nonzero = int((part != 0).sum())
            positive.append((1 + np.sign(part).sum() / max(1, nonzero)) / 2)
        kept = [
            a and b
            for a, b in zip(
                within([norm(part) for part in parts], norm_bound),
                within([float(p) for p in positive], sign_bound),
                strict=True,
            )
        ]
        if not any(kept):
            kept = [True] * n
        layers.append([k / sum(kept) * s for k, s in zip(kept, shrink, strict=True)])
    return layers


def lasa(norm_bound: float = 2.0, sign_bound: float = 1.0, sparsity: float = 0.3) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        layers = lasa_layers(rows, cohort, norm_bound, sign_bound, sparsity)
        sizes = cohort.context.layers
        return [
            math.fsum(size * layer[i] for size, layer in zip(sizes, layers, strict=True))
            for i in range(len(rows))
        ]

    return weights


def densest(values: Sequence[float], harmonics: int = 8, bandwidth: float = 0.1) -> float:
    """The lower median of the values in the cell, of 64, at whose centre the density is largest.

    The density is the Fourier series of all cells' centres, over two ranges of the values.
    """
    low, high = min(values), max(values)
    cell = {v: min(63, int((v - low) / (high - low) * 64)) if high > low else 0 for v in values}

    def density(at: int) -> float:
        total = 0.0
        for k in range(1, harmonics + 1):
            damping = math.exp(-((math.pi * k * bandwidth) ** 2) / 2)
            waves = (math.cos(math.pi * k * (at - cell[v]) / 64) for v in values)
            total += damping * math.fsum(waves)
        return round(total * 256)

    best = max(sorted(set(cell.values())), key=density)
    inside = sorted(v for v in values if cell[v] == best)
    return inside[(len(inside) - 1) // 2]


def fedrdf(rows: Rows, cohort: Cohort) -> Weights:
    weights = [0.0] * len(rows)
    for j in range(len(rows[0])):
        column = [float(row[j]) for row in rows]
        chosen = densest(column)
        for i, value in enumerate(column):
            weights[i] += (value == chosen) / column.count(chosen)
    return weights
