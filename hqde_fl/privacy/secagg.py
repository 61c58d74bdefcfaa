"""Settings of secure aggregation: the server learns sums of small random buckets, and no update.

Each round the cohort is dealt at random into buckets. Within a bucket, clients mask their updates
so that the masks cancel in the sum (Bonawitz et al., 2017, "Practical secure aggregation for
privacy-preserving machine learning"); a robust rule then works on the buckets' means. f faulty
clients spoil at most f buckets (Karimireddy et al., 2022, arXiv:2006.09365).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import TIMEOUT_MAX
from typing import TypeVar, final

import numpy as np

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.analytic_gaussian import gaussian_epsilon
from hqde_fl.privacy.secure_sums.client import MAX_CLIENTS, MIN_CLIENTS
from hqde_fl.privacy.secure_sums.fixed_point import MAX_BITS, FixedPoint

MIN_THRESHOLD = MIN_CLIENTS
"""Fewest clients of a sum: in the sum of two, each would know the other's update."""

MAX_BUCKET = MAX_CLIENTS
"""Largest bucket: the sum of so many numbers of ``MAX_BITS`` bits fits in 32 bits."""

Client = TypeVar("Client", bound=Hashable)


@final
@dataclass(frozen=True)
class SecureAggregation:
    """Secure aggregation in buckets.

    Parameters
    ----------
    bucket : int
        Number of clients in a bucket, 3 to 64; where the cohort is no multiple of it, some buckets
        have more.
    threshold : int
        Least number of clients of a bucket of that size that must stay until the end of the round,
        >= 3 and > ``bucket`` / 2, or the bucket is void. A larger bucket bears as many drop-outs.
    bits : int
        Bits of a client's number, 1 to 24, before the sum. The sum takes log2 of the bucket's size
        more, which is what a client uploads.
    clipping_norm : float
        The norm to which clients clip their updates, > 0, and the server each bucket's mean.
    noise_multiplier : float
        Deviation of the noise in a bucket's sum, over 2 x ``clipping_norm``, >= 0: each client adds
        a part of it, so that the sum, and all that a rule makes of it, is differentially private.
        0, the default: no noise.
    delta : float
        The delta of (epsilon, delta)-differential privacy, in (0, 1).
    question_deadline : float
        Seconds to wait for the answers to each of the three questions beside the training, > 0.
    """

    bucket: int = 5
    threshold: int = 4
    bits: int = 16
    clipping_norm: float = 10.0
    noise_multiplier: float = 0.0
    delta: float = 1e-5
    question_deadline: float = 60.0

    def __post_init__(self) -> None:
        if not MIN_THRESHOLD <= self.bucket <= MAX_BUCKET // 2:
            raise ConfigError(
                f"SecureAggregation.bucket must be in {MIN_THRESHOLD}..{MAX_BUCKET // 2}, "
                f"found {self.bucket}"
            )
        least = max(MIN_THRESHOLD, self.bucket // 2 + 1)
        if not least <= self.threshold <= self.bucket:
            raise ConfigError(
                f"SecureAggregation.threshold must be in {least}..{self.bucket} for buckets of "
                f"{self.bucket} (at least 3 and more than half of a bucket), found {self.threshold}"
            )
        if not 1 <= self.bits <= MAX_BITS:
            raise ConfigError(f"SecureAggregation.bits must be in 1..{MAX_BITS}, found {self.bits}")
        if not 0 < self.clipping_norm < math.inf:
            raise ConfigError(
                "SecureAggregation.clipping_norm must be finite and > 0, "
                f"found {self.clipping_norm}"
            )

        if not 0 <= self.noise_multiplier < math.inf:
            raise ConfigError(
                "SecureAggregation.noise_multiplier must be finite and >= 0, "
                f"found {self.noise_multiplier}"
            )
        if not 0 < self.question_deadline <= TIMEOUT_MAX:
            raise ConfigError(
                f"SecureAggregation.question_deadline must be in (0, {TIMEOUT_MAX:g}], "
                f"found {self.question_deadline}"
            )
        if not 0 < self.delta < 1:
            raise ConfigError(f"SecureAggregation.delta must be in (0, 1), found {self.delta}")

    def epsilon(self, rounds: int) -> float | None:
        """Return the epsilon of a client that took part in some rounds; None without noise."""
        if not self.noise_multiplier:
            return None
        return gaussian_epsilon(math.sqrt(rounds) / self.noise_multiplier, self.delta)

    @cached_property
    def fixed_point(self) -> FixedPoint:
        """The form in which clients add up their updates."""
        return FixedPoint(self.bits, self.clipping_norm)

    def threshold_of(self, size: int) -> int:
        """Return the threshold of a bucket of some size, never below ``threshold``."""
        spare = self.bucket - self.threshold
        return max(self.threshold, size // 2 + 1, size - spare)

    def buckets(self, clients: int) -> int:
        """Return the number of buckets of a cohort; 0 if it is too small for one."""
        if clients < self.threshold_of(clients):
            return 0
        return max(1, clients // self.bucket)

    def deal(self, clients: Sequence[Client], rng: np.random.Generator) -> list[list[Client]]:
        """Return the clients in random buckets whose sizes differ by at most one.

        No bucket is smaller than ``bucket`` unless it is the only one. There are no buckets if
        there are too few clients for one.

        Parameters
        ----------
        clients : Sequence[Client]
            The cohort; the result depends on its order.
        rng : Generator
            Draws the buckets.
        """
        count = self.buckets(len(clients))
        order = [clients[place] for place in rng.permutation(len(clients))]
        return [order[first::count] for first in range(count)]
