"""Agreement: a rule for somebody who does not know how many clients are faulty.

Robust rules ask for f, and most of them look at distances alone. Where clients' data differ, honest
updates lie far apart, and attackers who agree with each other are everybody's nearest neighbours.
What honest updates have in common even then is a direction. This rule looks at directions, and lets
no pair of clients gain more by agreeing than honest pairs do:

1. near copies of one update count as one client (``hqde_fl.rules.near_duplicates``);
2. a_ij = cos(x_i, x_j) / q, at most 1 and at least -1, where q is a quantile of all cosines: those
   who agree suspiciously well agree no better than that. a_ii = 0;
3. trust t, the fixed point of t = max(0, A t) up to scale, from all alike: whom the trusted agree
   with, remembered from round to round;
4. a client counts in full from a fraction of the median trust on, less below, not at all at zero;
5. no update is longer than a multiple of the median length, and one that was far longer counts the
   less, the longer it was: its direction may be that of one coordinate alone.

FoolsGold (Fung, Yoon and Beschastnikh, 2020, arXiv:1808.04866) lowers the weight of those who agree
too well in the same spirit; the trusted direction is that of ``Entanglement``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.clipping import shortening
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.near_duplicates import twin_groups
from hqde_fl.rules.results import Decision, Measured, State

STEPS = 100
"""Most steps to the fixed point of trust; it need not be exact."""

SETTLED = 1e-10

TIED = 1e-9
"""What of a difference of support and opposition is rounding, in units of the largest agreement."""


@dataclass(frozen=True)
class Robust(Rule):
    """Mean of the updates that agree with each other, none longer than is usual; f is not asked.

    The length of the result is bounded as long as f < n / 2. That its direction is right needs an
    assumption, as without f it must: that honest updates agree with each other on average, that is,
    that their cosines sum to more than what the faulty get from them. O(n^2 d) for the Gram matrix,
    O(n^2) a step, one weighted sum.

    Parameters
    ----------
    closeness : float
        Updates nearer than this fraction of the typical distance count as one; in [0, 1).
    saturation : float
        The quantile of the cosines between clients beyond which agreeing more is worth no more; in
        (0, 1].
    full : float
        The fraction of the median trust from which on a client counts in full; in (0, 1].
    memory : float
        The share of the last rounds in a client's trust; in [0, 1).
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
        """One update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Less than half, for the length of the result."""
        return (n - 1) // 2

    def filters(self, n: int) -> bool:
        """Return whether it rejects: clients that get no trust."""
        return n > 1

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Count copies once, find whom to trust, shorten, average."""
        assert measured.geometry is not None
        geometry = measured.geometry
        groups = twin_groups(geometry.squared_distances(), self.closeness)
        voters = torch.zeros(len(groups), cohort.n, dtype=torch.float64)
        for vote, group in enumerate(groups):
            voters[vote, group] = 1 / len(group)
        products = voters @ geometry.products() @ voters.T
        lengths = products.diagonal().clamp(min=0).sqrt()
        cosines = torch.where(
            torch.outer(lengths, lengths) > 0, products / torch.outer(lengths, lengths), 0
        )
        now = trust(self._agreement(cosines.clamp(-1, 1)))
        earned, kept = self._remembered(now @ (voters > 0).double(), cohort, state)
        usual = float(geometry.norms().median())
        shrink = shortening(lengths, self.longest * usual)
        trusted = self._shares(voters @ earned)
        shares = trusted * shortening(lengths, self.far * usual) if usual > 0 else trusted
        return Decision(
            mixing=(shares * shrink / shares.sum() @ voters)[None, :],
            rejected=(trusted == 0).double() @ voters > 0,
            diagnostics={
                "trust": dict(zip(map(str, cohort.ids), earned.tolist(), strict=True)),
                "outliers": cohort.n - int((trusted > 0).sum()),
            },
            state={"trust": kept},
        )

    def _agreement(self, cosines: Tensor) -> Tensor:
        """(m, m) what each pair of votes gains by agreeing."""
        m = cosines.shape[0]
        apart = ~torch.eye(m, dtype=torch.bool)
        usual = float(cosines[apart].quantile(self.saturation)) if m > 1 else 0.0
        agreement = (cosines / usual).clamp(-1, 1) if usual > 0 else cosines
        return agreement.clone().fill_diagonal_(0)

    def _remembered(
        self, now: Tensor, cohort: Cohort, state: State
    ) -> tuple[Tensor, dict[str, float]]:
        """Each client's trust over the rounds, and everybody's to keep."""
        past: dict[str, float] = dict(state.get("trust", {}))
        names = [str(client) for client in cohort.ids]
        before = torch.tensor(
            [past.get(name, float(t)) for name, t in zip(names, now, strict=True)],
            dtype=torch.float64,
        )
        earned = self.memory * before + (1 - self.memory) * now
        return earned, past | dict(zip(names, earned.tolist(), strict=True))

    def _shares(self, earned: Tensor) -> Tensor:
        """What each vote counts for, in [0, 1]; all alike where nobody agrees with anybody."""
        usual = float(earned.median())
        if usual > 0:
            return (earned / (self.full * usual)).clamp(max=1)
        return torch.ones_like(earned)


def trust(agreement: Tensor) -> Tensor:
    """(m,) t >= 0, the largest 1, with t proportional to max(0, A t); zero if nobody agrees."""
    found = torch.ones(agreement.shape[0], dtype=torch.float64)
    if abs(float((agreement @ found).max())) <= TIED * float(agreement.abs().max()):
        # Nobody is supported more than opposed, some as much: begin with who is supported most.
        found = agreement.clamp(min=0).sum(dim=1)
        found = found / found.max().clamp(min=torch.finfo(found.dtype).tiny)
    for _ in range(STEPS):
        support = (agreement @ found).clamp(min=0)
        most = float(support.max())
        if most == 0:
            return torch.zeros_like(found)
        change = support / most - found
        if float(change.abs().max()) < SETTLED:
            break
        found = found + change / 2  # a whole step may swing for ever
    return support / most
