"""How well a run told its faulty clients from the honest ones: a simulation knows who is who.

Precision, recall and F1 are about the decisions of the *rule*: whom it filtered, among those whose
updates it judged. What happened to the others (rejected by screening, failed, late, without data)
is counted beside it. To have crashed is not to have been detected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

UNJUDGED = ("rejected", "failed", "late", "skipped")
"""How the reason of a client begins whose update never reached the rule."""


@dataclass(frozen=True)
class Count:
    """Clients, each once for every round.

    Parameters
    ----------
    faulty, honest : int
        How many of either kind.
    """

    faulty: int = 0
    honest: int = 0

    @classmethod
    def of(cls, clients: Iterable[Mapping[str, Any]]) -> Self:
        """Count lines of ``clients.jsonl``."""
        faults = [bool(client["fault"]) for client in clients]
        return cls(sum(faults), len(faults) - sum(faults))

    def __add__(self, other: Count) -> Count:
        return Count(self.faulty + other.faulty, self.honest + other.honest)

    def __str__(self) -> str:
        return f"{self.faulty} / {self.honest}"


@dataclass(frozen=True)
class Detection:
    """What became of faulty and of honest clients, each counted once for every round.

    Parameters
    ----------
    asked : Count
        Who took part.
    judged : Count
        Those whose update the rule kept or filtered, if it is a rule that filters.
    filtered : Count
        Those of them that it filtered.
    unjudged : Mapping[str, Count]
        For each of ``UNJUDGED`` those to whom that happened.
    """

    asked: Count = Count()
    judged: Count = Count()
    filtered: Count = Count()
    unjudged: Mapping[str, Count] = field(default_factory=lambda: dict.fromkeys(UNJUDGED, Count()))

    @classmethod
    def of(cls, clients: Iterable[Mapping[str, Any]], filters: bool = True) -> Self:
        """Count lines of ``clients.jsonl``; clients without a partition id are left out.

        A round after which the model stayed as it was had no decision: nobody in it was judged.

        Parameters
        ----------
        clients : Iterable[Mapping[str, Any]]
            The lines; ``fault`` says what a client was told to do wrong in that round, if anything.
        filters : bool
            Whether the rule singles out clients. One that does not has judged nobody, except in
            rounds in which it singled somebody out: with fewer updates it may.
        """
        rounds: dict[int, list[Mapping[str, Any]]] = {}
        for each in clients:
            rounds.setdefault(each["round"], []).append(each)
        parts = [cls._of_round(lines, filters) for lines in rounds.values()]
        return cls.total(parts)

    @classmethod
    def _of_round(cls, lines: list[Mapping[str, Any]], filters: bool) -> Self:
        decided = any(each["kept"] for each in lines)
        lines = [each for each in lines if each["partition"] is not None]
        filtered = [each for each in lines if decided and _outcome(each) == "filtered"]
        kept = [each for each in lines if each["kept"]] if filters or filtered else []
        return cls(
            Count.of(lines),
            Count.of(kept) + Count.of(filtered),
            Count.of(filtered),
            {name: Count.of(e for e in lines if _outcome(e) == name) for name in UNJUDGED},
        )

    @classmethod
    def total(cls, parts: Iterable[Detection]) -> Self:
        """The counts of several runs, or rounds, together."""
        found = list(parts)
        return cls(
            sum((each.asked for each in found), Count()),
            sum((each.judged for each in found), Count()),
            sum((each.filtered for each in found), Count()),
            {name: sum((each.unjudged[name] for each in found), Count()) for name in UNJUDGED},
        )

    @property
    def faulty(self) -> int:
        """Faulty clients that took part."""
        return self.asked.faulty

    @property
    def honest(self) -> int:
        """Honest clients that took part."""
        return self.asked.honest

    @property
    def caught(self) -> int:
        """Faulty and filtered."""
        return self.filtered.faulty

    @property
    def false_alarms(self) -> int:
        """Honest and filtered."""
        return self.filtered.honest

    @property
    def precision(self) -> float | None:
        """Share of the filtered that were faulty; None if nobody was filtered."""
        everybody = self.caught + self.false_alarms
        return self.caught / everybody if everybody else None

    @property
    def recall(self) -> float | None:
        """Share of the faulty that were filtered; None if no faulty client was judged."""
        return self.caught / self.judged.faulty if self.judged.faulty else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if no faulty client was judged."""
        if not self.judged.faulty:
            return None
        return 2 * self.caught / (self.judged.faulty + self.caught + self.false_alarms)

    @property
    def alarm_rate(self) -> float | None:
        """Share of the honest that were filtered; None if no honest client was judged."""
        return self.false_alarms / self.judged.honest if self.judged.honest else None

    @property
    def occurring(self) -> tuple[str, ...]:
        """Those of ``UNJUDGED`` that happened to anybody."""
        return tuple(name for name in UNJUDGED if self.unjudged[name] != Count())

    def counts(self) -> dict[str, int]:
        """All counts, by the names that they have in files."""
        found = {
            "faulty": self.faulty,
            "honest": self.honest,
            "caught": self.caught,
            "false-alarms": self.false_alarms,
        }
        for name, count in {"judged": self.judged, **self.unjudged}.items():
            found |= {f"{name}-faulty": count.faulty, f"{name}-honest": count.honest}
        return found

    def to_line(self) -> dict[str, int | float | None]:
        """What a line of ``rounds.jsonl`` says of it."""
        return {**self.counts(), "precision": self.precision, "recall": self.recall}


def _outcome(client: Mapping[str, Any]) -> str:
    """The first word of a client's reason."""
    return str(client["reason"] or "").partition(":")[0]
