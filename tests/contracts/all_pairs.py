"""Combinations that cover all pairs of values of several axes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

Combination = dict[str, str]
"""Axis -> value."""
Pair = frozenset[tuple[str, str]]
"""Two values with their axes."""


def all_pairs(axes: Mapping[str, Sequence[str]], seed: int = 0) -> list[Combination]:
    """Return combinations in which every two values of different axes occur together.

    Greedy: each combination starts with a pair that is still missing and takes, axis by axis, the
    value that completes most missing pairs; ties are broken by the seed.

    Parameters
    ----------
    axes : Mapping[str, Sequence[str]]
        Axis -> its values, at least one.
    seed : int
        Seed of the choice among equally good values.
    """
    rng = random.Random(seed)
    missing: dict[Pair, None] = dict.fromkeys(
        frozenset([(one, a), (other, b)])
        for one, other in itertools.combinations(axes, 2)
        for a in axes[one]
        for b in axes[other]
    )
    combinations: list[Combination] = []
    while missing:
        chosen = dict(next(iter(missing)))
        rest = [axis for axis in axes if axis not in chosen]
        rng.shuffle(rest)
        for axis in rest:
            gains = {
                value: sum(frozenset([(axis, value), item]) in missing for item in chosen.items())
                for value in rng.sample(list(axes[axis]), len(axes[axis]))
            }
            chosen[axis] = max(gains, key=lambda value: gains[value])
        for pair in itertools.combinations(chosen.items(), 2):
            missing.pop(frozenset(pair), None)
        combinations.append({axis: chosen[axis] for axis in axes})
    return combinations
