"""HQDE's Byzantine filter: score every client, filter outliers, take the median of the rest.

The original divides by each coordinate's MAD, which explodes wherever the honest clients agree,
measures distances without a scale, and filters a third of the clients even if none of them is
faulty. Here every detector is one robust number for each client, and a client is filtered only
if that number is an outlier among the clients' numbers:

* ``mad``: total distance from the coordinate-wise median over the total MAD,
  s_i = sum_j |x_ij - med_j| / sum_j MAD_j, so no single coordinate can blow it up;
* ``cosine``: 1 - cos(x_i, z), where z is the geometric median of all updates;
* ``euclidean``: ||x_i - z|| over the median of these distances;
* ``directions``: infinite for clients whose sum of updates over rounds opposes the others', or who
  push the same way in every round (``direction_memory.py``), zero for the others;
* ``copies``: of updates that nearly coincide (``near_duplicates.py``) only the one in the middle is
  kept: among copies with noise it is the original. The others are filtered as far as
  ``fraction`` allows after the outliers, and do not count where the centre is measured;
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
from hqde_fl.rules.clipping import shortening
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.direction_memory import Directions, judge
from hqde_fl.rules.geometric_median import GeometricMedian
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.near_duplicates import has_near_duplicate, near_duplicate_groups
from hqde_fl.rules.order_statistics import median_of, median_of_sorted, sort_columns
from hqde_fl.rules.results import Decision, Measured, State

MAD_TO_DEVIATION = 1.4826
"""MAD times this estimates the standard deviation of normally distributed numbers."""

NEAR_DUPLICATE_RATIO = 0.1
"""Updates nearer than this fraction of the typical distance are near duplicates."""

NEIGHBOUR_RATIO = 0.33
"""Updates nearer than this fraction of the typical distance to the nearest one are copies."""

NARROW = 2 / 3
"""An outlier's threshold times this: above it a client passes narrowly, and earns no reputation."""

UNALIKE, ALIKE = 0.2, 0.35
"""Agreement of clients' sums up to which the kept updates are averaged, and from which the
geometric median merges them; a mixture between."""

LONGEST = 2.5
"""An update's greatest length in such an average, in median lengths."""

Detector = Literal["mad", "cosine", "euclidean", "directions", "copies", "twins"]


@dataclass(frozen=True)
class ByzantineFilter(Rule):
    """HQDE's filter: outliers (one third at most) filtered, geometric median of the rest.

    Tolerates ``fraction`` n. O(n^2 d) for the Gram matrix, one weighted sum; with the ``mad``
    detector two sorts of every coordinate, O(d n log n). Where the ``directions`` show that the
    clients' data are unequal, the rest is averaged, none longer than 2.5 median lengths: the
    geometric median would leave out rare data.

    Parameters
    ----------
    threshold : float
        A client is an outlier if a detector's score exceeds the median score by more than
        ``threshold`` robust standard deviations (scaled MAD) of the scores.
    floor : float
        The standard deviation of the scores counts as at least this fraction of the median score,
        so that honest clients that nearly agree are not outliers by their last digits; up to twice
        that where ``directions`` show that the clients' data are unequal.
    fraction : float
        At most this fraction of the cohort is filtered, the worst outliers first. Clients already
        filtered this round count towards it. At most 1/2.
    gain, loss : float
        Reputation that a client gains in a round in which it is no outlier, and loses in one in
        which it is one. One that passes narrowly, above two thirds of an outlier's excess, loses a
        quarter of ``loss``. Reputation lies in [0, 1] and starts at 1; among equal outliers the
        lower reputation is filtered first.
    gate : float
        A client whose reputation is below this is filtered, outlier or not, until it has
        recovered; within the same ``fraction``. 0 never filters.
    detectors : tuple of "mad", "cosine", "euclidean", "directions", "copies", "twins"
        The scores to use; an outlier of any of them is an outlier.
    median : GeometricMedian
        Merges the rest. With fewer than three left the coordinate-wise median does, and the
        diagnostics say so.
    """

    gram = True

    threshold: float = 3.0
    floor: float = 0.5
    fraction: float = 1 / 3
    gain: float = 0.05
    loss: float = 0.1
    gate: float = 0.5
    detectors: tuple[Detector, ...] = ("euclidean", "directions", "copies")
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

    @property
    def remembers(self) -> bool:
        """True with the ``directions`` detector, which remembers a sample of the updates."""
        return "directions" in self.detectors

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: fewer than three updates fall back to the coordinate-wise median."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the number of clients that may be filtered, less than half."""
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
        copies, votes = self._copies(geometry)
        said = None
        if "directions" in self.detectors:
            assert measured.sample is not None
            said = judge(measured.sample, votes, cohort, state.get("directions", {}))
        scores = self._scores(measured, votes, said)
        floor = self.floor
        if said is not None:  # unequal data spread distances: up to twice the floor
            floor *= 2 - min(1.0, max(0.0, (said.alike - 0.3) / 0.5))
        beyond = [self._excess(score, votes > 0, floor) for score in scores.values()]
        excess = torch.stack([each[0] for each in beyond]).max(dim=0).values
        narrow = torch.stack([each[1] for each in beyond]).any(dim=0)
        outlier = excess > 0
        dropped = self._worst(outlier | (trust < self.gate) | copies, excess, trust, cohort)
        passing = torch.where(narrow, -self.loss / 4, self.gain)
        change = torch.where(outlier, -self.loss, passing)
        reputation |= zip(names, (trust + change).clamp(0, 1).tolist(), strict=True)
        kept = (~dropped).nonzero().flatten()
        fallback = len(kept) < 3
        mixing = None
        if not fallback:
            mixing = self._merged(geometry, kept, votes, said)
        return Decision(
            mixing=mixing,
            filtered=dropped,
            diagnostics={
                "filter-scores": _named(names, next(iter(scores.values()))),
                "filter-excess": _named(names, excess),
                "filter-reputation": {name: reputation[name] for name in names},
                "filter-dropped": [cohort.ids[i] for i in dropped.nonzero().flatten().tolist()],
                "filter-fallback": "coordinate-median" if fallback else None,
                **({} if said is None else {"alike": said.alike}),
            },
            state={
                "reputation": reputation,
                **({} if said is None else {"directions": said.state}),
            },
            plan=kept,
        )

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the coordinate-wise median (c,) of the kept rows, and their counts (1, n)."""
        kept = decision.plan.to(tile.device)
        middle, hits = median_of(tile[kept])
        counts = torch.zeros(1, tile.shape[0], dtype=torch.float64, device=tile.device)
        counts[:, kept] = hits.to(tile.device)
        return middle, counts

    def _copies(self, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Return the copies to drop (n,) bool, and votes (n,): 0 for these, else 1."""
        copies = torch.zeros(geometry.n, dtype=torch.bool)
        if "copies" in self.detectors:
            squared = geometry.squared_distances()
            for group in near_duplicate_groups(squared, NEAR_DUPLICATE_RATIO, NEIGHBOUR_RATIO):
                inside = squared[group][:, group].sum(dim=1)
                copies[group] = True
                copies[group[int(inside.argmin())]] = False
        return copies, (~copies).double()

    def _merged(
        self, geometry: Geometry, kept: Tensor, votes: Tensor, said: Directions | None
    ) -> Tensor:
        """Return the weights (1, n) of the kept rows: their geometric median, or their mean."""
        select = torch.eye(geometry.n, dtype=torch.float64)[kept]
        middle = self.median.weights(geometry.mixed(select))[0]
        if said is None or geometry.n < 4:
            return middle[None, :] @ select
        alike = min(1.0, max(0.0, (said.alike - UNALIKE) / (ALIKE - UNALIKE)))
        lengths = geometry.norms()
        mean = shortening(lengths, LONGEST * float(lengths.median()))[kept] * votes[kept]
        mean = mean / max(1.0, float(votes[kept].sum()))
        return (alike * middle + (1 - alike) * mean)[None, :] @ select

    def _scores(
        self, measured: Measured, votes: Tensor, said: Directions | None
    ) -> Mapping[str, Tensor]:
        """Return each detector's scores of the clients, (n,), in the order of ``detectors``."""
        assert measured.geometry is not None
        geometry, scores = measured.geometry, {}
        if set(self.detectors) & {"cosine", "euclidean"}:
            select = torch.eye(geometry.n, dtype=torch.float64)[votes > 0]
            weights = self.median.weights(geometry.mixed(select))[0] @ select
            scores["cosine"] = _cosine_distance(geometry, weights)
            distances = geometry.squared_distances_to(weights).sqrt()
            scores["euclidean"] = _over(distances, distances[votes > 0].median())
        zeros = torch.zeros(geometry.n, dtype=torch.float64)
        scores["copies"] = zeros  # they are no outliers: see _copies
        if "twins" in self.detectors:
            copied = has_near_duplicate(geometry.squared_distances(), NEAR_DUPLICATE_RATIO)
            scores["twins"] = torch.where(copied, torch.inf, zeros)
        if said is not None:
            scores["directions"] = torch.where(said.opposed | said.patient, torch.inf, zeros)
        if measured.score is not None:
            scores["mad"] = _over(measured.score[:-1], measured.score[-1])
        return {name: scores[name] for name in self.detectors if name in scores}

    def _excess(self, scores: Tensor, voting: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        """Return the scores' excess over the threshold, and which pass narrowly, each (n,).

        The excess is in robust deviations of the voting clients' scores, -1 if there is none.
        """
        typical = scores[voting].median()
        deviation = MAD_TO_DEVIATION * (scores[voting] - typical).abs().median()
        deviation = torch.maximum(deviation, floor * typical)
        beyond = scores - (typical + self.threshold * deviation)
        narrow = (beyond <= 0) & (scores > typical + NARROW * self.threshold * deviation)
        return torch.where(beyond > 0, _over(beyond, deviation), -1.0), narrow & (deviation > 0)

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
