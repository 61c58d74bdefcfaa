"""The clients of a round: everything that a rule may know besides the updates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hqde_fl.errors import BoundError
from hqde_fl.rules.round_context import NO_CONTEXT, RoundContext
from hqde_fl.seeding import Seeds


@dataclass(frozen=True)
class Cohort:
    """The clients of one round, those without an update among them.

    Parameters
    ----------
    ids : tuple[int, ...]
        The clients, one for each row, in row order; stable over rounds.
    num_examples : tuple[float, ...] or None
        The number of examples that each client claims. Only rules with ``weighted=True`` use it.
    faulty : int
        Clients without an update because their reply was rejected or because they failed. Only
        they can lower a rule's f, and only if the updates would be too few (``tolerance``).
    late : int
        Clients that did not answer in time. They never lower a rule's f: slow is not faulty.
    skipped : int
        Clients without data. They never lower a rule's f either.
    excused : int
        By how much every rule's f is lowered in this round; set by ``apply_tolerance``.
    round : int
        The round, which seeds random choices.
    seed : int
        The run's seed.
    confidence : tuple[float, ...] or None
        The server's confidence in each client, in [0, 1], from the source that the rule's
        ``confidence_from`` names; only rules with one use it.
    group_weights : tuple[float, ...] or None
        Inside a tree: the sum of the weights under each row. Only means use it.
    context : RoundContext
        What the server knows of the round besides: its own update, the model's layers and weights.
        Only rules with ``needs`` use it.
    """

    ids: tuple[int, ...]
    num_examples: tuple[float, ...] | None = None
    faulty: int = 0
    late: int = 0
    skipped: int = 0
    excused: int = 0
    round: int = 0
    seed: int = 0
    confidence: tuple[float, ...] | None = None
    group_weights: tuple[float, ...] | None = None
    context: RoundContext = NO_CONTEXT

    @classmethod
    def of(cls, n: int) -> Cohort:
        """Return a cohort of n anonymous clients."""
        return cls(tuple(range(n)))

    @property
    def n(self) -> int:
        """The number of updates."""
        return len(self.ids)

    @property
    def requested(self) -> int:
        """The number of clients that were asked for an update."""
        return self.n + self.faulty + self.late + self.skipped

    def remaining(self, f: int) -> int:
        """Return f lowered by ``excused`` but not below 0: the f of a rule in this round."""
        return max(0, f - self.excused)

    def require(self, rule: str, minimum: int) -> None:
        """Raise ``BoundError`` naming the rule if there are fewer than ``minimum`` updates."""
        if self.n >= minimum:
            return
        counts = {
            "rejected or failed": self.faulty,
            "late": self.late,
            "without data": self.skipped,
        }
        lost = [f"{count} {what}" for what, count in counts.items() if count]
        requested = f" ({self.requested} asked, {', '.join(lost)})" if lost else ""
        raise BoundError(f"{rule} needs at least {minimum} updates, found {self.n}{requested}")

    def anonymous(self, n: int) -> Cohort:
        """Return this cohort if it has n rows, else one with ids 0 to n - 1 for no single clients.

        The new one has no numbers of examples, no confidence and no group weights.
        """
        if n == self.n:
            return self
        return replace(
            self, ids=tuple(range(n)), num_examples=None, confidence=None, group_weights=None
        )

    def shuffled(self, purpose: str) -> list[int]:
        """Return all rows in a random order that depends on round and ids, not on the row order.

        Parameters
        ----------
        purpose : str
            Names the order: different purposes get independent orders.
        """
        sorted_rows = sorted(range(self.n), key=lambda row: self.ids[row])
        order = Seeds(self.seed).numpy(purpose, self.round, self.n).permutation(self.n)
        return [sorted_rows[i] for i in order]
