"""Hadamard transforms of many short vectors by NumPy; ``rotation_kernel`` is the compiled one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def transform(stack: NDArray[np.float32]) -> None:
    """Apply the orthonormal Hadamard transform along the middle axis of three, in place."""
    height = stack.shape[1]
    scale = np.float32(1 / math.sqrt(height))
    spare = np.empty(stack.size // 2, np.float32)
    blocks, _, width = stack.shape
    half = 1
    while half < height:
        pairs = stack.reshape(blocks, height // (2 * half), 2, half * width)
        upper, lower = pairs[:, :, 0], pairs[:, :, 1]
        difference = spare.reshape(upper.shape)
        np.subtract(upper, lower, out=difference)
        upper += lower
        lower[...] = difference
        half *= 2
    stack *= scale
