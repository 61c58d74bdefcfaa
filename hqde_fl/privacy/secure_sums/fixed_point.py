"""Updates as integers that can be added up under masks.

An update is clipped, rotated (randomised Hadamard transforms, so that all its numbers are about
equally large; as in Bonawitz et al., 2019, arXiv:1912.00131) and rounded at random to 2^bits
levels of one range, the same for all clients. The sum of n such integers has log2(n) more bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.privacy.secure_sums.ring import Words
from hqde_fl.seeding import Seeds

MAX_BITS = 24

DEVIATIONS = 6.0
"""The range in standard deviations of a rotated update's numbers. A number leaves it, and is
clipped, with a probability below 4e-8 (Hoeffding's inequality)."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@final
@dataclass(frozen=True)
class FixedPoint:
    """The form of updates under masks.

    Parameters
    ----------
    bits : int
        Bits of each number, 1..24.
    clipping_norm : float
        The norm to which an update is clipped, > 0.
    """

    bits: int
    clipping_norm: float

    @property
    def levels(self) -> int:
        """The largest integer that stands for a number."""
        return (1 << self.bits) - 1

    def integer_norm(self, size: int) -> float:
        """Return the norm of a clipped update of some size in integers, before it is rounded."""
        return self.clipping_norm * (self.levels / 2) / self.bound(size)

    def bound(self, size: int) -> float:
        """Return the largest magnitude of a rotated number of an update of some size."""
        return self.clipping_norm * min(1.0, DEVIATIONS / math.sqrt(max(1, _power_of_two(size))))

    def encode(self, update: Floats, rotation: int, rng: np.random.Generator) -> tuple[Words, bool]:
        """Return an update (d,) as integers (d,) in 0..``levels``, and whether it was clipped.

        Parameters
        ----------
        update : ndarray
            (d,) finite.
        rotation : int
            Seed of the rotation, the same for all clients of a sum.
        rng : Generator
            Draws the direction in which each number is rounded.
        """
        norm = float(np.linalg.norm(update))
        clipped = norm > self.clipping_norm
        scaled = update * (self.clipping_norm / norm if clipped else 1.0)
        rotated = rotate(scaled, rotation)
        half = self.levels / 2
        numbers = rotated * (half / self.bound(update.size)) + half
        numbers += rng.random(update.size)
        np.floor(numbers, out=numbers)
        np.clip(numbers, 0, self.levels, out=numbers)
        return numbers.astype(np.uint32), clipped

    def mean(self, sums: Integers, clients: int, rotation: int) -> Floats:
        """Return the mean update (d,) of a sum, clipped.

        Parameters
        ----------
        sums : ndarray
            (d,) sums of the clients' integers; noise may be among them.
        clients : int
            The number of clients in the sum.
        rotation : int
            Seed of the rotation.
        """
        half = self.levels / 2
        numbers = (sums / clients - half) * (self.bound(sums.size) / half)
        update = rotate(numbers, rotation, back=True)
        norm = float(np.linalg.norm(update))
        return update * (self.clipping_norm / norm) if norm > self.clipping_norm else update


def rotate(vector: Floats, seed: int, *, back: bool = False) -> Floats:
    """Return a vector (d,), rotated at random or back.

    Signs are flipped and a Hadamard transform is applied to the first 2^k numbers, the most that d
    has room for; then the same to the last 2^k. Every number is in one of them.
    """
    size = vector.size
    if size == 0:
        return vector.copy()
    length = _power_of_two(size)
    rng = Seeds(seed).numpy("secure aggregation: rotation")
    signs = rng.integers(0, 2, (2, size), dtype=np.int8) * 2.0 - 1.0
    parts = [slice(0, length), slice(size - length, size)]
    rotated = vector.astype(np.float64)
    for turn in (1, 0) if back else (0, 1):
        if not back:
            rotated *= signs[turn]
        rotated[parts[turn]] = _hadamard(rotated[parts[turn]])
        if back:
            rotated *= signs[turn]
    return rotated


def _power_of_two(size: int) -> int:
    """Return the largest power of two that is at most ``size``, or 0."""
    return 1 << (size.bit_length() - 1) if size else 0


def _hadamard(vector: Floats) -> Floats:
    """Return the orthonormal Hadamard transform of 2^k numbers; it is its own inverse."""
    result = vector.copy()
    half = 1
    while half < vector.size:
        pairs = result.reshape(-1, 2, half)
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        half *= 2
    result /= math.sqrt(vector.size)
    return result
