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
5. no update is longer than a multiple of the median length, and the weight of a far longer one
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
from hqde_fl.rules.near_duplicates import near_duplicate_groups
from hqde_fl.rules.results import Decision, Measured, State

MAX_STEPS = 100
"""Steps to the fixed point of trust, at most; it need not be exact."""

MAX_CHANGE = 1e-10
"""Change of trust in one step at which the iteration ends."""

TIE_RATIO = 1e-9
"""Support minus opposition below this fraction of the largest agreement is rounding error."""


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
    """

    gram = True

    closeness: float = 0.1
    saturation: float = 0.5
    full: float = 0.5
    memory: float = 0.5
    longest: float = 1.0
    far: float = 4.0

    def __post_init__(self) -> None:
        for name in ("closeness", "memory"):
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

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the weights of the updates, from groups of near duplicates, trust and lengths."""
        assert measured.geometry is not None
        geometry = measured.geometry
        groups = near_duplicate_groups(geometry.squared_distances(), self.closeness)
        voters = torch.zeros(len(groups), cohort.n, dtype=torch.float64)
        for vote, group in enumerate(groups):
            voters[vote, group] = 1 / len(group)
        products = voters @ geometry.products() @ voters.T
        lengths = products.diagonal().clamp(min=0).sqrt()
        cosines = torch.where(
            torch.outer(lengths, lengths) > 0, products / torch.outer(lengths, lengths), 0
        )
        vote_trust = trust(self._agreement(cosines.clamp(-1, 1)))
        earned, kept = self._remembered(vote_trust @ (voters > 0).double(), cohort, state)
        typical = float(geometry.norms().median())
        shrink = shortening(lengths, self.longest * typical)
        trusted = self._trust_weights(voters @ earned)
        weights = trusted * shortening(lengths, self.far * typical) if typical > 0 else trusted
        return Decision(
            mixing=(weights * shrink / weights.sum() @ voters)[None, :],
            filtered=(trusted == 0).double() @ voters > 0,
            diagnostics={
                "trust": dict(zip(map(str, cohort.ids), earned.tolist(), strict=True)),
                "outliers": cohort.n - int((trusted > 0).sum()),
            },
            state={"trust": kept},
        )

    def _agreement(self, cosines: Tensor) -> Tensor:
        """Return cosines (m, m) over their ``saturation`` quantile, in [-1, 1]; zero diagonal.

        If the quantile is not positive, the cosines are not divided.
        """
        m = cosines.shape[0]
        apart = ~torch.eye(m, dtype=torch.bool)
        typical = float(cosines[apart].quantile(self.saturation)) if m > 1 else 0.0
        agreement = (cosines / typical).clamp(-1, 1) if typical > 0 else cosines
        return agreement.clone().fill_diagonal_(0)

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


def trust(agreement: Tensor) -> Tensor:
    """Return the trust t (m,) >= 0, proportional to max(0, A t), with maximum 1.

    All zero if no vote has support from the others.

    Parameters
    ----------
    agreement : Tensor
        (m, m) float64, A.
    """
    t = torch.ones(agreement.shape[0], dtype=torch.float64)
    if abs(float((agreement @ t).max())) <= TIE_RATIO * float(agreement.abs().max()):
        # No client is supported more than opposed, some as much: start from their support.
        t = agreement.clamp(min=0).sum(dim=1)
        t = t / t.max().clamp(min=torch.finfo(t.dtype).tiny)
    for _ in range(MAX_STEPS):
        support = (agreement @ t).clamp(min=0)
        largest = float(support.max())
        if largest == 0:
            return torch.zeros_like(t)
        change = support / largest - t
        if float(change.abs().max()) < MAX_CHANGE:
            break
        t = t + change / 2  # a whole step may oscillate for ever
    return support / largest
