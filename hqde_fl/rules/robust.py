"""Agreement: a rule for an unknown number of faulty clients.

Robust rules ask for f, and most of them look at distances alone. Where clients' data differ, honest
updates lie far apart, and attackers who agree with each other are the nearest neighbours of all.
Even then honest updates have a direction in common. This rule looks at directions, and lets
no pair of clients gain more by agreeing than honest pairs do:

1. near duplicates of one update count as one client (``hqde_fl.rules.near_duplicates``);
2. a_ij = cos(x_i, x_j) / q, at most 1 and at least -1, where q is a quantile of all cosines, so
   that suspiciously good agreement gains nothing. a_ii = 0;
3. trust t is the fixed point of t = max(0, A t) up to scale, starting from equal trust: trusted
   clients are those that trusted clients agree with. It is remembered from round to round;
4. a client counts in full from a fraction of the median trust on, less below, not at all at zero;
5. directions are remembered over rounds (``hqde_fl.rules.direction_memory``), which measures how
   alike the data are. Where they are not, trust says nothing, and everyone counts in full. Where
   they are very alike, distances say much: updates count as in the geometric median;
6. clients whose sums oppose the others', that push the same way in every round, or that are far
   from the geometric median are left out, less than half of all;
7. no update is longer than a multiple of the median length, and the weight of a far longer one
   falls with its length: its direction may be that of one coordinate alone.

FoolsGold (Fung, Yoon and Beschastnikh, 2020, arXiv:1808.04866) lowers the weight of clients that
agree too well in the same spirit; the trusted direction is that of ``Entanglement``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.clipping import shortening
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.direction_memory import Directions, judge
from hqde_fl.rules.geometric_median import GeometricMedian
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.near_duplicates import near_duplicate_groups
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.rules.trusted import saturated_agreement, trust

FAR_RATIO = 2.5
"""An update farther from the geometric median than this many median distances is an outlier."""

UNALIKE, ALIKE = 0.2, 0.35
"""Agreement of clients' sums up to which data count as unequal, and from which on as alike."""

UNALIKE_LENGTH = 2.5
"""An update's greatest length where data are unequal, in median lengths."""

CLOSE = 0.6, 0.8
"""Agreement from which on updates count by their distance, and from which on wholly so."""


@dataclass(frozen=True)
class Robust(Rule):
    """Mean of the updates that agree with each other, with bounded lengths; needs no f.

    The length of the result is bounded as long as f < n / 2. That its direction is right needs an
    assumption, as without f it must: that honest updates agree with each other on average, that is,
    that their cosines sum to more than what the faulty get from them. O(n^2 d) for the Gram matrix,
    O(n^2) a step, one weighted sum.

    Parameters
    ----------
    closeness : float
        Updates nearer than this fraction of the typical distance count as one; in [0, 1).
    saturation : float
        The quantile of the cosines between clients beyond which more agreement gains nothing; in
        (0, 1].
    full : float
        The fraction of the median trust from which on a client counts in full; in (0, 1].
    memory : float
        The weight of the last rounds in a client's trust; in [0, 1).
    longest : float
        An update's greatest length, in median lengths; at least 1.
    far : float
        The length, in median lengths, from which on an update counts for less, in proportion; at
        least ``longest``.
    directions : bool
        Remember directions over rounds, measure how alike data are, and leave out outliers by
        distance. False: each round's agreement and the memory of trust alone.
    neighbour : float
        With ``directions``, updates nearer than this fraction of the typical distance to the
        nearest other update count as one too; in [0, 1).
    """

    gram = True

    closeness: float = 0.1
    saturation: float = 0.5
    full: float = 0.5
    memory: float = 0.5
    longest: float = 2.0
    far: float = 4.0
    directions: bool = True
    neighbour: float = 0.33

    def __post_init__(self) -> None:
        for name in ("closeness", "memory", "neighbour"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"Robust needs {name} in [0, 1), found {getattr(self, name)}")
        for name in ("saturation", "full"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"Robust needs {name} in (0, 1], found {getattr(self, name)}")
        if not self.longest >= 1:
            raise ConfigError(f"Robust needs longest >= 1, found {self.longest}")
        if not self.far >= self.longest:
            raise ConfigError(f"Robust needs far >= longest = {self.longest}, found {self.far}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2, for the length of the result."""
        return (n - 1) // 2

    def filters(self, n: int) -> bool:
        """Return True for two or more updates: clients without trust are filtered."""
        return n > 1

    @property
    def remembers(self) -> bool:
        """True if it remembers directions, for which it needs a sample of the updates."""
        return self.directions

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the weights of the updates, from groups of near duplicates, trust and lengths."""
        assert measured.geometry is not None
        geometry = measured.geometry
        groups = near_duplicate_groups(
            geometry.squared_distances(), self.closeness, self.neighbour if self.directions else 0
        )
        voters = torch.zeros(len(groups), cohort.n, dtype=torch.float64)
        for vote, group in enumerate(groups):
            voters[vote, group] = 1 / len(group)
        products = voters @ geometry.products() @ voters.T
        lengths = products.diagonal().clamp(min=0).sqrt()
        cosines = torch.where(
            torch.outer(lengths, lengths) > 0, products / torch.outer(lengths, lengths), 0
        )
        vote_trust = trust(saturated_agreement(cosines.clamp(-1, 1), self.saturation))
        earned, kept = self._remembered(vote_trust @ (voters > 0).double(), cohort, state)
        typical = float(geometry.norms().median())
        trusted = self._trust_weights(voters @ earned)
        longest, said, diagnostics = self.longest, None, {}
        if self.directions:
            assert measured.sample is not None
            said = judge(measured.sample, voters.sum(dim=0), cohort, state.get("directions", {}))
            alike = _ramp(said.alike, UNALIKE, ALIKE) if cohort.n > 3 else 1.0
            trusted = alike * trusted + (1 - alike)
            longest = alike * longest + (1 - alike) * max(longest, UNALIKE_LENGTH)
            excluded, close = self._excluded(said, geometry.mixed(voters), voters)
            if bool((trusted[~excluded] > 0).any()):
                trusted = torch.where(excluded, 0.0, trusted)
            trusted = trusted * close
            diagnostics = {
                "alike": said.alike,
                "agreement": dict(zip(map(str, cohort.ids), said.agreement.tolist(), strict=True)),
                "opposed": [cohort.ids[i] for i in said.opposed.nonzero().flatten().tolist()],
                "patient": [cohort.ids[i] for i in said.patient.nonzero().flatten().tolist()],
            }
        shrink = shortening(lengths, longest * typical)
        weights = trusted * shortening(lengths, self.far * typical) if typical > 0 else trusted
        return Decision(
            mixing=(weights * shrink / weights.sum() @ voters)[None, :],
            filtered=(trusted == 0).double() @ voters > 0,
            diagnostics={
                "trust": dict(zip(map(str, cohort.ids), earned.tolist(), strict=True)),
                "outliers": cohort.n - int((trusted > 0).sum()),
                **diagnostics,
            },
            state={"trust": kept} if said is None else {"trust": kept, "directions": said.state},
        )

    def _excluded(
        self, said: Directions, geometry: Geometry, voters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the votes to leave out (m,) bool, less than half, and factors by closeness (m,).

        The factors are those of the geometric median where data are alike, else 1.
        """
        m = voters.shape[0]
        suspect = (voters @ (said.opposed | said.patient).double()) > 0.5
        ones = torch.ones(m, dtype=torch.float64)
        if m < 4:
            return suspect & False, ones
        weights = GeometricMedian().weights(geometry)[0]
        distances = geometry.squared_distances_to(weights).sqrt()
        ordered = distances.sort().values
        usual = float(ordered[m // 2])
        suspect |= distances > FAR_RATIO * usual
        if int(suspect.sum()) > (m - 1) // 2:  # a majority is no outlier: the farthest go
            order = distances.masked_fill(~suspect, -1).argsort(descending=True)
            suspect = torch.zeros(m, dtype=torch.bool)
            suspect[order[: (m - 1) // 2]] = True
        near = _ramp(said.alike, *CLOSE)
        by_distance = (usual / distances.clamp(min=1e-3 * usual)) if usual > 0 else ones
        return suspect, (1 - near) + near * by_distance / by_distance.max()

    def _remembered(
        self, now: Tensor, cohort: Cohort, state: State
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the clients' trust averaged over rounds (n,), and all known clients' by id."""
        past: dict[str, float] = dict(state.get("trust", {}))
        names = [str(client) for client in cohort.ids]
        before = torch.tensor(
            [past.get(name, float(t)) for name, t in zip(names, now, strict=True)],
            dtype=torch.float64,
        )
        earned = self.memory * before + (1 - self.memory) * now
        return earned, past | dict(zip(names, earned.tolist(), strict=True))

    def _trust_weights(self, earned: Tensor) -> Tensor:
        """Return a weight in [0, 1] for the trust of each vote; all 1 if the median is zero."""
        typical = float(earned.median())
        if typical > 0:
            return (earned / (self.full * typical)).clamp(max=1)
        return torch.ones_like(earned)


def _ramp(value: float, low: float, high: float) -> float:
    """Return 0 up to ``low``, 1 from ``high`` on, and linearly between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
