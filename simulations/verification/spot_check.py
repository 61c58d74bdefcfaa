"""Choose rounds of a run at random, and compute them again."""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hqde_fl.seeding import Seeds
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.verification.chain_check import Mismatch
from hqde_fl.simulations.verification.recomputation import Recomputation

DETECTION_SHARE = 0.1
"""The share of forged rounds for which the probability to notice one is stated."""


@dataclass(frozen=True)
class Stretch:
    """Rounds that are computed again in one go.

    Parameters
    ----------
    base : int
        The round from whose checkpoint they are computed; 0 for the beginning.
    last : int
        The last of them.
    """

    base: int
    last: int


def detection_probability(spots: int, rounds: int, share: float = DETECTION_SHARE) -> float:
    """Return the probability that a forged round is among those chosen.

    Parameters
    ----------
    spots : int
        Number of rounds that are chosen, each at most once, all with the same probability.
    rounds : int
        Number of all rounds, >= 1.
    share : float
        Share of the rounds that are forged, rounded to at least one round.
    """
    forged, missed = max(1, round(share * rounds)), 1.0
    for place in range(min(spots, rounds)):
        missed *= max(0, rounds - forged - place) / (rounds - place)
    return 1.0 - missed


def choose_rounds(run: Run, spots: int, seed: int | None = None) -> list[int]:
    """Return the numbers of randomly chosen rounds, in order; all rounds if there are no more.

    Without a seed nobody can know them in advance.
    """
    numbers = [line["round"] for line in run.rounds if line["round"] > 0]
    if spots >= len(numbers):
        return numbers
    rng = Seeds(secrets.randbits(128) if seed is None else seed).numpy("verify")
    return sorted(rng.choice(numbers, spots, replace=False).tolist())


def stretches(chosen: Collection[int], bases: Sequence[int]) -> list[Stretch]:
    """Return what has to be computed for some rounds, each from the last checkpoint before it.

    Parameters
    ----------
    chosen : Collection[int]
        The rounds.
    bases : Sequence[int]
        The rounds after which there is a checkpoint, in order, with 0 for the beginning.
    """
    last_of: dict[int, int] = {}
    for number in sorted(chosen):
        last_of[bases[bisect_left(bases, number) - 1]] = number
    return [Stretch(base, last) for base, last in last_of.items()]


def spot_check(recomputation: Recomputation, planned: Iterable[Stretch]) -> Iterator[Mismatch]:
    """Compute rounds again, and yield what differs, each as soon as it is found."""
    for stretch in planned:
        yield from recomputation.differences(stretch.base, stretch.last)
