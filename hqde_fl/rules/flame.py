"""FLAME: clustering, clipping and noise against backdoors (Nguyen et al., 2022, arXiv:2101.02281).

Its clustering, HDBSCAN with clusters of more than half of the clients, is single linkage here: no
two such clusters exist side by side, so that HDBSCAN's only cluster is the first component that
reaches that size as the distance at which updates are linked grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.clipping import shortening
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.density_matrix import cosines
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.seeding import Seeds


def majority_cluster(distances: Tensor, size: int) -> Tensor:
    """Return the first single-linkage cluster of at least ``size`` points, (n,) bool.

    Parameters
    ----------
    distances : Tensor
        (n, n) distances.
    size : int
        Points in a cluster, at least; more than n / 2, so that there is one first.
    """
    levels = distances.unique()
    low, high = 0, len(levels) - 1
    while low < high:  # the least distance at which links make a cluster that is large enough
        middle = (low + high) // 2
        if int(_largest(distances <= levels[middle]).sum()) >= size:
            high = middle
        else:
            low = middle + 1
    return _largest(distances <= levels[low])


def _largest(linked: Tensor) -> Tensor:
    """Return the largest connected component of (n, n) links, (n,) bool."""
    from scipy.sparse.csgraph import connected_components  # it takes half a second

    labels = torch.from_numpy(connected_components(linked.numpy(), directed=False)[1]).long()
    return labels == labels.bincount().argmax()


@dataclass(frozen=True)
class FLAME(Rule):
    """Mean of the largest cluster of directions, clipped to the median length, with noise.

    Updates outside the cluster of floor(n / 2) + 1 or more that are nearest by cosine are filtered,
    the others shortened to the median length S of all updates and averaged. Gaussian noise of
    standard deviation ``noise`` S on every coordinate then drowns what is left of a backdoor; it
    follows from the run's seed and the round. Tolerates f < n / 2 in that no update counts for more
    than the median length; that the largest cluster is honest is a heuristic. Any n. O(n^2 d) for
    the Gram matrix, O(n^2 log n) for the cluster, one weighted sum.

    Parameters
    ----------
    noise : float
        The noise's standard deviation on a coordinate in median lengths, >= 0; the paper's lambda,
        which it sets to 0.001 for images and 0.01 for intrusion detection.
    """

    gram = True

    noise: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise ConfigError(f"FLAME needs a finite noise >= 0, found {self.noise}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2."""
        return (n - 1) // 2

    def filters(self, n: int) -> bool:
        """Return True for three or more updates: a cluster then need not hold all of them."""
        return n > 2

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the weights of the clipped updates, with the noise's deviation as the plan."""
        assert measured.geometry is not None
        geometry, n = measured.geometry, cohort.n
        apart = (1 - cosines(geometry)).fill_diagonal_(0)
        admitted = majority_cluster(apart, n // 2 + 1)
        lengths = geometry.norms()
        typical = float(lengths.median())
        weights = torch.where(admitted, shortening(lengths, typical), 0.0) / admitted.sum()
        deviation = self.noise * typical * geometry.unit
        return Decision(
            mixing=weights[None, :],
            filtered=~admitted,
            diagnostics={"flame-admitted": int(admitted.sum()), "flame-noise": deviation},
            plan=deviation,
        )

    def finish(self, delta: Tensor, decision: Decision, cohort: Cohort) -> Tensor:
        """Return the result with Gaussian noise, which the run's seed and the round determine."""
        if decision.plan == 0:
            return delta
        generator = Seeds(cohort.seed).torch("flame", cohort.round)
        drawn = torch.randn(delta.shape, generator=generator, dtype=torch.float32)
        deviation: float = decision.plan
        return delta + deviation * drawn.to(delta)
