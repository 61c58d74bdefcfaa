"""Simulated annealing over subsets of a fixed size, whose moves swap two items.

A step removes a random item from a subset and puts in the one that the heat bath draws: item j,
which is not in it, with a probability in proportion to e^(gain of j / temperature). No subset ever
has another size. Several subsets are annealed at once, and what each item would add to each subset
is kept up to date by one row of the matrix of pairs per exchange. At the end, each subset is
improved by single swaps until none helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError
from hqde_fl.selection.qubo_problem import Floats, SubsetProblem

MIN_SWEEPS = 20
"""Passes over each subset at least, however large the problem is."""

SMALLEST = np.float32(1e-30)
"""Least random number whose logarithm is taken."""


@final
@dataclass(frozen=True)
class SwapAnnealing:
    """Annealing of subsets by swaps.

    Parameters
    ----------
    chains : int
        The number of subsets that are annealed at once, >= 1.
    sweeps : int
        Steps of each, as a multiple of the subset's size, >= 1.
    first_temperature, last_temperature : float
        Temperatures at the start and at the end, relative to the spread of the items' gains, > 0;
        geometric between.
    budget : int
        Gains that are compared in all, over chains, steps and items; fewer sweeps are done if it
        does not suffice, but not fewer than 20.
    """

    chains: int = 24
    sweeps: int = 150
    first_temperature: float = 0.5
    last_temperature: float = 0.05
    budget: int = 60_000_000

    def __post_init__(self) -> None:
        for name in ("chains", "sweeps", "first_temperature", "last_temperature", "budget"):
            value, least = getattr(self, name), 0 if "temperature" in name else 1
            if not (value > 0 and value >= least):
                bound = f">= {least}" if least else "> 0"
                raise ConfigError(f"SwapAnnealing.{name} must be {bound}, found {value!r}")

    def solve(self, problem: SubsetProblem, rng: np.random.Generator) -> list[int]:
        """Return the best subset that was found, in ascending order."""
        n, size = problem.items, problem.size
        if size in (0, n):
            return list(range(size))
        start = rng.permuted(np.tile(np.arange(n), (self.chains, 1)), axis=1)[:, :size]
        chains = _Chains(problem, start)
        for temperature in self._temperatures(problem, chains.gains):
            chains.exchange(float(temperature), rng)
        subsets = [chains.improved(number) for number in range(self.chains)]
        best: list[int] = max(subsets, key=lambda subset: problem.value(subset))
        return sorted(best)

    def _temperatures(self, problem: SubsetProblem, gains: Floats) -> Floats:
        """Return the temperature of each step."""
        affordable = self.budget // (self.chains * problem.items * problem.size)
        sweeps = max(min(self.sweeps, affordable), min(self.sweeps, MIN_SWEEPS))
        # one item that outshines all must not keep the others hot, so the end has a robust spread
        wide = float(np.std(gains))
        low, high = np.quantile(gains, (0.16, 0.84))
        narrow = float(high - low) / 2 or wide
        first, last = wide * self.first_temperature, narrow * self.last_temperature
        if first <= 0:  # all are equal: any temperature draws at random
            first = last = 1.0
        return np.geomspace(max(first, last), last, sweeps * problem.size)


class _Chains:
    """Subsets of one size, one in each row, with what every item adds to each."""

    def __init__(self, problem: SubsetProblem, start: NDArray[np.intp]) -> None:
        self._problem, self._inside = problem, start.copy()
        self._rows = np.arange(len(start))
        member = np.zeros((len(start), problem.items))
        member[self._rows[:, None], start] = 1.0
        self.gains: Floats = problem.linear + member @ problem.pairs
        self._closed = np.where(member > 0, -np.inf, 0.0)

    def exchange(self, temperature: float, rng: np.random.Generator) -> None:
        """Replace a random item of each subset by one from the heat bath, perhaps by itself."""
        rows, pairs = self._rows, self._problem.pairs
        places = rng.integers(self._inside.shape[1], size=len(rows))
        removed = self._inside[rows, places]
        self.gains -= pairs[removed]
        self._closed[rows, removed] = 0.0
        noise = rng.standard_exponential(self.gains.shape, dtype=np.float32)
        np.log(np.maximum(noise, SMALLEST), out=noise)
        added = (self.gains + self._closed - temperature * noise).argmax(axis=1)
        self.gains += pairs[added]
        self._closed[rows, added] = -np.inf
        self._inside[rows, places] = added

    def improved(self, row: int) -> list[int]:
        """Return a subset after the best single swaps, until no swap helps."""
        pairs = self._problem.pairs
        inside = np.isneginf(self._closed[row])
        gains = self._problem.gains(np.flatnonzero(inside))  # without the rounding of many steps
        scale = float(np.abs(gains).max(initial=0.0))
        while True:
            ours, others = np.flatnonzero(inside), np.flatnonzero(~inside)
            change = gains[others] - gains[ours][:, None] - pairs[np.ix_(ours, others)]
            place = int(change.argmax())
            if change.flat[place] <= 1e-12 * scale:
                return [int(item) for item in ours]
            removed, added = ours[place // len(others)], others[place % len(others)]
            inside[removed], inside[added] = False, True
            gains += pairs[added] - pairs[removed]
