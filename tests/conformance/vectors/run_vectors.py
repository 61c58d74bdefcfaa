"""Run any callable on the vectors beside this file; needs NumPy and safetensors, nothing else.

``python run_vectors.py krum my_package.rules:krum`` calls ``krum(rows, f, parameter)`` with rows
(n, d) as a NumPy array, and exits with 1 if a result differs.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

FOLDER = Path(__file__).parent


class Vector(NamedTuple):
    """A case and its result; ``low`` and ``high`` bound it where rows tie, else both are it."""

    rows: np.ndarray
    f: int
    parameter: float
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray
    unique: bool


class Outcome(NamedTuple):
    """Number of vectors that were run, and the indices of those whose result differs."""

    run: int
    wrong: list[int]


def vectors(subject: str) -> Iterator[Vector]:
    """Yield the vectors of a subject, one of the names in ``index.json``."""
    tensors = load_file(FOLDER / f"{subject}.safetensors")
    at = dict.fromkeys(("rows32", "rows64", "expected", "low"), 0)

    def take(name: str, count: int) -> np.ndarray:
        at[name] += count
        return tensors[name][at[name] - count : at[name]]

    pairs = zip(tensors["shapes"].tolist(), tensors["parameters"].tolist(), strict=True)
    for (n, d, f, width, unique), parameter in pairs:
        rows = take(f"rows{width}", n * d).reshape(n, d)
        size = _result_rows(subject, n) * d
        expected = take("expected", size)
        low = high = expected
        if not unique:
            low = take("low", size)
            high = tensors["high"][at["low"] - size : at["low"]]
        yield Vector(rows, f, parameter, expected, low, high, bool(unique))


def _result_rows(subject: str, n: int) -> int:
    if subject == "bucketing":
        return -(-n // 2)
    return n if subject in ("nnm", "arc", "clipping") else 1


def run(
    function: Callable[[np.ndarray, int, float], object], subject: str, step: int = 1
) -> Outcome:
    """Return which of a subject's vectors, every ``step``-th of them, a function gets wrong.

    Results may differ by the index's tolerance times the largest magnitude of the rows. Where rows
    tie, a result must lie within what the paper admits in every coordinate.
    """
    tolerance = json.loads((FOLDER / "index.json").read_text())[subject]["tolerance"]
    wrong, count = [], 0
    for index, vector in enumerate(vectors(subject)):
        if index % step:
            continue
        count += 1
        unit = float(np.abs(vector.rows).max()) or 1.0
        result = function(vector.rows.copy(), vector.f, vector.parameter)
        values = np.asarray(result, dtype=np.float64).ravel() / unit
        low, high = vector.low / unit - tolerance, vector.high / unit + tolerance
        if values.shape != low.shape or not ((values >= low) & (values <= high)).all():
            wrong.append(index)
    return Outcome(count, wrong)


def main(subject: str, name: str) -> int:
    """Run a function, given as ``module:function``; return 1 if a result differs."""
    module, _, function = name.partition(":")
    outcome = run(getattr(importlib.import_module(module), function), subject)
    print(f"{subject}: {outcome.run - len(outcome.wrong)} of {outcome.run} as expected")
    if outcome.wrong:
        print(f"different: {outcome.wrong}")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, ".")
    sys.exit(main(*sys.argv[1:]))
