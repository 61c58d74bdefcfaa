"""Sort blocks of numbers into classes by their size, an octave each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec.parallel import each, tiles

Values = NDArray[np.float32]
Classes = NDArray[np.uint8]
Sample = list[tuple[Values, float]]
"""Some values of each class, and the fraction of all values that belong to it."""

BLOCK = 256
CLASS_BITS = 3
CLASSES = 1 << CLASS_BITS
_SAMPLED = 1 << 15


def one_class(values: Values) -> Classes:
    """Return class 0 for every whole block; one class 0 if there is no whole block."""
    return np.zeros(max(1, values.size // BLOCK), np.uint8)


def classes_of(values: Values) -> Classes:
    """Return each whole block's class by its mean magnitude, numbered from 0 without gaps.

    A class is an octave; with fewer than two whole blocks there is one class only.
    """
    blocks = values.size // BLOCK
    if blocks < 2:
        return one_class(values)
    sizes = np.empty(blocks, np.float64)

    def measure(span: slice) -> None:
        rows = np.abs(values[span]).reshape(-1, BLOCK)
        rows.sum(axis=1, dtype=np.float64, out=sizes[span.start // BLOCK : span.stop // BLOCK])

    each(measure, tiles(blocks * BLOCK), blocks * BLOCK)
    typical = float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
    octaves = np.rint(np.log2(np.maximum(sizes / typical, 2.0**-CLASSES)))
    middle = CLASSES // 2
    octaves = np.clip(octaves, -middle, middle - 1)
    return np.unique(octaves, return_inverse=True)[1].astype(np.uint8)


def values_of_class(values: Values, classes: Classes, number: int) -> Values:
    """Return the values of a class, in order; the rest after the last block is of its class."""
    whole = classes.size * BLOCK
    chosen = values[:whole].reshape(-1, BLOCK)[classes == number].ravel()
    return np.append(chosen, values[whole:]) if classes[-1] == number else chosen


def sample_classes(values: Values, classes: Classes) -> Sample:
    """Return some values of each class, and the fraction of all values that belong to it."""
    if values.size < 2 * BLOCK:
        return [(values, 1.0)]
    rows = values[: classes.size * BLOCK].reshape(-1, BLOCK)
    stride = max(1, values.size // _SAMPLED)
    sample = []
    for number in range(int(classes.max()) + 1):
        blocks = np.flatnonzero(classes == number)
        few = blocks[:: min(stride, max(1, blocks.size // 8))]
        sample.append((rows[few].ravel(), blocks.size / classes.size))
    return sample
