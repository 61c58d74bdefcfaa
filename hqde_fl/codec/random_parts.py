"""Random numbers for the parts of a long vector, the same as one generator gives one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def parts_of(rng: np.random.Generator, size: int) -> Callable[[int], np.random.Generator] | None:
    """Return a function from a place to a generator of what ``rng`` draws from that place on.

    Places are even and count float32 numbers drawn by ``random``; two of them take one step of
    PCG64. ``rng`` itself is left as if it had drawn ``size`` of them.

    Returns
    -------
    Callable or None
        None if the generator cannot be split: it is no PCG64, or has half a step left.
    """
    bits = rng.bit_generator
    if type(bits) is not np.random.PCG64 or bits.state["has_uint32"]:
        return None
    state = bits.state

    def part(place: int) -> np.random.Generator:
        copy = np.random.PCG64(0)
        copy.state = state
        copy.advance(place // 2)
        return np.random.Generator(copy)

    bits.advance(size // 2)
    if size % 2:
        rng.random(dtype=np.float32)
    return part
