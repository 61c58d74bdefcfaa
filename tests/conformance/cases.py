"""Seeded cases: ties, duplicates, f at its bound, n = 1, scales from 1e-30 to 1e30."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KINDS = ("normal", "grid", "duplicates", "equal", "offset", "outliers", "zeros", "sparse")


@dataclass(frozen=True)
class Case:
    """One input: rows (n, d) in float32 or float64, f, and a parameter in units of the rows."""

    rows: np.ndarray
    f: int
    parameter: float
    kind: str

    @property
    def unit(self) -> float:
        """Return the largest magnitude of the rows, or 1 if all are zero."""
        return float(np.abs(self.rows).max()) or 1.0

    def normalised(self) -> Case:
        """Return the same case in float64, with 1 as the largest magnitude."""
        return Case(self.rows.astype(np.float64) / self.unit, self.f, self.parameter, self.kind)


def draw(subject: str, index: int, least: Callable[[int], int], most: int) -> Case:
    """Return case ``index`` of a subject: the same one on every machine.

    Parameters
    ----------
    subject : str
        Names the sequence of cases.
    index : int
        Position in the sequence; even ones are float32, odd ones float64.
    least : callable
        f -> the fewest rows for which the subject is defined.
    most : int
        The most rows, at least ``least(0)``.
    """
    random = np.random.default_rng([zlib.crc32(subject.encode()), index])
    bounds = [f for f in range(most) if least(f) <= most]
    f = int(random.choice(bounds))
    n = int(random.integers(least(f), most + 1))
    if random.random() < 0.3:  # f at its bound
        n = least(f)
    d = int(random.integers(1, 7))
    kind = KINDS[index // 2 % len(KINDS)]
    rows = _rows(kind, n, d, random)
    exponent = 0.0 if random.random() < 0.4 else random.uniform(-30, 30)
    dtype = np.float32 if index % 2 == 0 else np.float64
    scaled = rows * 10.0**exponent / max(1.0, float(np.abs(rows).max()) if exponent > 25 else 1.0)
    return Case(scaled.astype(dtype), f, float(random.choice([0.1, 0.5, 1.0, 3.0])), kind)


def _rows(kind: str, n: int, d: int, random: np.random.Generator) -> np.ndarray:
    rows = random.standard_normal((n, d))
    if kind == "grid":
        return random.integers(-2, 3, (n, d)).astype(np.float64)
    if kind == "duplicates":
        return rows[random.integers(0, max(1, n // 2), n)]
    if kind == "equal":
        return np.repeat(rows[:1], n, axis=0)
    if kind == "offset":
        return rows + 100.0
    if kind == "outliers":
        rows[random.integers(0, n)] *= 1e3
    if kind == "zeros":
        rows[random.random(n) < 0.4] = 0.0
    if kind == "sparse":
        rows[random.random((n, d)) < 0.6] = 0.0
    return rows
