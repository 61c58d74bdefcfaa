"""Adaptive: the clients' disagreement chooses one of three rules."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.density_matrix import density, entropy
from hqde_fl.rules.entanglement import Entanglement
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.rules.superposition import Superposition
from hqde_fl.rules.voting import Voting


@dataclass(frozen=True)
class Adaptive(Rule):
    """Entanglement, superposition or voting, by the entropy of the clients' density matrix.

    The uncertainty is the normalised von Neumann entropy of the even mixture of the updates'
    directions: 0 when all point the same way, 1 when all are orthogonal. Above ``high`` the clients
    are merged by entanglement, above ``low`` by superposition, otherwise by voting. A client counts
    for 1 / n in it whatever its length; f faulty ones can still raise it by adding f directions, or
    lower it by copying each other, so an attacker influences the choice of the rule, but each of
    the three tolerates what the others do.

    Tolerates what the least tolerant of the three does. O(n^2 d) for the Gram matrix, O(n^3) for
    its spectrum, one weighted sum.

    Parameters
    ----------
    high, low : float
        The uncertainties above which clients are merged by entanglement and by superposition.
    entanglement : Entanglement
        The rule for a high uncertainty.
    superposition : Superposition
        The rule for a medium uncertainty.
    voting : Voting
        The rule for a low uncertainty. By default on updates, which the Gram matrix decides at no
        extra cost.
    """

    gram = True

    high: float = 0.5
    low: float = 0.2
    entanglement: Entanglement = field(default_factory=Entanglement)
    superposition: Superposition = field(default_factory=Superposition)
    voting: Voting = field(default_factory=lambda: Voting(votes="updates"))

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ConfigError(
                f"Adaptive needs 0 <= low <= high <= 1, found low={self.low}, high={self.high}"
            )

    @property
    def confidence_from(self) -> str | None:
        """The source of the confidence that superposition needs; None if it needs none."""
        return self.superposition.confidence_from

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the least breakdown of the three rules."""
        return min(
            rule.breakdown(n) for rule in (self.entanglement, self.superposition, self.voting)
        )

    def filters(self, n: int) -> bool:
        """Return True if voting, or entanglement while ``high`` < 1, can filter among n updates."""
        return self.voting.filters(n) or (self.high < 1 and self.entanglement.filters(n))

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the decision of the rule that the entropy chooses, with that rule as its plan."""
        assert measured.geometry is not None
        uncertainty = entropy(density(measured.geometry))
        name, chosen = self._choose(uncertainty)
        decision = chosen.decide(measured, cohort, {})
        choice = {"adaptive-entropy": uncertainty, "adaptive-choice": name}
        return replace(decision, diagnostics={**decision.diagnostics, **choice}, plan=chosen)

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the chosen rule's result (c,) on a tile, and its counts (1, n)."""
        chosen: Rule = decision.plan
        return chosen.combine(tile, decision)

    def _choose(self, uncertainty: float) -> tuple[str, Rule]:
        if uncertainty > self.high:
            return "entanglement", self.entanglement
        if uncertainty > self.low:
            return "superposition", self.superposition
        return "voting", self.voting
