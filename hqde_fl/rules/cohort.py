"""Who takes part in a round: all that a rule may know besides the updates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hqde_fl.errors import BoundError
from hqde_fl.seeding import Seeds


@dataclass(frozen=True)
class Cohort:
    """Who takes part in the round.

    Parameters
    ----------
    ids : tuple[int, ...]
        The clients, one for each row, in row order; stable over rounds.
    num_examples : tuple[float, ...] or None
        What each client says it trained on. Only rules with ``weighted=True`` look at it.
    faulty : int
        Clients without an update because their reply was rejected or because they failed. Only
        they can lower a rule's f, and only where the updates would be too few (``tolerance``).
    late : int
        Clients that did not answer in time. They never lower a rule's f: slow is not faulty.
    skipped : int
        Clients without data. They never lower a rule's f either.
    excused : int
        By how much every rule's f is lowered in this round; set by ``tolerance.admit``.
    round : int
        The round, for what a rule draws anew each time.
    seed : int
        Root of whatever a rule draws.
    confidence : tuple[float, ...] or None
        How far the server trusts each client, in [0, 1]. Only rules that say so
        (``confidence_from``) look at it.
    mass : tuple[float, ...] or None
        Inside a tree: the sum of the weights under each row. Only means look at it.
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
    mass: tuple[float, ...] | None = None

    @classmethod
    def of(cls, n: int) -> Cohort:
        """N anonymous clients."""
        return cls(tuple(range(n)))

    @property
    def n(self) -> int:
        """Updates that a rule will see."""
        return len(self.ids)

    @property
    def asked(self) -> int:
        """The number of clients that were asked for an update."""
        return self.n + self.faulty + self.late + self.skipped

    def remaining(self, f: int) -> int:
        """Return the number of faulty clients that a rule told f works with in this round."""
        return max(0, f - self.excused)

    def require(self, rule: str, minimum: int) -> None:
        """Raise ``BoundError`` unless there are at least ``minimum`` updates."""
        if self.n >= minimum:
            return
        counts = {
            "rejected or failed": self.faulty,
            "late": self.late,
            "without data": self.skipped,
        }
        lost = [f"{count} {what}" for what, count in counts.items() if count]
        asked = f" ({self.asked} asked, {', '.join(lost)})" if lost else ""
        raise BoundError(f"{rule} needs at least {minimum} updates, found {self.n}{asked}")

    def anonymous(self, n: int) -> Cohort:
        """The same round for n rows that no longer stand for one client each."""
        if n == self.n:
            return self
        return replace(self, ids=tuple(range(n)), num_examples=None, confidence=None, mass=None)

    def shuffled(self, purpose: str) -> list[int]:
        """All rows in a random order that depends on the round and the ids, not on the row order.

        Parameters
        ----------
        purpose : str
            What the order is for: different purposes get independent orders.
        """
        sorted_rows = sorted(range(self.n), key=lambda row: self.ids[row])
        order = Seeds(self.seed).numpy(purpose, self.round, self.n).permutation(self.n)
        return [sorted_rows[i] for i in order]
