"""Paired comparison with a baseline over common seeds: difference, interval, sign-flip test."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hqde_fl.seeding import Seeds
from hqde_fl.simulations.statistics.samples import Method, Sample

MIN_SEEDS = 7
"""Fewest common seeds for a test: of six the least p is 0.03, which no correction survives."""

RESAMPLES = 9_999
"""Sign patterns that are drawn at random; up to 13 seeds, all 2^n patterns are used instead."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class PairedDifference:
    """Differences to a baseline over the seeds that both have.

    Parameters
    ----------
    sample : Sample
        The differences, one for each common seed.
    p : float or None
        Two-sided p-value of the sign-flip permutation test of the mean difference; None of fewer
        than ``MIN_SEEDS`` seeds.
    p_holm : float or None
        This p-value after Holm's correction over the family of comparisons; None where ``p`` is.
    """

    sample: Sample
    p: float | None = None
    p_holm: float | None = None

    @property
    def mean(self) -> float:
        """The mean difference."""
        return self.sample.mean


def sign_flip_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the sign-flip permutation test of a mean difference.

    If a rule and its baseline do not differ, the sign of each difference is as likely to be + as -.
    """
    from scipy import stats

    result = stats.permutation_test(
        (np.asarray(differences, dtype=float),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        alternative="two-sided",
        rng=Seeds(0).numpy("sign-flips"),
    )
    return float(result.pvalue)


def paired_difference(
    values: Mapping[str, float], baseline: Mapping[str, float], method: Method = "t"
) -> PairedDifference | None:
    """Return the comparison of two mappings seed -> value, None if they have no common seed."""
    differences = tuple(values[seed] - baseline[seed] for seed in values if seed in baseline)
    if not differences:
        return None
    p = sign_flip_test(differences) if len(differences) >= MIN_SEEDS else None
    return PairedDifference(Sample(differences, method), p)


def with_holm(family: Mapping[Key, PairedDifference]) -> dict[Key, PairedDifference]:
    """Return the comparisons of a family with ``p_holm`` added to those that have a ``p``."""
    tested = [key for key, difference in family.items() if difference.p is not None]
    adjusted = holm([family[key].p or 0.0 for key in tested])
    by_key = dict(zip(tested, adjusted, strict=True))
    return {
        key: PairedDifference(difference.sample, difference.p, by_key.get(key))
        for key, difference in family.items()
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's step-down correction, in the given order.

    S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
