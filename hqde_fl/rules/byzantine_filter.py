"""HQDE's Byzantine filter: score every client, drop outliers, take the median of the rest.

The original divides by each coordinate's MAD, which explodes wherever the honest clients agree,
measures distances without a scale, and drops a third of the clients even if none of them is
faulty. Here every detector is one robust number for each client, and a client is dropped only if
that number is an outlier among the clients' numbers:

* ``mad``: total distance from the coordinate-wise median over the total MAD,
  s_i = sum_j |x_ij - med_j| / sum_j MAD_j, so no single coordinate can blow it up;
* ``cosine``: 1 - cos(x_i, z), where z is the geometric median of all updates;
* ``euclidean``: ||x_i - z|| over the median of these distances;
* ``twins``: infinite for a client whose update nearly equals another's (see
  ``near_duplicates.py``), zero for the others. It finds attackers who send one update made for the
  cohort, however well that hides; and the honest client that they copy, if they copy one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.geometric_median import GeometricMedian
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.near_duplicates import has_near_duplicate
from hqde_fl.rules.order_statistics import median_of, median_of_sorted, sort_columns
from hqde_fl.rules.results import Decision, Measured, State

MAD_TO_DEVIATION = 1.4826
"""MAD times this estimates the standard deviation of normally distributed numbers."""

NEAR_DUPLICATE_RATIO = 0.1
"""Updates nearer than this fraction of the typical distance are near duplicates."""

Detector = Literal["mad", "cosine", "euclidean", "twins"]


@dataclass(frozen=True)
class ByzantineFilter(Rule):
    """HQDE's filter: outliers (one third at most) dropped, geometric median of the rest.

    Tolerates ``fraction`` n. Two sorts of every coordinate for the ``mad`` detector, O(d n log n),
    O(n^2 d) for the Gram matrix, one weighted sum.

    Parameters
    ----------
    threshold : float
        A client is an outlier if a detector's score exceeds the median score by more than
        ``threshold`` robust standard deviations (scaled MAD) of the scores.
    floor : float
        The standard deviation of the scores counts as at least this fraction of the median score,
        so that honest clients that nearly agree are not outliers by their last digits.
    fraction : float
        At most this fraction of the cohort is dropped, the worst outliers first. Clients already
        filtered this round count towards it. At most 1/2.
    gain, loss : float
        Reputation that a client gains in a round in which it is no outlier, and loses in one in
        which it is one. Reputation lies in [0, 1] and starts at 1; among equal outliers the lower
        reputation is dropped first.
    gate : float
        A client whose reputation is below this is dropped, outlier or not, until it has recovered;
        within the same ``fraction``. 0 never drops.
    detectors : tuple of "mad", "cosine", "euclidean", "twins"
        The scores to use; an outlier of any of them is an outlier.
    median : GeometricMedian
        Merges the rest. With fewer than three left the coordinate-wise median does, and the
        diagnostics say so.
    """

    gram = True

    threshold: float = 3.0
    floor: float = 0.25
    fraction: float = 1 / 3
    gain: float = 0.05
    loss: float = 0.1
    gate: float = 0.5
    detectors: tuple[Detector, ...] = ("mad",)
    median: GeometricMedian = field(default_factory=GeometricMedian)

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 0.5:
            raise ConfigError(
                f"ByzantineFilter needs 0 <= fraction <= 0.5, found {self.fraction}: "
                "no rule tolerates half or more"
            )
        if not (self.threshold > 0 and self.floor >= 0 and self.gain >= 0 and self.loss >= 0):
            raise ConfigError(
                f"ByzantineFilter needs threshold > 0 and floor, gain, loss >= 0, found {self}"
            )
        if not 0 <= self.gate <= 1:
            raise ConfigError(f"ByzantineFilter needs 0 <= gate <= 1, found {self.gate}")
        known = get_args(Detector)
        if not self.detectors or not set(self.detectors) <= set(known):
            raise ConfigError(
                f"ByzantineFilter needs detectors among {', '.join(known)}, found {self.detectors}"
            )

    @property
    def scored(self) -> bool:
        """True if the ``mad`` detector is used, which needs single coordinates."""
        return "mad" in self.detectors

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: fewer than three updates fall back to the coordinate-wise median."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the number of clients that may be dropped, less than half."""
        return min(int(self.fraction * n + 1e-9), (n - 1) // 2)

    def score(self, tile: Tensor) -> Tensor:
        """Return each row's L1 distance from the columns' medians, and last the total MAD."""
        distance = (tile - median_of_sorted(sort_columns(tile))).abs_()
        spread = sort_columns(distance)[(tile.shape[0] - 1) // 2]
        return torch.cat([distance, spread[None]]).sum(dim=1, dtype=torch.float64)

    def filters(self, n: int) -> bool:
        """Return True if n > 1 and ``fraction`` n is at least one client, which may be filtered."""
        return n > 1 and int(self.fraction * n + 1e-9) > 0

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the clients to drop, the new reputations, and the weights of the rest.

        With fewer than three clients left there are no weights: ``combine`` takes their median.
        """
        assert measured.geometry is not None
        geometry = measured.geometry
        names = [str(client) for client in cohort.ids]
        reputation: dict[str, float] = dict(state.get("reputation", {}))
        trust = torch.tensor([reputation.get(name, 1.0) for name in names], dtype=torch.float64)
        scores = self._scores(measured)
        excess = torch.stack([self._excess(score) for score in scores.values()]).max(dim=0).values
        outlier = excess > 0
        dropped = self._worst(outlier | (trust < self.gate), excess, trust, cohort)
        change = torch.where(outlier, -self.loss, self.gain)
        reputation |= zip(names, (trust + change).clamp(0, 1).tolist(), strict=True)
        kept = (~dropped).nonzero().flatten()
        fallback = len(kept) < 3
        mixing = None
        if not fallback:
            select = torch.eye(cohort.n, dtype=torch.float64)[kept]
            mixing = self.median.weights(geometry.mixed(select))[0][None, :] @ select
        return Decision(
            mixing=mixing,
            filtered=dropped,
            diagnostics={
                "filter-scores": _named(names, next(iter(scores.values()))),
                "filter-excess": _named(names, excess),
                "filter-reputation": {name: reputation[name] for name in names},
                "filter-dropped": [cohort.ids[i] for i in dropped.nonzero().flatten().tolist()],
                "filter-fallback": "coordinate-median" if fallback else None,
            },
            state={"reputation": reputation},
            plan=kept,
        )

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the coordinate-wise median (c,) of the kept rows, and their counts (1, n)."""
        kept = decision.plan.to(tile.device)
        middle, hits = median_of(tile[kept])
        counts = torch.zeros(1, tile.shape[0], dtype=torch.float64, device=tile.device)
        counts[:, kept] = hits.to(tile.device)
        return middle, counts

    def _scores(self, measured: Measured) -> Mapping[str, Tensor]:
        """Return each detector's scores of the clients, (n,), in the order of ``detectors``."""
        assert measured.geometry is not None
        geometry, scores = measured.geometry, {}
        if set(self.detectors) & {"cosine", "euclidean"}:
            weights = self.median.weights(geometry)[0]
            scores["cosine"] = _cosine_distance(geometry, weights)
            distances = geometry.squared_distances_to(weights).sqrt()
            scores["euclidean"] = _over(distances, distances.median())
        if "twins" in self.detectors:
            copied = has_near_duplicate(geometry.squared_distances(), NEAR_DUPLICATE_RATIO)
            zeros = torch.zeros(copied.shape[0], dtype=torch.float64)
            scores["twins"] = torch.where(copied, torch.inf, zeros)
        if measured.score is not None:
            scores["mad"] = _over(measured.score[:-1], measured.score[-1])
        return {name: scores[name] for name in self.detectors}

    def _excess(self, scores: Tensor) -> Tensor:
        """Return the scores' excess over the threshold, in robust deviations; -1 if not above."""
        typical = scores.median()
        deviation = MAD_TO_DEVIATION * (scores - typical).abs().median()
        deviation = torch.maximum(deviation, self.floor * typical)
        beyond = scores - (typical + self.threshold * deviation)
        return torch.where(beyond > 0, _over(beyond, deviation), -1.0)

    def _worst(self, suspect: Tensor, excess: Tensor, trust: Tensor, cohort: Cohort) -> Tensor:
        """Return the suspects to drop, (n,) bool: those of largest excess, then of least trust.

        At most ``fraction`` of all clients, the cohort's faulty ones included; never all n rows.
        """
        total = cohort.n + cohort.faulty
        # Unlike an f, the fraction is one of all clients: those excluded already are part of it.
        allowance = max(0, int(self.fraction * total + 1e-9) - cohort.faulty)
        allowance = min(allowance, cohort.n - 1)
        worst_first = sorted(
            suspect.nonzero().flatten().tolist(), key=lambda i: (-float(excess[i]), float(trust[i]))
        )
        dropped = torch.zeros(cohort.n, dtype=torch.bool)
        dropped[worst_first[:allowance]] = True
        return dropped


def _over(values: Tensor, scale: Tensor) -> Tensor:
    """Return values over a scale; over zero, infinity for values above zero, else zero."""
    if scale > 0:
        return values / scale
    return torch.where(values > 0, torch.inf, torch.zeros_like(values))


def _cosine_distance(geometry: Geometry, weights: Tensor) -> Tensor:
    """Return (n,) 1 - cosine between each update and ``weights @ updates``; 1 if either is zero."""
    products = geometry.products()
    inner = products @ weights
    norms = geometry.norms() * (weights @ inner).clamp(min=0).sqrt()
    return 1 - torch.where(norms > 0, inner / norms, 0).clamp(-1, 1)


def _named(names: list[str], values: Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
